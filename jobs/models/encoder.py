"""A text encoder with a linear head, from pretrained weights or from a reference bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from configs.given import given
from configs.loader import UsageError
from configs.schema.models import TeacherSpec
from jobs.models.conv import ConvEncoder
from jobs.models.files import AGAIN, CONFIG, TEACHER, ModelFiles, files_of
from jobs.models.layers import build
from jobs.models.loading import config_of, load_weights
from jobs.models.pooling import pooling_field, pooling_of
from jobs.models.sharing import first_names, share_layers

COUNTED = ("bert", "electra")  # the position of a token is its place in the row, whatever stands there

WEIGHTS = "model.safetensors"
POOLING = "classifier_pooling"  # entry of a config: the pooling of a saved classifier
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class EncoderClassifier(nn.Module):
    """Token vectors of an encoder, pooled to one, dropped out, and scored for C classes."""

    def __init__(
        self, encoder: PreTrainedModel, pooling: str, classes: int | Sequence[float], dropout: float = 0.0
    ) -> None:
        """`classes`: their number, or the grades that they stand for (see `GradeHead`)."""
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # pyright: ignore[reportArgumentType] - BERT's tanh layer over CLS: trained for another task, unused here
        self.encoder = encoder
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        width = encoder.config.hidden_size
        self.head: Any = nn.Linear(width, classes) if isinstance(classes, int) else GradeHead(width, classes)
        self.has_types = getattr(encoder.config, "type_vocab_size", 0) > 1
        self.has_statistics = isinstance(encoder, ConvEncoder)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, C] of token ids [B, L] under a mask [B, L] of ones and zeros.

        `weight` [B] is for an encoder that `has_statistics` of its batch: 0 for a filler row.
        """
        return self.answer(self.tokens(input_ids, attention_mask, token_type_ids, weight), attention_mask)

    def tokens(
        self, input_ids: Tensor, mask: Tensor, token_type_ids: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Token vectors [B, L, H]; `mask` in any form that the encoder takes."""
        further = {"token_type_ids": token_type_ids} if self.has_types else {}
        further |= {"weight": weight} if self.has_statistics else {}
        further = {name: tensor for name, tensor in further.items() if tensor is not None}
        return self.encoder(input_ids=input_ids, attention_mask=mask, **further).last_hidden_state

    def answer(self, hidden_BLH: Tensor, mask_BL: Tensor) -> Tensor:
        """Logits [B, C] of token vectors."""
        return self.head(self.dropout(pool(hidden_BLH, mask_BL, self.pooling)))

    @property
    def classes(self) -> int | list[float]:
        """The number of classes, or the grades that they stand for."""
        return self.head.grades.tolist() if isinstance(self.head, GradeHead) else self.head.out_features

    def gradient_checkpointing_enable(self) -> None:
        """Compute the activations of each layer again in the backward pass."""
        self.encoder.gradient_checkpointing_enable()


class GradeHead(nn.Module):
    """One score for ordered classes: the logit of a class is minus the square of its distance from the score.

    So the nearest grade is the answer, and minus the logit of the label is the squared error of a linear regression.
    """

    def __init__(self, width: int, grades: Sequence[float]) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)
        nn.init.constant_(self.score.bias, sum(grades) / len(grades))
        self.register_buffer("grades", torch.tensor(grades, dtype=torch.float32))
        self.grades: Tensor

    def forward(self, pooled_BH: Tensor) -> Tensor:
        """Logits [B, C] of the grades, in the weights' own type even under autocast: 8 bits tell few grades apart."""
        device = pooled_BH.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._logits(pooled_BH)
        return self._logits(pooled_BH)

    def _logits(self, pooled_BH: Tensor) -> Tensor:
        score_B1 = self.score(pooled_BH.to(self.score.weight.dtype))
        return -((score_B1 - self.grades) ** 2)


def pool(hidden_BLH: Tensor, mask_BL: Tensor, pooling: str) -> Tensor:
    """One vector [B, H] of the token vectors under a mask: their `mean`, or the first (`cls`)."""
    if pooling == "cls":
        return hidden_BLH[:, 0]
    mask_BL1 = mask_BL.unsqueeze(-1).to(hidden_BLH.dtype)
    return (hidden_BLH * mask_BL1).sum(1) / mask_BL1.sum(1)


def grades_of(labels: Sequence[str]) -> list[float]:
    """The numbers that class names stand for. Raises `UsageError` for a name that is no number."""
    grades = []
    for label in labels:
        try:
            grades.append(float(label))
        except ValueError:
            grades.append(math.nan)
        if not math.isfinite(grades[-1]):
            raise UsageError(f"teacher.head: 'grades' needs labels that are numbers; {label!r} is none; use classes")
    return grades


def pretrained(spec: TeacherSpec, labels: Sequence[str]) -> EncoderClassifier:
    """The encoder of `spec.model` under a new head for `labels`, see `from_pretrained`."""
    classes = grades_of(labels) if spec.head == "grades" else len(labels)
    return from_pretrained(spec.model, spec.pooling, classes, spec.dropout)


def from_pretrained(
    model: str, pooling: str, classes: int | Sequence[float], dropout: float, field: str = TEACHER
) -> EncoderClassifier:
    """A pretrained encoder in float32 under a new head; the loader never runs code from the model.

    Raises `UsageError`, naming `field`, where it cannot be loaded.
    """
    files = files_of(model, field)
    encoder = body(files)
    chosen = pooling_of(files.folder, pooling, encoder.config, pooling_field(field))
    return EncoderClassifier(encoder, chosen, classes, dropout)


def body(files: ModelFiles, dtype: torch.dtype | str = torch.float32) -> PreTrainedModel:
    """The encoder of a model, without a head; of a classifier that was saved here, too. Raises `UsageError`."""
    if files.bundle is None or POOLING not in files.config:
        return load_weights(AutoModel, files, dtype)
    with given(files.at, AGAIN):
        return load(files.folder).encoder


def check_pooling(model: str, asked: str, field: str = TEACHER) -> None:
    """Raise `UsageError` where the pooling of the model that `field` names cannot be told, or is none of ours."""
    pooling_of(files_of(model, field).folder, asked, config_of(model, field), pooling_field(field))


def save(model: EncoderClassifier, folder: Path) -> None:
    """Write weights as safetensors, each once, and the encoder's config, with pooling, for `load`."""
    from safetensors.torch import save_file

    config = model.encoder.config.to_dict() | {
        POOLING: model.pooling,
        "dtype": "float32",
    }
    config.pop("transformers_version", None)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")
    first = first_names(model)
    weights = {
        name: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if first[name] == name
    }
    save_file(weights, folder / WEIGHTS)


def load(folder: Path, dropout: float = 0.0) -> EncoderClassifier:
    """The model that `save` wrote, in float32 and eval mode."""
    from safetensors.torch import load_file

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    weights = load_file(folder / WEIGHTS)
    classes = weights["head.grades"].tolist() if "head.grades" in weights else len(weights["head.bias"])
    model = from_config(config, getattr(config, POOLING), classes, dropout)
    model.load_state_dict(weights | {name: weights[at] for name, at in first_names(model).items() if at in weights})
    return model.eval()


def from_config(
    config: PreTrainedConfig, pooling: str, classes: int | Sequence[float], dropout: float
) -> EncoderClassifier:
    """An encoder with new weights and layers of the sizes in `config`, see `layers.build`; shared if it says so."""
    encoder = build(config)
    if getattr(config, "share_layers", False):
        share_layers(encoder)
    return EncoderClassifier(encoder, pooling, classes, dropout)


def graph_inputs(model: EncoderClassifier, pairs: bool) -> list[str]:
    """Inputs of the exported graph; types are all zero for single texts and left out."""
    return ["input_ids", "attention_mask"] + (["token_type_ids"] if pairs and model.has_types else [])

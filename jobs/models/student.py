"""Students: the models that learn from the teacher."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from configs.given import given
from configs.loader import UsageError
from configs.schema.models import StudentSpec
from jobs.models import decoder, encoder
from jobs.models.conv import ConvConfig, principal
from jobs.models.decoder import Decoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import LAYERS, build, has_own_sizes, keep_layers, layers_name, layers_of, set_sizes, sizes_of
from jobs.models.narrow import narrow, resized, smaller
from jobs.models.sharing import share_layers

STUDENT = "student.model"
DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop"),
)


def check_student(config: PreTrainedConfig, spec: StudentSpec) -> None:
    """Raise `UsageError` where a teacher of `config` cannot have the student of `spec`, as far as configs show."""
    if spec.kind == "layers":
        choose_layers(spec.layers, config.num_hidden_layers)
        if spec.sizes:
            smaller(config, spec.sizes)
        else:
            _check_layers(config, spec)
    elif spec.kind == "new":
        resized(config, spec.sizes)
    elif spec.kind == "conv" and spec.hidden:
        _refuse_wider(spec.hidden, getattr(config, "embedding_size", config.hidden_size))


def _check_layers(config: PreTrainedConfig, spec: StudentSpec) -> None:
    """Build teacher and student without memory for their weights, and see whether the layers fit."""
    with torch.device("meta"):
        teacher = build(config)
        changed, weights = _chosen(teacher, spec)
        with given(
            f"student.layers: {spec.layers}", f"give student.model, or a {config.model_type} whole", "impossible"
        ):
            student = build(type(changed).from_dict(changed.to_dict()))  # as it is read again
        _fill(student, weights, spec)


def encoder_student(teacher: EncoderClassifier, spec: StudentSpec) -> EncoderClassifier:
    """The student of `spec`, for the classes of the teacher. Raises `UsageError` where that teacher cannot have it."""
    build = {
        "layers": _layers_student,
        "new": _new_student,
        "conv": _conv_student,
        "pretrained": _pretrained_student,
    }[spec.kind]
    return build(teacher, spec)


def _layers_student(teacher: EncoderClassifier, spec: StudentSpec) -> EncoderClassifier:
    """Some layers of the teacher, with its embeddings and head (as DistilBERT is started, arXiv 1910.01108).

    `narrow` keeps the parts that weigh most where `spec` gives sizes.
    """
    config, chosen = _chosen(teacher.encoder, spec)
    weights = {f"encoder.{name}": weight for name, weight in chosen.items()}
    weights |= {f"head.{name}": weight for name, weight in teacher.head.state_dict().items()}
    if spec.sizes:
        config, weights = narrow(config, weights, f"encoder.{LAYERS[config.model_type]}", spec.sizes)
    student = encoder.from_config(config, teacher.pooling, teacher.classes, spec.dropout)
    _fill(student, weights, spec)
    if spec.share_layers:
        share_layers(student.encoder)
    return student


def _new_student(teacher: EncoderClassifier, spec: StudentSpec) -> EncoderClassifier:
    """The teacher's kind of encoder in the sizes of `spec`, with new weights."""
    assert isinstance(spec.layers, int)
    config = resized(teacher.encoder.config, spec.sizes)
    config.num_hidden_layers = spec.layers
    student = encoder.from_config(_own(config, spec), teacher.pooling, teacher.classes, spec.dropout)
    if spec.share_layers:
        share_layers(student.encoder)
    return student


def _conv_student(teacher: EncoderClassifier, spec: StudentSpec) -> EncoderClassifier:
    """Convolutions over the teacher's token embeddings, which are projected on their first principal axes."""
    assert isinstance(spec.layers, int)
    tokens_VH = _tokens(teacher)
    vocabulary, width = tokens_VH.shape
    hidden = spec.hidden or width
    _refuse_wider(hidden, width)
    config = ConvConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=spec.layers, kernel_size=spec.kernel
    )
    student = encoder.from_config(_own(config, spec), "mean", teacher.classes, spec.dropout)
    _tokens(student).copy_(principal(tokens_VH, hidden))
    return student


def _refuse_wider(hidden: int, width: int) -> None:
    if hidden > width:
        raise UsageError(f"student.hidden: {hidden}: the teacher's token embeddings have {width}; give at most that")


def _tokens(model: EncoderClassifier) -> Tensor:
    """The token embeddings [V, H] without their gradient."""
    tokens: Any = model.encoder.get_input_embeddings()
    return tokens.weight.detach()


def _pretrained_student(teacher: EncoderClassifier, spec: StudentSpec) -> EncoderClassifier:
    """Another pretrained encoder under a new head."""
    assert spec.model is not None
    student = encoder.from_pretrained(spec.model, spec.pooling, teacher.classes, spec.dropout, STUDENT)
    _drop(student, spec.dropout)
    return student


def pretrained_decoder(spec: StudentSpec, max_length: int) -> Decoder:
    """Another pretrained decoder, of the teacher's tokens."""
    assert spec.model is not None
    student = decoder.from_pretrained(spec.model, max_length, STUDENT)
    _drop(student, spec.dropout)
    return student


def _drop(model: nn.Module, share: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share


def decoder_student(teacher: Decoder, spec: StudentSpec) -> Decoder:
    """Some layers of the teacher, with its embeddings, norm and scores; narrower where `spec` gives sizes."""
    config, weights = _chosen(teacher.lm, spec)
    if spec.sizes:
        config, weights = narrow(config, weights, layers_name(teacher.lm), spec.sizes)
    student = decoder.from_config(config)
    _fill(student.lm, weights, spec)
    return student


def _chosen(teacher: PreTrainedModel, spec: StudentSpec) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
    """Config and weights of a model of the chosen layers."""
    config, weights = of_layers(teacher, choose_layers(spec.layers, teacher.config.num_hidden_layers))
    return _own(config, spec), weights


def of_layers(model: PreTrainedModel, chosen: Sequence[int]) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
    """Config and weights of a model of some of the layers of `model`, in the order of `chosen`."""
    config, path = copy.deepcopy(model.config), layers_name(model)
    if has_own_sizes(config):
        sizes = sizes_of(config)
        set_sizes(config, [sizes[index] for index in chosen])
    keep_layers(config, chosen)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(f"{path}.")}
    layers = layers_of(model)
    for new, old in enumerate(chosen):
        weights |= {f"{path}.{new}.{name}": tensor for name, tensor in layers[old].state_dict().items()}
    return config, weights


def _own(config: PreTrainedConfig, spec: StudentSpec) -> PreTrainedConfig:
    """`config` without what is the teacher's alone: its shared layers, and its dropout.

    The student's dropout stands in all places: the teacher's outputs are noise enough.
    """
    vars(config).pop("share_layers", None)  # not an entry that transformers knows
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, spec.dropout)
    return config


def _fill(student: nn.Module, weights: dict[str, Tensor], spec: StudentSpec) -> None:
    try:
        student.load_state_dict(weights)
    except RuntimeError:  # ModernBERT's first layer has no norm before its attention, the others have one
        raise UsageError(
            f"student.layers: {spec.layers}: the teacher's layers do not fit in these places; keep layer 0 first"
        ) from None


def choose_layers(asked: int | list[int], count: int) -> list[int]:
    """Indices of the teacher's layers: the given ones, or a number of them evenly spaced from first to last.

    3 of 6 are 0, 2, 5; 2 of 6 are 0, 5; one is the first.
    """
    if isinstance(asked, int):
        if asked > count:
            raise UsageError(f"student.layers: {asked} layers asked, the teacher has {count}")
        return [round(index * (count - 1) / max(1, asked - 1)) for index in range(asked)]
    if not asked or max(asked) >= count or len(set(asked)) != len(asked):
        raise UsageError(f"student.layers: {asked}: give different indices from 0 to {count - 1}")
    return list(asked)

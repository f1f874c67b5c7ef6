"""A causal language model, from pretrained weights, from new ones, or from a reference bundle."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from configs.loader import UsageError
from configs.schema.models import NEW, NewModelSpec, TeacherSpec
from jobs.models.files import TEACHER, check_length, files_of
from jobs.models.loading import config_of, load_weights, longest
from serving.inputs import TOKENS_PER_BATCH, cut

INPUTS = ("input_ids", "position_ids")
PROBED = (7, 5)  # tokens of two texts
LEAKS = 1e-4  # float32 alone differs by 1e-6; the least of 9 families that leak, with random weights, by 1.4e-3


class Decoder(nn.Module):
    """Scores of the next token at every place of a row; a row may hold several texts, one after the other."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm
        self.lm.generation_config = GenerationConfig()  # a model's own may penalise repetition: not greedy

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Logits [B, L, V] of token ids [B, L]; a position of 0 starts a text, which sees nothing before it."""
        return self.lm(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits

    @property
    def head(self) -> nn.Module:
        """The layer that scores the tokens; it may share its weights with their embeddings."""
        head = self.lm.get_output_embeddings()
        assert head is not None
        return head

    @property
    def vocabulary(self) -> int:
        """Number of tokens that are scored, V."""
        head: Any = self.head
        return head.weight.shape[0]

    def gradient_checkpointing_enable(self) -> None:
        """Compute the activations of each layer again in the backward pass."""
        self.lm.gradient_checkpointing_enable()


def leak(model: Decoder) -> float:
    """What texts that share a row change of one another's logits, as a share of the largest logit.

    Of two short texts. It is `LEAKS` or more where a model does not mask by positions, as with OPT, or cannot, as with
    Mamba, whose state runs on through the row.
    """
    size: Any = model.lm.get_input_embeddings()
    ids_1L = torch.randint(size.num_embeddings, (1, sum(PROBED)), generator=torch.Generator().manual_seed(0))
    positions_1L = torch.cat([torch.arange(length) for length in PROBED]).unsqueeze(0)
    ids_1L, positions_1L = (each.to(model.lm.device) for each in (ids_1L, positions_1L))
    was_training = model.training
    model.eval()
    with torch.no_grad():  # not in inference mode, whose tensors a model may keep for training
        both = model(ids_1L, positions_1L)
        parts = zip(ids_1L.split(PROBED, 1), positions_1L.split(PROBED, 1), strict=True)
        alone = torch.cat([model(*part) for part in parts], dim=1)
    model.train(was_training)
    return float((both - alone).abs().max() / alone.abs().max())


def pretrained(spec: TeacherSpec, vocabulary: int, max_length: int, end: int) -> Decoder:
    """The model of `spec.model` in float32, or a new one for `vocabulary` tokens of which `end` ends a text.

    The loader never runs code from the model. Raises `UsageError` where it cannot be loaded or is too short.
    """
    if spec.model.startswith(NEW):
        return from_config(new_config(spec.model.removeprefix(NEW), spec.new, vocabulary, max_length, end))
    return from_pretrained(spec.model, max_length)


def from_pretrained(model: str, max_length: int, field: str = TEACHER) -> Decoder:
    """The model that `field` names, in float32. Raises `UsageError` where it cannot be loaded or is too short."""
    files = files_of(model, field)
    lm = load_weights(AutoModelForCausalLM, files)
    check_length(files, longest(lm), max_length)
    return Decoder(lm)


def end_of(model: str, field: str = TEACHER) -> int:
    """The end token of a model, given as folder, bundle folder or Hub id. Raises `UsageError` where it has none."""
    end = config_of(model, field).eos_token_id
    if isinstance(end, list):
        end = end[0]
    if end is None:
        raise UsageError(f"{field}: {model}: its config names no eos_token_id, so no text would ever end")
    return end


def new_config(kind: str, spec: NewModelSpec, vocabulary: int, max_length: int, end: int) -> PreTrainedConfig:
    """Config of a decoder of the given sizes; feed-forward layers are 4 times as wide (8/3 where they are gated)."""
    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "max_position_embeddings": max_length,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": spec.tied,
    }
    if kind == "gpt2":
        return AutoConfig.for_model("gpt2", n_embd=spec.hidden, n_layer=spec.layers, n_head=spec.heads, **common)
    return AutoConfig.for_model(
        kind,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        intermediate_size=-(-8 * spec.hidden // 3 // 32) * 32,
        **common,
    )


def from_config(config: PreTrainedConfig) -> Decoder:
    """A decoder with new weights."""
    return Decoder(AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False))


class Draws(NamedTuple):
    """What takes the place of the likeliest token: one that is drawn from the model's distribution."""

    numbers: Sequence[np.ndarray]  # for each prompt one for each token, even over [0, 1)
    known: int  # tokens to draw from, the first of the table

    def tokens(self, prompts: Sequence[int], place: int, scores_BV: Tensor) -> Tensor:
        """Tokens [B] of the completions of `prompts` at a place, by the inverse of the cumulative distribution."""
        number_B = torch.tensor([float(self.numbers[index][place]) for index in prompts], dtype=torch.float64)
        upto_BV = scores_BV[:, : self.known].double().softmax(-1).cumsum(-1)
        below_B1 = number_B.to(scores_BV.device).unsqueeze(1) * upto_BV[:, -1:]
        return (upto_BV <= below_B1).sum(-1).clamp(max=self.known - 1)


def complete(
    model: Decoder, prompts: Sequence[list[int]], max_length: int, end: int, least: int = 0, draws: Draws | None = None
) -> list[list[int]]:
    """Completions of prompts (token ids), in order, without the `end`; a text has `max_length` tokens at most.

    They are greedy, or drawn by `draws`; before `least` tokens none is ended. Prompts of like length are completed
    together.
    """
    completed: list[list[int]] = [[] for _ in prompts]
    with torch.no_grad():  # not in inference mode, as in `leak`
        for chosen in cut([len(ids) for ids in prompts], TOKENS_PER_BATCH):
            for place, rows, scores_BV in _scores(model.lm, prompts, chosen, completed, max_length, end):
                if place < least:
                    scores_BV[:, end] = -torch.inf
                token_B = draws.tokens(rows, place, scores_BV) if draws else scores_BV.argmax(-1)
                for index, token in zip(rows, token_B.tolist(), strict=True):
                    completed[index].append(token)
    return [ids[:-1] if ids[-1] == end else ids for ids in completed]


def _scores(
    lm: Any, prompts: Sequence[list[int]], chosen: Sequence[int], completed: Sequence[list[int]], most: int, end: int
) -> Iterator[tuple[int, list[int], Tensor]]:
    """(place, rows, scores [B, V]) of the next token of those of the `chosen` prompts that are not complete.

    Whoever takes them appends a token for each row to what is `completed`. A row leaves the batch with its `end`, or
    when its text has `most` tokens. Prompts are padded on the left.
    """
    rows, width = list(chosen), max(len(prompts[index]) for index in chosen)
    padding = [width - len(prompts[index]) for index in rows]
    padded = [[0] * pad + prompts[index] for pad, index in zip(padding, rows, strict=True)]
    ids_BL = torch.tensor(padded, device=lm.device)
    mask_BL = (torch.arange(width)[None] >= torch.tensor(padding)[:, None]).long().to(lm.device)
    position_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(lm.forward).parameters else {}
    cache, unread = None, slice(None)
    for place in itertools.count():
        new = {"input_ids": ids_BL[:, unread], "position_ids": position_BL[:, unread]}
        said = lm(**new, attention_mask=mask_BL, past_key_values=cache, use_cache=True, **last)
        if (cache := getattr(said, "past_key_values", None)) is not None:  # Mamba has a state, and reads all once more
            unread = slice(-1, None)
        yield place, rows, said.logits[:, -1].float()
        token_B = [completed[index][-1] for index in rows]
        texts = [len(prompts[index]) + place + 1 for index in rows]
        left = [at for at, (token, text) in enumerate(zip(token_B, texts, strict=True)) if token != end and text < most]
        if not left:
            return
        if len(left) < len(rows):
            rows, ids_BL, mask_BL, position_BL = (
                [rows[at] for at in left],
                ids_BL[left],
                mask_BL[left],
                position_BL[left],
            )
            if cache is not None:
                cache.batch_select_indices(torch.tensor(left, device=lm.device))
        token_B1 = torch.tensor([[token_B[at]] for at in left], device=lm.device)
        ids_BL = torch.cat([ids_BL, token_B1], dim=1)
        mask_BL = torch.cat([mask_BL, torch.ones_like(token_B1)], dim=1)
        position_BL = torch.cat([position_BL, position_BL[:, -1:] + 1], dim=1)


def save(model: Decoder, folder: Path) -> None:
    """Write an ordinary transformers folder, in float32, for `load`."""
    lm: Any = model.lm
    lm.to(device="cpu", dtype=torch.float32).save_pretrained(folder)


def load(folder: Path) -> Decoder:
    """The model that `save` wrote, in float32 and eval mode."""
    return Decoder(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)).eval()


def graph_inputs(model: Decoder, pairs: bool) -> list[str]:
    """Inputs of the exported graph: token ids, and which of them are padding."""
    return ["input_ids", "attention_mask"]

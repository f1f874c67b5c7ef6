"""The inspection of a given model before anything runs: first its files, then the model itself.

It is the same for a teacher, a student and a bundle. A check is a function of what is known; each table is gone through
in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from configs.given import given
from configs.schema.recipe import Recipe
from jobs.models.files import ModelFiles, Needs, check_files, check_ids, check_length, files_of, refuse_kind

ENCODER, DECODER, BOTH, OTHER = "encoder", "decoder", "encoder-decoder", "model of more than text"
SAME = 1e-4  # of the largest score: rounding
PROBE = 8  # tokens of the rows that a model must read


@dataclass(frozen=True)
class Given:
    """A given model as far as it is known; what must be loaded is loaded when a check asks for it."""

    files: ModelFiles
    needs: Needs

    @cached_property
    def config(self) -> Any:
        """The config as transformers understands it."""
        from jobs.models.loading import read_config

        return read_config(self.files)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer as rows are cut with it."""
        from jobs.models.loading import tokenizer_of

        return tokenizer_of(self.files)

    @cached_property
    def model(self) -> Any:
        """The model under its weights, in the precision that they are stored in."""
        from jobs.models import encoder
        from jobs.models.loading import load_weights

        if not self.needs.writes:
            return encoder.body(self.files, "auto").eval()
        from transformers import AutoModelForCausalLM

        return load_weights(AutoModelForCausalLM, self.files, "auto").eval()


def inspect(model: str, field: str, recipe: Recipe) -> None:
    """Raise `UsageError` where the model that `field` of the recipe names cannot do the recipe's task."""
    task = recipe.judged_by
    needs = Needs(recipe.data.max_length, task.model_kinds, writes=not task.labelled)
    files = files_of(model, field)
    check_files(files, needs)
    known = Given(files, needs)
    from jobs.models.loading import silent  # from here on torch is needed

    with silent():
        for check in CHECKS:
            check(known)


def kind_of(config: Any) -> str:
    """`ENCODER`, `DECODER` (a token sees only those before it), `BOTH` or `OTHER`."""
    from jobs.models.loading import is_decoder

    if getattr(config, "is_encoder_decoder", False):
        return BOTH
    if config.get_text_config() is not config:
        return OTHER
    return DECODER if is_decoder(config) else ENCODER


def _is_of_a_known_kind(known: Given) -> None:
    if (kind := kind_of(known.config)) not in known.needs.kinds:
        raise refuse_kind(known.files, known.config.model_type, kind, known.needs)


def _has_a_row_for_every_token(known: Given) -> None:
    table = known.model.get_input_embeddings()
    check_ids(known.files, known.tokenizer, table.weight.shape[0], known.needs)


def _has_positions(known: Given) -> None:
    from jobs.models.loading import longest

    check_length(known.files, longest(known.model), known.needs.max_length)


def _is_made_of_numbers(known: Given) -> None:
    import torch

    for name, weight in known.model.named_parameters():
        if not torch.isfinite(weight).all():
            raise known.files.refusal(
                f"{name} holds values that are no numbers (NaN or infinite)",
                "a run that overflowed saves such weights: give an earlier checkpoint",
            )


def _reads(known: Given) -> None:
    """It gives a vector, or scores, for every token; one that writes does not look at later tokens."""
    import torch

    ids = torch.zeros(2, PROBE, dtype=torch.long)
    ids[1, -1] = known.model.get_input_embeddings().weight.shape[0] - 1
    with given(known.files.at, "give a model of another family", "cannot read a text"), torch.inference_mode():
        out = known.model(input_ids=ids, attention_mask=torch.ones_like(ids))
        tokens = (out.logits if known.needs.writes else out.last_hidden_state).float()
    if tokens.shape[:2] != ids.shape:
        raise known.files.refusal(f"{known.config.model_type} gives no vector for every token", "give another model")
    before = tokens[:, : PROBE - 1]
    if known.needs.writes and (before[0] - before[1]).abs().max() > SAME * before.abs().max():
        raise known.files.refusal(
            f"{known.config.model_type} looks at later tokens, so it cannot write one after the other",
            "give a decoder model",
        )


CHECKS: tuple[Callable[[Given], None], ...] = (
    _is_of_a_known_kind,
    _has_a_row_for_every_token,
    _has_positions,
    _is_made_of_numbers,
    _reads,
)

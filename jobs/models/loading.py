"""Config, tokenizer and weights of a given model, of which nothing may be missing: transformers would make it up."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

import jobs.models.conv  # noqa: F401 - registers its config
from configs.given import given
from jobs.models.files import AGAIN, CONFIG, TEACHER, TOKENIZER, ModelFiles, files_of

UNUSED = "pooler."  # BERT's tanh layer over the first token, which no model here keeps


def load_weights(kind: Any, files: ModelFiles, dtype: torch.dtype | str = torch.float32) -> PreTrainedModel:
    """The model of a folder by an Auto class, `kind`; the loader never runs code from it.

    Raises `UsageError` where it cannot be loaded, or lacks weights of its body: transformers would draw new ones. A
    head may be new.
    """
    with silent(), given(files.at, "give a model's folder as transformers saved it", "cannot be loaded"):
        model, told = kind.from_pretrained(
            files.folder, dtype=dtype, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
    if differing := sorted(told["mismatched_keys"]):
        name, stored, built = differing[0]
        raise files.refusal(
            f"{name} is {_size(stored)} in the file and {_size(built)} by config.json ({len(differing)} such weights)",
            AGAIN,
        )
    if missing := sorted(name for name in told["missing_keys"] if not _is_head(model, name)):
        raise files.refusal(
            f"{len(missing)} weights of {type(model).__name__} are missing, as {missing[0]}",
            _remedy(missing, told["unexpected_keys"]),
        )
    return model


@contextmanager
def silent() -> Iterator[None]:
    """Without the loader's bars and its report of names, of which a refusal says what matters."""
    before, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        if bars:
            transformers.logging.enable_progress_bar()


def _is_head(model: PreTrainedModel, name: str) -> bool:
    head = model.get_output_embeddings()
    heads = [module for module, each in model.named_modules() if each is head]
    return UNUSED in name or any(name.startswith(f"{each}.") for each in heads)


def _remedy(missing: Collection[str], unexpected: Collection[str]) -> str:
    """How the names of the file become those of the model, where they differ by what stands before them."""
    for name in sorted(unexpected):
        for wanted in missing:
            if name.endswith(f".{wanted}"):
                before = name.removesuffix(wanted)
                return f"in the file they begin with {before!r}: save the model inside (model.module, or its body)"
    return "save the whole model with save_pretrained, adapters merged"


def _size(shape: Any) -> str:
    return " x ".join(map(str, shape))


def load_tokenizer(model: str, field: str = TEACHER) -> Tokenizer:
    """The tokenizer of the model that `field` names; see `tokenizer_of`."""
    return tokenizer_of(files_of(model, field))


def tokenizer_of(files: ModelFiles) -> Tokenizer:
    """The fast tokenizer of a model, without padding or truncation. Raises `UsageError`."""
    if files.bundle is not None:
        with given(files.at, AGAIN):
            tokenizer: Any = Tokenizer.from_file(str(files.folder / files.bundle.tokenizer))
    else:
        tokenizer = _converted(files)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def chat_template_of(model: str, field: str = TEACHER) -> str | None:
    """The chat template of a model's tokenizer, with its special tokens written out; None where it has none.

    Raises `UsageError`.
    """
    files = files_of(model, field)
    if files.bundle is not None:
        name = files.bundle.chat_template
        return name and (files.folder / name).read_text(encoding="utf-8")
    with given(f"{files.at}: its tokenizer", f"save it with the installed transformers, as {TOKENIZER}"):
        made: Any = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)
        template = made.get_chat_template() if made.chat_template else None
        named = {name: token for name, token in made.special_tokens_map.items() if isinstance(token, str)}
    if template is None:
        return None
    return "".join(f"{{%- set {name} = {json.dumps(token)} -%}}" for name, token in sorted(named.items())) + template


def _converted(files: ModelFiles) -> Any:
    """The tokenizer as transformers reads it, of whole files alone: it would make up what is missing."""
    with given(f"{files.at}: its tokenizer", f"save it with the installed transformers, as {TOKENIZER}"):
        made = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)
        backend = getattr(made, "backend_tokenizer", None)
    needed = {name for name in made.vocab_files_names.values() if name != TOKENIZER}
    missing = sorted(name for name in needed if not (files.folder / name).exists())
    if not (files.folder / TOKENIZER).exists() and (missing or not needed):
        raise files.refusal(
            f"holds no {TOKENIZER}, and of what a {type(made).__name__} is made of not {' and '.join(missing)}",
            "save the tokenizer that the model was trained with into the folder",
        )
    if backend is None:
        raise files.refusal(f"its tokenizer ({type(made).__name__}) has no {TOKENIZER} form", "give another model")
    return files.tokenizer if files.tokenizer and _has_more_tokens(backend, files) else backend


def _has_more_tokens(backend: Tokenizer, files: ModelFiles) -> bool:
    """Whether the class of a tokenizer added special tokens, usual for its kind, that the model has no row for."""
    assert files.tokenizer is not None
    own, rows = files.tokenizer.get_vocab(), files.config.get("vocab_size")
    added = [number for token, number in backend.get_vocab().items() if token not in own]
    return isinstance(rows, int) and max(added, default=-1) >= rows


def config_of(model: str, field: str = TEACHER) -> PreTrainedConfig:
    """The config of a model. Raises `UsageError`, naming `field`, where it cannot be loaded."""
    return read_config(files_of(model, field))


def read_config(files: ModelFiles) -> PreTrainedConfig:
    """The config of a folder as transformers understands it. Raises `UsageError`."""
    with given(f"{files.at}: {CONFIG}", "give a model that the installed transformers knows"):
        return AutoConfig.from_pretrained(files.folder, trust_remote_code=False)


def is_decoder(config: PreTrainedConfig) -> bool:
    """Whether a token sees only those before it."""
    if getattr(config, "is_decoder", False):
        return True
    if getattr(config, "use_bidirectional_attention", False) or getattr(config, "is_causal", True) is False:
        return False
    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def longest(model: PreTrainedModel) -> int | None:
    """The number of tokens that a model has positions for; None where it has no limit.

    A table of positions may begin after some rows: RoBERTa's kind counts from the padding id, OPT's from an offset.
    """
    stated = getattr(model.config, "max_position_embeddings", None)
    limits = [stated] if isinstance(stated, int) else []
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and _holds_positions(name.rpartition(".")[2]):
            before = 0 if table.padding_idx is None else table.padding_idx + 1
            limits.append(table.num_embeddings - max(before, getattr(table, "offset", 0)))
    return min(limits, default=None)


def _holds_positions(name: str) -> bool:
    return name == "wpe" or "position" in name

"""Reference bundles: teachers and students as safetensors, the form in which jobs hand models to one another."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.folder import FolderError
from jobs.data.prepared import TOKENIZER, Prepared
from serving.bundle import MANIFEST, Bundle, read_bundle, write_bundle

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

    from jobs.models.encoder import EncoderClassifier

log = logging.getLogger(__name__)


def write_reference(
    folder: Path,
    model: nn.Module,
    prepared: Prepared,
    name: str,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
) -> Bundle:
    """Write `model`, a classifier or a decoder, with the tokenizer and labels of the rows it learned from."""
    from jobs.models import decoder, encoder

    pairs = bool(prepared.manifest["pairs"])
    if isinstance(model, decoder.Decoder):
        task, inputs, save = "generate", ["input_ids", "attention_mask"], functools.partial(decoder.save, model)
    else:
        assert isinstance(model, encoder.EncoderClassifier)
        task, inputs, save = "classify", graph_inputs(model, pairs), functools.partial(encoder.save, model)
    fields = {
        "name": name,
        "task": task,
        "labels": prepared.labels,
        "runtime": "torch",
        "model": encoder.WEIGHTS,
        "inputs": inputs,
        "max_length": prepared.manifest["max_length"],
        "tokenizer": TOKENIZER,
        "pairs": pairs,
        "attributes": bool(prepared.manifest.get("attributes")),  # folders that were prepared earlier do not say
        "metrics": dict(metrics),
        "provenance": dict(provenance),
    }

    def fill(aside: Path) -> None:
        save(aside)
        (aside / TOKENIZER).write_bytes((prepared.folder / TOKENIZER).read_bytes())

    return write_bundle(folder, fields, fill)


def graph_inputs(model: EncoderClassifier, pairs: bool) -> list[str]:
    """What the model must be given; types are all zero for single texts and left out."""
    return ["input_ids", "attention_mask"] + (["token_type_ids"] if pairs and model.has_types else [])


def read_reference(folder: Path, made_by: str) -> Bundle:
    """A verified reference bundle; `made_by` is the command named where there is none."""
    if not (folder / MANIFEST).exists():
        raise FolderError(f"{folder}: no model there; {made_by} makes it")
    bundle = read_bundle(folder)
    if bundle.runtime != "torch":
        raise FolderError(f"{folder}: an exported {bundle.runtime} bundle; a reference (safetensors) bundle is needed")
    return bundle


def read_tokenizer(file: Path) -> Tokenizer:
    """A saved tokenizer, without truncation."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    return tokenizer


def check_fits(folder: Path, bundle: Bundle, prepared: Prepared) -> None:
    """Raise `FolderError` where a teacher numbers classes or tokens otherwise than the rows: its logits would lie."""
    if list(bundle.labels) != prepared.labels:
        raise FolderError(f"{folder}: learned other classes than {prepared.folder} holds; run jobs.finetune again")
    known, given = (read_tokenizer(file) for file in (folder / bundle.tokenizer, prepared.folder / TOKENIZER))
    if known.to_str() != given.to_str():
        raise FolderError(f"{folder}: has another tokenizer than {prepared.folder}; run jobs.finetune again")


def made_from(folder: Path, key: str) -> bool:
    """Whether `folder` holds a bundle made from the inputs of `key`, whole."""
    if not (folder / MANIFEST).exists():
        return False
    try:
        return read_bundle(folder).provenance.get("key") == key
    except FolderError as error:
        log.warning("%s is made again: %s", folder.name, error)
        return False

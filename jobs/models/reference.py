"""Reference bundles: teachers and students as safetensors, the form in which jobs hand models to one another."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.folder import FolderError
from configs.schema.runtimes import RUNTIMES
from configs.schema.tasks import TASKS, named
from jobs.data.prepared import TOKENIZER, Prepared
from serving.bundle import MANIFEST, Bundle, read_bundle, write_bundle

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn


log = logging.getLogger(__name__)


def write_reference(
    folder: Path,
    model: nn.Module,
    prepared: Prepared,
    name: str,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
) -> Bundle:
    """Write `model` with the tokenizer and labels of the rows that it learned from."""
    task = TASKS[prepared.manifest["task"]]
    pairs = bool(prepared.manifest["pairs"])
    fields = {
        "name": name,
        "task": task.name,
        "labels": prepared.labels,
        "runtime": "torch",
        "model": RUNTIMES["torch"].model,
        "inputs": named(task.inputs)(model, pairs),
        "max_length": prepared.manifest["max_length"],
        "tokenizer": TOKENIZER,
        "pairs": pairs,
        "attributes": bool(prepared.manifest.get("attributes")),  # folders that were prepared earlier do not say
        "chat_template": prepared.manifest.get("chat_template"),
        "manner": prepared.manifest.get("manner", {}),
        "redact": prepared.manifest.get("redact"),
        "metrics": dict(metrics),
        "provenance": dict(provenance),
    }

    def fill(aside: Path) -> None:
        named(task.save)(model, aside)
        for name in prepared.tokenizer_files:
            shutil.copyfile(prepared.folder / name, aside / name)

    return write_bundle(folder, fields, fill)


def read_reference(folder: Path, made_by: str) -> Bundle:
    """A verified reference bundle; `made_by` is the command that the refusal of a missing one names."""
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
    """Raise `FolderError` where a teacher numbers classes or tokens differently from the rows: its logits would lie."""
    if list(bundle.labels) != prepared.labels:
        raise FolderError(f"{folder}: learned other classes than {prepared.folder} holds; run jobs.finetune again")
    own, of_rows = (read_tokenizer(file) for file in (folder / bundle.tokenizer, prepared.folder / TOKENIZER))
    if own.to_str() != of_rows.to_str():
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

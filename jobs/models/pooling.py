"""How a model's own files say that its token vectors become one: those of sentence-transformers, or its config."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from transformers import PreTrainedConfig

from configs.given import given
from configs.loader import UsageError
from configs.schema.models import PoolingName
from jobs.models.files import CONFIG
from jobs.models.loading import is_decoder

MODULES = "modules.json"  # sentence-transformers' list of a model's parts and their folders
USUAL_FOLDER = "1_Pooling"
BOOLEANS = {  # of the form before sentence-transformers 5.4, whose default was the mean
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
CHOICES = tuple(name for name in get_args(PoolingName) if name != "auto")


def pooling_of(folder: Path, asked: str, config: PreTrainedConfig, field: str) -> str:
    """One of `CHOICES`: the pooling `asked` for, or for auto that of the files of a model in `folder`.

    Raises `UsageError`, naming `field`, where it is another one or cannot be told.
    """
    pooling, where = (asked, "") if asked != "auto" else _said(folder, config, field)
    decodes, kind = is_decoder(config), config.model_type
    instead = "give mean, or an encoder as the model" if decodes else f"give {' or '.join(CHOICES)}"
    said = f"{field}: {asked}: " + (f"{where} says {pooling!r}" if where and pooling else str(folder))
    if pooling is None and decodes:
        raise UsageError(
            f"{said} is a decoder ({kind}), and no file of it says how its token vectors become one; {instead}"
        )
    if pooling is not None and pooling not in CHOICES:
        raise UsageError(f"{said}, which classifiers here do not have; {instead}")
    if pooling == "cls" and decodes:
        raise UsageError(f"{said}: the first token of a decoder ({kind}) sees none of the others; {instead}")
    return pooling or "cls"


def pooling_field(model: str) -> str:
    """The field that says the pooling of the model that the field `model` names."""
    return model.rpartition(".")[0] + ".pooling"


def pooling_files(folder: Path, field: str) -> list[Path]:
    """The files beside its config by which a model folder says its pooling. `field`: as `pooling_of`."""
    return [folder / name for name in _configs(_read(folder, MODULES, field)) if (folder / name).is_file()]


def _said(folder: Path, config: PreTrainedConfig, field: str) -> tuple[str | None, str]:
    """(the pooling that the model's files say, the file); None where no file says any."""
    for name in _configs(_read(folder, MODULES, field)):
        if (found := _read(folder, name, field)) is not None:
            return _mode(found), f"{folder}/{name}"
    return getattr(config, "classifier_pooling", None), f"{folder}/{CONFIG}"  # ModernBERT's entry, and our bundles'


def _configs(modules: Any) -> Iterator[str]:
    """Where the pooling may be told, in the order in which the files are asked."""
    modules = [each for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []
    stated = [str(each.get("path", "")) for each in modules if str(each.get("type")).rpartition(".")[2] == "Pooling"]
    for folder in dict.fromkeys([*stated, USUAL_FOLDER]):
        if folder and ".." not in (parts := PurePosixPath(folder).parts) and not folder.startswith("/"):
            yield "/".join((*parts, CONFIG))


def _mode(config: Any) -> str:
    """The pooling in either form of the file, several joined by +."""
    stated = config.get("pooling_mode") if isinstance(config, dict) else None
    if stated is None:
        stated = [mode for name, mode in BOOLEANS.items() if isinstance(config, dict) and config.get(name)] or "mean"
    return "+".join(map(str, stated)) if isinstance(stated, list) else str(stated)


def _read(folder: Path, name: str, field: str) -> Any:
    """The JSON of a file of a model; None where it has no such file."""
    if not (path := folder / name).is_file():
        return None
    with given(f"{field}: {path}", f"give {' or '.join(CHOICES)}"):
        return json.loads(path.read_bytes())

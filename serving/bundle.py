"""The deployable folder, and the only contract between training and serving.

A bundle holds `bundle.json` (written last), the tokenizer and the weights, never a pickle. Every load compares
every file with its digest; a folder without a valid `bundle.json` does not exist.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from configs import folder as folders
from configs.schema.kinds import KINDS, Kind, KindName
from configs.schema.redaction import Redaction
from configs.schema.runtimes import RUNTIMES, RuntimeName
from configs.schema.tasks import TASKS, Task, TaskName
from serving.manner import FIELDS
from serving.pickles import pickle_reason

MANIFEST = "bundle.json"
CARD = "README.md"
CHECKS = "checks.json"
CHAT_TEMPLATE = "chat_template.jinja"
TEMPLATES = "templates.json"
PROFILE = "profile.json"
ABOUT = frozenset({CARD, PROFILE})  # files that speak of the model as a whole, and without which it answers
FORMAT_VERSIONS = (1, 2)  # 2: bundles of a kind
# fields that earlier programs refuse wherever they stand
LATER = ("checked", "chat_template", "manner", "kind", "reply", "redact")
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


class BundleError(folders.FolderError):
    """A folder is no bundle; the one-line message names the file and the reason."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Frozen):
    """The manifest's entry of one file."""

    size: int = Field(ge=0, alias="bytes", description="bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="hexadecimal")


class ModelEntry(_Frozen):
    """One model of a bundle, and how it is run."""

    runtime: RuntimeName
    precision: Literal["f32", "bf16", "f16"] = Field(default="f32", description="of what is not computed in int8")
    model: str = Field(min_length=1, description="file of the graph, or of the weights where there is none")
    inputs: list[str] = Field(description="names of the graph's inputs, int64 [batch, length]; linear reads texts")
    max_length: int = Field(ge=1, description="tokens, of runtime linear words; longer inputs are cut")
    tokenizer: str = "tokenizer.json"
    temperature: float = Field(default=1.0, gt=0, description="logits are divided by it before the softmax")

    @model_validator(mode="after")
    def can_be_fed(self) -> Self:
        if unknown := sorted(set(self.inputs) - set(INPUT_NAMES)):
            raise ValueError(f"inputs {unknown} are unknown; known are {list(INPUT_NAMES)}")
        if bool(self.inputs) != RUNTIMES[self.runtime].reads_tokens:
            raise ValueError(f"{len(self.inputs)} inputs for runtime {self.runtime!r}; linear has none, others some")
        _stay_inside(*self.needed)
        return self

    @property
    def needed(self) -> list[str]:
        """Files without which the model cannot be opened."""
        return [self.model, self.tokenizer, *RUNTIMES[self.runtime].files_beside(self.model)]


class First(ModelEntry):
    """The model of a cascade that is asked first."""

    threshold: float = Field(
        ge=0, le=1, description="it answers where the probability of its best label is at least this"
    )


class Reply(_Frozen):
    """A bundle of kind `reply`: when a message is answered with the template of its class."""

    threshold: float = Field(
        ge=0, le=1, description="least probability of the class; below it a message is handed over"
    )


class Bundle(ModelEntry):
    """`bundle.json`: how to run the model, what was measured on it and where it comes from."""

    format_version: Literal[1, 2] = 1
    name: str = Field(min_length=1)
    task: TaskName
    labels: list[str] = Field(default_factory=list, description="classify: in the order of the model's outputs")
    first: First | None = Field(
        default=None, description="a cascade: a smaller model that is asked first; `model` answers what it is unsure of"
    )
    pairs: bool = Field(default=False, description="an input is a text and a second text")
    attributes: bool = Field(
        default=False, description="texts are attributes, which may be given as an object or a list of [name, value]"
    )
    checked: bool = Field(default=False, description=f"generate: texts go out after the checks in {CHECKS}")
    chat_template: str | None = Field(
        default=None, description="generate: file of the Jinja template that makes a conversation one prompt"
    )
    manner: dict[str, list[str]] = Field(
        default_factory=dict, description="generate: fields by which a request asks how to write, with their values"
    )
    redact: Redaction | None = Field(
        default=None, description="personal data that is replaced in inputs, as it was in the training rows"
    )
    kind: KindName | None = Field(
        default=None, description="format 2: what answers with the model; none = a model alone, or a cascade"
    )
    reply: Reply | None = Field(default=None, description=f"kind reply: its templates are in {TEMPLATES}")
    metrics: dict[str, float] = Field(default_factory=dict, description="evidence, measured on these very files")
    provenance: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, FileEntry] = Field(default_factory=dict)

    @model_validator(mode="after")
    def names_fit(self) -> Self:
        task = TASKS[self.task]
        if (len(self.labels) < 2) == task.labelled:
            raise ValueError(
                f"task {self.task!r} with {len(self.labels)} labels; classify has two or more, generate none"
            )
        if self.runtime not in task.bundles:
            raise ValueError(f"runtime {self.runtime!r} does not run task {self.task!r}; {task.bundles} do")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat; each output needs its own label")
        if self.first and (not task.labelled or "torch" in (self.runtime, self.first.runtime)):
            raise ValueError("a cascade has two exported classifiers")
        if self.manner and (task.labelled or not set(self.manner) <= set(FIELDS)):
            raise ValueError(f"manner: a decoder is asked for {' and '.join(FIELDS)}, not for {sorted(self.manner)}")
        if self.chat_template is not None:
            if task.labelled:
                raise ValueError("chat_template: a classifier holds no conversation")
            _stay_inside(self.chat_template)
        _stay_inside(*self.files)
        return self

    @model_validator(mode="after")
    def kind_fits(self) -> Self:
        if (self.kind is None) != (self.format_version == 1):
            raise ValueError(f"format version {self.format_version} with kind {self.kind!r}; a kind makes it format 2")
        if (self.reply is None) != (self.kind != "reply"):
            raise ValueError(f"kind {self.kind!r} {'without' if self.reply is None else 'with'} the field reply")
        if self.reply and (not TASKS[self.task].labelled or self.runtime == "torch"):
            raise ValueError("an exported classifier says which reply a message gets")
        return self

    @property
    def record(self) -> Task | Kind:
        """What opens it, and answers with it: the record of its kind, where it has one, else that of its task."""
        return TASKS[self.task] if self.kind is None else KINDS[self.kind]

    @property
    def all_needed(self) -> list[str]:
        """Files without which it cannot answer."""
        beside = [self.chat_template, CHECKS if self.checked else None, TEMPLATES if self.reply else None]
        return [*(name for entry in self.models for name in entry.needed), *filter(None, beside)]

    @property
    def models(self) -> tuple[ModelEntry, ...]:
        """The models in the order in which they are asked: two in a cascade, else one."""
        return (self.first, self) if self.first else (self,)

    def alone(self, entry: ModelEntry) -> Self:
        """The bundle whose one model is `entry`."""
        fields = {name: getattr(entry, name) for name in ModelEntry.model_fields}
        return self.model_copy(update={**fields, "first": None})

    def written(self) -> dict[str, Any]:
        """The fields of `bundle.json` but its files, and but those of `LATER` that say nothing here."""
        return self.model_dump(exclude={"files"} | {name for name in LATER if not getattr(self, name)})


def write_bundle(folder: Path, fields: Mapping[str, Any], fill: Callable[[Path], None]) -> Bundle:
    """Make `folder` a bundle from `fields` (those of `Bundle`) and the files that `fill(aside)` writes.

    The folder appears whole, by a rename, or not at all. Raises `BundleError` where the fields or files do not fit.
    """

    def fill_checked(aside: Path) -> dict[str, Any]:
        bundle = _parse(folder / MANIFEST, fields)
        fill(aside)
        for name in bundle.all_needed:
            if not (aside / name).is_file():
                raise BundleError(f"{folder / name}: not written, though the bundle names it")
        _refuse_pickles(aside)
        return bundle.written()

    return _parse(folder / MANIFEST, folders.commit(folder, MANIFEST, fill_checked))


def read_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`, after every file was compared with its digest. Raises `BundleError`."""
    bundle = read_description(folder)
    for name in bundle.files:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{folder / MANIFEST}: {name!r} leaves the folder")
    try:
        folders.verify(folder, MANIFEST)
    except folders.FolderError as error:
        raise BundleError(str(error)) from None
    for name in bundle.all_needed:
        if name not in bundle.files:
            raise BundleError(f"{folder / MANIFEST}: names {name!r} but lists no digest of it")
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST and name not in bundle.files:
            raise BundleError(f"{path}: not in the manifest; a bundle holds only what it lists")
    _refuse_pickles(folder)
    return bundle


def read_description(folder: Path) -> Bundle:
    """`bundle.json` alone, digests unchecked: enough to ask what a bundle is, not to run it. Raises `BundleError`."""
    try:
        manifest = folders.read_manifest(folder, MANIFEST)
    except folders.FolderError as error:
        raise BundleError(str(error)) from None
    version = manifest.get("format_version")
    if version not in FORMAT_VERSIONS:
        known = " and ".join(map(str, FORMAT_VERSIONS))
        raise BundleError(f"{folder / MANIFEST}: format version {version!r}; this program reads {known}")
    return _parse(folder / MANIFEST, manifest)


def with_metrics(
    folder: Path,
    metrics: Mapping[str, float],
    card: Callable[[Bundle], str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Bundle:
    """Add `metrics` to the bundle, text `files`, and `card` of the result as its README.md; returns the new bundle.

    The folder is replaced whole or not at all; its digest changes. Raises `BundleError` where a file was damaged.
    """
    old = read_bundle(folder)
    fields = old.model_dump(exclude={"files"}) | {"metrics": {**old.metrics, **metrics}}

    def fill(aside: Path) -> None:
        _copy_files(old, folder, aside)
        told = {CARD: card(old.model_copy(update={"metrics": fields["metrics"]}))} if card else {}
        _write_files({**(files or {}), **told}, aside)

    return write_bundle(folder, fields, fill)


def copy_bundle(
    source: Path,
    folder: Path,
    provenance: Mapping[str, Any],
    fields: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Bundle:
    """Make `folder` a copy of the bundle in `source`, with more `provenance`, other `fields` and further text `files`.

    Raises `BundleError`.
    """
    old = read_bundle(source)
    changed = old.model_dump(exclude={"files"}) | {**(fields or {}), "provenance": {**old.provenance, **provenance}}

    def fill(aside: Path) -> None:
        _copy_files(old, source, aside)
        _write_files(files or {}, aside)

    return write_bundle(folder, changed, fill)


def _copy_files(bundle: Bundle, folder: Path, target: Path) -> None:
    for name in bundle.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)


def _write_files(files: Mapping[str, str], target: Path) -> None:
    for name, text in files.items():
        (target / name).write_text(text, encoding="utf-8")


def bundle_digest(folder: Path) -> str:
    """The bundle's identity: the SHA-256 of `bundle.json`, which holds those of all other files."""
    try:
        return folders.digest_file(folder / MANIFEST)
    except OSError as error:
        raise BundleError(f"{folder / MANIFEST}: {error.strerror}") from None


def bundle_bytes(bundle: Bundle) -> int:
    """Bytes of all files that an answer needs: the manifest and those of `ABOUT` left out."""
    return sum(entry.size for name, entry in bundle.files.items() if name not in ABOUT)


def _parse(path: Path, manifest: Mapping[str, Any]) -> Bundle:
    try:
        return Bundle.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "manifest"
        message = " ".join(first["msg"].removeprefix("Value error, ").split())
        raise BundleError(f"{path}: {field}: {message}") from None


def _stay_inside(*names: str) -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise ValueError(f"{name!r} leaves the folder")


def _walk(folder: Path) -> Iterator[Path]:
    """Every file and every link below `folder`; links are not followed."""
    for parent, names, files in os.walk(folder):
        links = [name for name in names if (Path(parent) / name).is_symlink()]
        yield from (Path(parent) / name for name in sorted([*files, *links]))


def _refuse_pickles(folder: Path) -> None:
    for path in _walk(folder):
        if path.is_file() and (reason := pickle_reason(path)):
            raise BundleError(f"{path}: {reason}; loading a pickle runs its author's code, export to ONNX instead")

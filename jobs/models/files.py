"""The files of a given model, and what they tell before anything is loaded: torch stays out of it."""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster import hub
from configs.folder import FolderError
from configs.given import given
from configs.loader import UsageError
from configs.places import resolved
from configs.schema.data import HUB_ID
from serving.bundle import MANIFEST, Bundle, read_bundle, read_description

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
GENERATION = "generation_config.json"
TEACHER = "teacher.model"  # the field that names most models
# What tokenizers are made from: WordPiece, BPE, SentencePiece, tiktoken.
VOCABULARIES = (TOKENIZER, "vocab.txt", "vocab.json", "*.model", "tekken.json", "*.tiktoken")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # each also in shards, with an index
FLOATS = {"F64", "F32", "F16", "BF16"}
POINTER = b"version https://git-lfs"
SMALL = ("*.json", "*.txt", "*.model", "*.tiktoken")
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len")  # a config's own names for its positions
AGAIN = "download or save it again"


class Needs(NamedTuple):
    """What a recipe asks of a given model."""

    max_length: int  # tokens
    kinds: Sequence[str]  # of a model that the task takes, see `jobs.models.inspection.kind_of`
    writes: bool  # whether texts are generated, so that one must end


class Stored(NamedTuple):
    """A tensor as the header of its file describes it."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder as its files tell it."""

    field: str  # of the recipe
    name: str  # as the recipe names it
    folder: Path

    @property
    def at(self) -> str:
        """How every refusal begins."""
        return f"{self.field}: {self.name}"

    def refusal(self, reason: str, remedy: str) -> UsageError:
        """A refusal of this model."""
        return UsageError(f"{self.at}: {reason}; {remedy}")

    def json(self, name: str) -> dict[str, Any]:
        """The mapping in a JSON file of the folder; empty where there is no such file. Raises `UsageError`."""
        path = self.folder / name
        if not path.exists():
            return {}
        with given(f"{self.at}: {name}", AGAIN):
            self._refuse_pointer(path)
            found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise self.refusal(f"{name} holds no mapping", AGAIN)
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return self.json(CONFIG)

    @cached_property
    def bundle(self) -> Bundle | None:
        """What the manifest says where the folder is a bundle of ours."""
        if not (self.folder / MANIFEST).exists():
            return None
        try:
            return read_description(self.folder)
        except FolderError as error:
            raise UsageError(f"{self.at}: {error}; make it again, or copy it whole") from None

    @cached_property
    def weights(self) -> list[Path]:
        """The files of weights that a loader reads: one, or the shards that an index names. Raises `UsageError`."""
        for name in WEIGHTS:
            if (self.folder / name).exists():
                return [self.folder / name]
            if index := self.json(f"{name}.index.json"):
                with given(f"{self.at}: {name}.index.json", AGAIN):
                    return [self.folder / shard for shard in sorted(set(index["weight_map"].values()))]
        return []

    @cached_property
    def tensors(self) -> dict[str, Stored]:
        """The tensors of safetensors files, by name; pickles have no header to read. Raises `UsageError`."""
        from safetensors import safe_open

        found = {}
        for path in self.weights:
            if path.suffix != ".safetensors":
                continue
            with given(f"{self.at}: {path.name}", AGAIN), safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    part = file.get_slice(name)
                    found[name] = Stored(part.get_dtype(), tuple(part.get_shape()))
        return found

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of tokenizer.json; None where the model has its vocabulary in another form."""
        from tokenizers import Tokenizer

        if not (path := self.folder / TOKENIZER).exists():
            return None
        with given(f"{self.at}: {TOKENIZER}", f"{AGAIN}, with the installed version of tokenizers"):
            self._refuse_pointer(path)
            return Tokenizer.from_file(str(path))

    def vocabulary_files(self) -> Iterator[Path]:
        """The files that a tokenizer is made from."""
        for pattern in VOCABULARIES:
            yield from sorted(self.folder.glob(pattern))

    def _refuse_pointer(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise UsageError(f"{self.at}: {path.name}: a pointer of Git LFS, not the file; run git lfs pull there")


def locate(model: str, field: str = TEACHER) -> str:
    """Folder or Hub id of what `field` names; `package:<module>/<folder>` is looked up among installed packages."""
    at, model = f"{field}: {model}", resolved(model, field)
    if not model.startswith("package:"):
        return model
    module, _, folder = model.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(module) if module else None
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{at}: no installed package {module!r}; the extra 'sample' of slimcart has one")
    path = Path(spec.submodule_search_locations[0]) / folder
    if not (path / CONFIG).is_file():
        raise UsageError(f"{at}: the package holds no model folder {folder!r}")
    return str(path)


def files_of(model: str, field: str = TEACHER) -> ModelFiles:
    """The folder of what `field` names; a Hub id's is downloaded, or found in the cache. Raises `UsageError`."""
    found = locate(model, field)
    path = Path(found)
    if path.is_dir():
        return ModelFiles(field, model, path)
    if path.exists():
        raise UsageError(f"{field}: {model}: is a file; give the folder that holds it, with its {CONFIG}")
    if not (named := HUB_ID.fullmatch(found)):
        near = difflib.get_close_matches(path.name, _folders(path.parent), n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "give a model's folder or a Hub id, owner/name"
        raise UsageError(f"{field}: {model}: no such folder; {remedy}")
    return ModelFiles(field, model, _downloaded(named["id"], named["revision"], f"{field}: {model}"))


def _folders(parent: Path) -> list[str]:
    try:
        return [each.name for each in parent.iterdir() if each.is_dir()]
    except OSError:
        return []


def _downloaded(model: str, revision: str | None, at: str) -> Path:
    """The snapshot of a Hub model: small files, and weights in one form."""
    folder = hub.snapshot(model, revision, at, SMALL)
    for name in WEIGHTS:
        stem, _, suffix = name.partition(".")
        if any(folder.glob(f"{stem}*.{suffix}")):
            return folder
        folder = hub.snapshot(model, revision, at, [*SMALL, f"{stem}*.{suffix}"])
    return folder


def _is_a_model(files: ModelFiles, needs: Needs) -> None:
    if (files.folder / "adapter_config.json").exists():
        base = files.json("adapter_config.json").get("base_model_name_or_path") or "its base model"
        raise files.refusal(
            f"an adapter of {base}, not a model of its own",
            "merge the two (peft: merge_and_unload), save the result with its tokenizer, and give that folder",
        )
    if not (files.folder / CONFIG).exists() and files.bundle is None:
        there = ", ".join(sorted(path.name for path in files.folder.iterdir())[:5]) or "nothing"
        raise files.refusal(f"holds no {CONFIG} (but {there})", "give a folder that transformers saved, or a bundle")


def _is_a_whole_bundle_or_none(files: ModelFiles, needs: Needs) -> None:
    if files.bundle is None:
        return
    try:  # digests too
        read_bundle(files.folder)
    except FolderError as error:
        raise UsageError(f"{files.at}: {error}; make it again, or copy it whole") from None
    if files.bundle.runtime != "torch":
        raise files.refusal(
            f"an exported {files.bundle.runtime} bundle, which cannot be trained",
            "give the safetensors bundle that it was made of, such as <output>/student or <output>/teacher",
        )


def _names_its_kind(files: ModelFiles, needs: Needs) -> None:
    kind = files.config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise files.refusal(f"{CONFIG} names no model_type", "give a folder that transformers saved")
    if files.config.get("is_encoder_decoder"):
        raise refuse_kind(files, kind, "encoder-decoder", needs)


def refuse_kind(files: ModelFiles, kind: str, what: str, needs: Needs) -> UsageError:
    """A refusal of a model type `kind` that is no model of the needed kinds."""
    article = "an" if what[0] in "aeiou" else "a"
    return files.refusal(f"{kind} is {article} {what}", f"give {' or '.join(needs.kinds)} models, of text alone")


def _is_not_quantised(files: ModelFiles, needs: Needs) -> None:
    remedy = "give the model in float that it was made of"
    if quantised := files.config.get("quantization_config"):
        how = quantised.get("quant_method", "an unnamed way") if isinstance(quantised, dict) else quantised
        raise files.refusal(f"its weights are quantised ({how}) and cannot be trained", remedy)
    for name, stored in files.tensors.items():
        if len(stored.shape) > 1 and stored.dtype not in FLOATS and name.endswith("weight"):
            raise files.refusal(f"its weights are quantised ({name} is {stored.dtype}) and cannot be trained", remedy)


def _has_weights(files: ModelFiles, needs: Needs) -> None:
    if not files.weights:
        raise files.refusal(
            "holds no weights", f"{' or '.join(WEIGHTS)} is needed, or shards with an index; save the model there"
        )
    for path in files.weights:
        if not path.exists():
            raise files.refusal(f"{path.name} is missing, which the index names", AGAIN)
        with given(f"{files.at}: {path.name}", AGAIN):
            files._refuse_pointer(path)
    _ = files.tensors


def _has_a_tokenizer(files: ModelFiles, needs: Needs) -> None:
    told = files.json(TOKENIZER_CONFIG)
    code, kind = _code_of(told.get("auto_map")), told.get("tokenizer_class")
    if code and (kind is None or code.rpartition(".")[2] == kind):
        raise files.refusal(
            f"its tokenizer is code of its own ({code}), which is never run",
            f"give a folder whose {TOKENIZER} stands for itself: without auto_map in {TOKENIZER_CONFIG}",
        )
    if not any(files.vocabulary_files()):
        raise files.refusal(
            f"holds no tokenizer ({TOKENIZER} or a vocabulary)",
            "save the tokenizer that the model was trained with into the folder: tokenizer.save_pretrained(folder)",
        )
    if files.tokenizer is not None:
        model = json.loads(files.tokenizer.to_str())["model"]
        unknown = model.get("unk_token")
        if model.get("type") in ("WordPiece", "WordLevel") and files.tokenizer.token_to_id(str(unknown)) is None:
            raise files.refusal(
                f"its tokenizer stops at unknown text: {unknown!r} is none of its tokens",
                "add that token, or give the tokenizer that the model was trained with",
            )


def _code_of(auto_map: Any) -> str | None:
    """The class, in a module of the folder, that a tokenizer's config names."""
    classes = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map
    named = [each for each in (classes if isinstance(classes, list) else [classes]) if isinstance(each, str)]
    return named[-1] if named else None


def _knows_every_token(files: ModelFiles, needs: Needs) -> None:
    rows = files.config.get("vocab_size")
    if isinstance(rows, int) and files.tokenizer is not None:
        check_ids(files, files.tokenizer, rows, needs)


def check_ids(files: ModelFiles, tokenizer: Tokenizer, rows: int, needs: Needs) -> None:
    """Raise `UsageError` where a token, or one that a config names, has no row in the token table."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    outside = sorted((number, token) for token, number in vocabulary.items() if number >= rows)
    if outside:
        number, token = outside[0]
        raise files.refusal(
            f"{len(outside)} tokens of its tokenizer have no row in the token table of {rows} rows, as {token!r} with "
            f"id {number}",
            "resize the table (model.resize_token_embeddings(len(tokenizer))) and save the model, or remove the tokens",
        )
    known = set(vocabulary.values())
    for name, entry, number in _named_ids(files, needs):
        if number >= rows or (entry == "eos_token_id" and number not in known):
            why = f"the token table has {rows} rows" if number >= rows else "no token of its tokenizer has this id"
            raise files.refusal(f"{name}: {entry}: {number}: {why}", "give the id of the token that is meant")


def _named_ids(files: ModelFiles, needs: Needs) -> Iterator[tuple[str, str, int]]:
    """(file, entry, id) of the special tokens that a model in use looks at."""
    entries = ("eos_token_id", "pad_token_id") if needs.writes else ("pad_token_id",)
    for name in (CONFIG, GENERATION) if needs.writes else (CONFIG,):
        for entry in entries:
            ids = files.json(name).get(entry)
            yield from ((name, entry, each) for each in (ids if isinstance(ids, list) else [ids]) if type(each) is int)


def _is_long_enough(files: ModelFiles, needs: Needs) -> None:
    for name in LENGTHS:
        if isinstance(most := files.config.get(name), int):
            check_length(files, most, needs.max_length)


def check_length(files: ModelFiles, most: int | None, max_length: int) -> None:
    """Raise `UsageError` where a model takes only `most` tokens, fewer than the recipe's texts have; None: any."""
    if most is not None and most < max_length:
        raise UsageError(f"data.max_length: {max_length}: {files.at} takes {most} tokens at most")


CHECKS: tuple[Callable[[ModelFiles, Needs], None], ...] = (
    _is_a_model,
    _is_a_whole_bundle_or_none,
    _names_its_kind,
    _has_weights,
    _is_not_quantised,
    _has_a_tokenizer,
    _knows_every_token,
    _is_long_enough,
)


def check_files(files: ModelFiles, needs: Needs) -> None:
    """Raise `UsageError` at the first thing in the folder of a model that cannot work."""
    for check in CHECKS:
        check(files, needs)

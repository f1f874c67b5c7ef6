"""Prepared rows: token ids of every example in Parquet shards, and how they are read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from configs.folder import FolderError, read_manifest, verify
from jobs.data import leaks
from jobs.data.leaks import HASHES, Finding, Hashes
from jobs.data.source import Sample

if TYPE_CHECKING:  # verbs import this module before they know that their recipe is sound
    import numpy as np
    import pyarrow

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
ROWS = "rows"
WORDING = "wording.json"  # what the training answers teach of a written text
PreparedSplit = Literal["train", "validation"]
COUNTED = ("text_tokens", "unknown", "cut")  # columns of tokenised rows


class Readings(NamedTuple):
    """Counts of a tokenizer over the rows of a split."""

    rows: int
    tokens: int  # without the special ones around every text
    unknown: int  # how many of these tokens the tokenizer does not know
    cut: int  # rows that are kept in part only
    unread: int = 0  # rows of whose texts no token is left

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are unknown."""
        return self.unknown / max(1, self.tokens)

    @property
    def cut_share(self) -> float:
        """Share of the rows that are cut."""
        return self.cut / max(1, self.rows)


@dataclass(frozen=True)
class Examples:
    """N examples without padding; tokens of row i are `ids[offsets[i]:offsets[i + 1]]`."""

    ids: np.ndarray  # [tokens] int32
    types: np.ndarray  # [tokens] int8: 1 in the second text of a pair, or in the text to generate
    offsets: np.ndarray  # [N + 1] int64
    labels: np.ndarray  # [N] int64; `NO_TARGET` where there is none

    @classmethod
    def from_table(cls, table: pyarrow.Table) -> Examples:
        """The examples in the columns `input_ids`, `type_ids`, `label` of a table, in its order."""
        import numpy as np

        table = table.combine_chunks()
        ids = table["input_ids"].combine_chunks()
        first, last = ids.offsets[0].as_py(), ids.offsets[-1].as_py()  # a slice keeps the values of its parent
        return cls(
            ids=ids.values.to_numpy()[first:last],
            types=table["type_ids"].combine_chunks().flatten().to_numpy(),
            offsets=ids.offsets.to_numpy().astype(np.int64) - first,
            labels=table["label"].to_numpy().astype(np.int64),
        )

    @classmethod
    def joined(cls, *parts: Examples) -> Examples:
        """The examples of all parts, one part after the other."""
        import numpy as np

        return cls(
            ids=np.concatenate([part.ids for part in parts]),
            types=np.concatenate([part.types for part in parts]),
            offsets=joined_offsets([part.offsets for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
        )

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, [N]."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def targets(self) -> np.ndarray:
        """Tokens of type 1 of each example, [N]."""
        import numpy as np

        before = np.concatenate([[0], np.cumsum(self.types, dtype=np.int64)])
        return before[self.offsets[1:]] - before[self.offsets[:-1]]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Prepared:
    """A prepared folder whose digests were checked; `pool` holds the rows without labels that go with it."""

    folder: Path
    manifest: dict[str, Any]
    pool: Prepared | None = None

    @classmethod
    def open(cls, folder: Path, pool: Path | None = None) -> Prepared:
        """Raises `FolderError` where a folder is missing, half written or damaged."""
        return cls(folder, verify(folder, MANIFEST), None if pool is None else cls.open(pool))

    @property
    def key(self) -> str:
        """Digest of everything the rows depend on."""
        return self.manifest["key"]

    @property
    def labels(self) -> list[str]:
        """Class names, in the order of the label numbers; empty where texts are generated."""
        return self.manifest["labels"]

    @property
    def tokenizer_files(self) -> list[str]:
        """Names of the files in the folder that words become tokens by, of the chat template too where there is one."""
        template = self.manifest.get("chat_template")
        return [TOKENIZER, *([template] if template else [])]

    def sample(self, split: PreparedSplit) -> Sample:
        """Number and fingerprint of the rows of a split in its source."""
        return Sample(self.manifest["rows"][split], self.manifest["fingerprints"][split])

    def readings(self, *splits: PreparedSplit) -> Readings:
        """The tokenizer's counts over the rows of some splits together."""
        return Readings(*map(sum, zip(*(self.manifest["readings"][split] for split in splits), strict=True)))

    @property
    def findings(self) -> list[Finding]:
        """Texts that the rows, and the rows without labels, have in common."""
        pool = [] if self.pool is None else self.pool.findings
        return [Finding(**each) for each in self.manifest.get("findings", ())] + pool

    def hashes(self) -> dict[str, Hashes]:
        """Hashes of the texts of each split, and of the rows without labels."""
        files = [each.folder / HASHES for each in (self, self.pool) if each is not None]
        return {split: each for file in files if file.exists() for split, each in leaks.read(file).items()}

    def examples(self, split: PreparedSplit) -> Examples:
        """The rows of one split in their original order."""
        return Examples.from_table(rows_of(self.folder / ROWS, split))


def readings_of(folder: Path) -> dict[str, Readings]:
    """A tokenizer's counts over each split of the shards in `folder`."""
    import pyarrow.parquet

    return readings_in(pyarrow.parquet.read_table(folder, columns=["split", *COUNTED]))


def readings_in(table: pyarrow.Table) -> dict[str, Readings]:
    """A tokenizer's counts over each split of tokenised rows."""
    import pyarrow.compute

    unread: Any = pyarrow.compute.call_function("equal", [table["text_tokens"], 0])
    table = table.append_column("unread", unread)
    sums: Any = [([], "count_all"), *((name, "sum") for name in (*COUNTED, "unread"))]
    totals = table.group_by("split").aggregate(sums).to_pylist()
    columns = ("count_all", *(f"{name}_sum" for name in (*COUNTED, "unread")))
    return {each["split"]: Readings(*(each[name] for name in columns)) for each in totals}


def joined_offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Offsets [N + 1] of the rows of all parts, one part after the other; the offsets of each part begin at 0."""
    import numpy as np

    starts = np.cumsum([0, *(offsets[-1] for offsets in parts[:-1])])
    return np.concatenate([[0], *(offsets[1:] + start for offsets, start in zip(parts, starts, strict=True))])


def rows_of(folder: Path, split: PreparedSplit, columns: list[str] | None = None) -> pyarrow.Table:
    """The rows of one split from the Parquet shards in `folder`, in their original order; all columns or some."""
    import pyarrow.parquet

    wanted = None if columns is None else ["row", *columns]
    table = pyarrow.parquet.read_table(folder, columns=wanted, filters=[("split", "==", split)])
    return table.sort_by("row").combine_chunks()


def has_key(folder: Path, manifest_name: str, key: str) -> bool:
    """Whether a whole folder made from the inputs of `key` is there."""
    try:
        return read_manifest(folder, manifest_name).get("key") == key
    except FolderError:  # no folder, or a damaged one: it is made anew
        return False

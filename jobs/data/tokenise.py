"""Texts to token ids, with Ray Data, into the shards of a prepared folder."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import cores
from configs.given import given
from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data.batches import NO_TARGET
from jobs.data.leaks import Hashes
from jobs.data.source import Row, Split, place, rows, shown, told
from serving.classifier import pad_id
from serving.conversation import Conversation
from serving.inputs import Reading, prompt, reading, unknown_id

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer

ROWS_PER_BLOCK = 20_000
ROWS_PER_CALL = 4096
MOST_CLASSES = 10_000
TOKENIZER = "tokenizer"  # in place of a field that names one
END = "<|endoftext|>"  # ends a text, in tokenizers that are trained here


def checked(
    data: DataSpec, split: Split, seen: dict[Split, Hashes] | None = None, see: Callable[[Row], None] | None = None
) -> tuple[pyarrow.Table, str]:
    """(table, fingerprint): every row of a split after its checks, and a digest of the rows. `seen`: as in `rows`.

    Each row is shown to `see`.

    The columns are split, text, pair, label (strings), row (int64), attributes (bool: whether a text was given as
    attributes), conversation (the input of a bundle as JSON, where a text is one) and manner (style and length, as
    JSON). Raises `UsageError` at the first bad row.
    """
    import pyarrow

    digest = hashlib.sha256()
    texts, pairs, labels, attributes, conversations, manners = [], [], [], [], [], []
    for row in rows(data, split, seen):
        digest.update(told(row))
        if see:
            see(row)
        texts.append(row.text)
        pairs.append(row.pair)
        labels.append(row.label)
        attributes.append(bool(row.slots))
        conversations.append(json.dumps(row.input) if row.messages else None)
        manners.append(json.dumps(row.manner))
    columns = {
        "split": pyarrow.array([split] * len(texts), pyarrow.string()),
        "row": pyarrow.array(range(len(texts)), pyarrow.int64()),
        "text": pyarrow.array(texts, pyarrow.large_string()),
        "pair": pyarrow.array(pairs, pyarrow.large_string()),
        "label": pyarrow.array(labels, pyarrow.string()),
        "attributes": pyarrow.array(attributes, pyarrow.bool_()),
        "conversation": pyarrow.array(conversations, pyarrow.large_string()),
        "manner": pyarrow.array(manners, pyarrow.large_string()),
    }
    return pyarrow.table(columns), digest.hexdigest()


def classes(train: pyarrow.Table, others: dict[Split, pyarrow.Table], data: DataSpec) -> list[str]:
    """Class names in sorted order. Raises `UsageError` for a label that training never sees."""
    known = sorted(train["label"].unique().to_pylist())
    if len(known) < 2:
        raise UsageError(f"{place(data, 'train')}: column {data.label!r} holds one class; at least two are needed")
    if len(known) > MOST_CLASSES:
        raise UsageError(
            f"{place(data, 'train')}: column {data.label!r} holds {len(known)} classes; more than {MOST_CLASSES} "
            "look like texts or ids, name the column of the classes in data.label"
        )
    for split, table in others.items():
        labels: list[str] = table["label"].to_pylist()
        if unseen := sorted(set(labels) - set(known)):
            raise UsageError(
                f"{place(data, split)}: label {shown(unseen[0], labels)} never occurs in training "
                f"({len(unseen)} such labels); add training rows or remove these"
            )
    return known


def write_shards(
    tables: Sequence[pyarrow.Table], folder: Path, tokenise: Callable[..., pyarrow.Table], at: str = TOKENIZER
) -> None:
    """Tokenise with Ray Data into Parquet files; `at` is the field and value that the tokenizer came from.

    The columns are split, row, input_ids, type_ids, length, label (number), and the fields of `Reading`: text_tokens,
    unknown, cut.
    """
    import ray.data

    from cluster.task_errors import carried

    blocks = [block for table in tables for block in _blocks(table)]
    rows = ray.data.from_arrow(blocks)
    named = carried(functools.partial(tokenise, at=at))
    tokenised = rows.map_batches(named, batch_format="pyarrow", batch_size=ROWS_PER_CALL)
    with cores.for_cores():
        tokenised.write_parquet(str(folder))


def _blocks(table: pyarrow.Table) -> Iterator[pyarrow.Table]:
    for start in range(0, len(table), ROWS_PER_BLOCK):
        yield table.slice(start, ROWS_PER_BLOCK).combine_chunks()


def tokenise_classes(
    table: pyarrow.Table, tokenizer_json: str, labels: list[str], at: str = TOKENIZER
) -> pyarrow.Table:
    """The rows with their tokens and label numbers; the text itself is not kept. Runs in Ray Data's workers.

    A row without a label (null) has the number `NO_TARGET`. One of whose text the tokenizer keeps nothing, and that has
    no special tokens, is one token of padding, as it is to a served model.
    """
    texts: list[Any] = table["text"].to_pylist()
    if table["pair"].null_count < len(table):
        texts = list(zip(texts, table["pair"].to_pylist(), strict=True))
    tokenizer, unknown = _opened(tokenizer_json)
    encodings, nothing = _encoded(tokenizer, texts, at), pad_id(tokenizer)
    number = {label: index for index, label in enumerate(labels)} | {None: NO_TARGET}
    return _tokenised(
        table,
        [each.ids or [nothing] for each in encodings],
        [each.type_ids or [0] for each in encodings],
        [number[label] for label in table["label"].to_pylist()],
        [reading(each, unknown) for each in encodings],
    )


def tokenise_completions(
    table: pyarrow.Table,
    tokenizer_json: str,
    end: int,
    max_length: int,
    template: str | None = None,
    at: str = TOKENIZER,
) -> pyarrow.Table:
    """Prompt, completion and the token `end`, cut to `max_length`; type 1 marks the tokens to generate.

    `template`: the chat template that words the prompts.
    """
    tokenizer, unknown = _opened(tokenizer_json)
    prompts = prompts_of(table, template)
    before, after = (
        [each.ids for each in _encoded(tokenizer, texts, at, add_special_tokens=False)]
        for texts in (prompts, table["label"].to_pylist())
    )
    wholes = [[*first, *second] for first, second in zip(before, after, strict=True)]
    kept = [whole[:max_length] for whole in wholes]
    return _tokenised(
        table,
        [[*whole, end][:max_length] for whole in wholes],
        [
            ([0] * len(first) + [1] * (len(second) + 1))[:max_length]
            for first, second in zip(before, after, strict=True)
        ],
        [0] * len(table),
        [
            Reading(len(some), 0 if unknown is None else some.count(unknown), len(whole) >= max_length)
            for some, whole in zip(kept, wholes, strict=True)
        ],
    )


def prompts_of(table: pyarrow.Table, template: str | None) -> list[str]:
    """What a decoder reads of each row, worded by a chat template where there is one."""
    texts, pairs = table["text"].to_pylist(), table["pair"].to_pylist()
    if template is None:
        return list(map(prompt, texts, pairs))
    conversation = Conversation(template, ())
    said = zip(texts, table["conversation"].to_pylist(), strict=True)
    return [conversation.of_input(text if each is None else json.loads(each), 0) for text, each in said]


def _encoded(tokenizer: Tokenizer, texts: list[Any], at: str, **how: bool) -> list[Any]:
    with given(at, "give a tokenizer that reads any text", "its tokenizer cannot read the rows"):
        return tokenizer.encode_batch(texts, **how)


@functools.lru_cache(maxsize=2)
def _opened(tokenizer_json: str) -> tuple[Tokenizer, int | None]:
    """A tokenizer and its unknown token, shared by all blocks that a worker tokenises: nobody may change it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    return tokenizer, unknown_id(tokenizer)


def _tokenised(
    table: pyarrow.Table, ids: list[list[int]], types: list[list[int]], numbers: list[int], readings: list[Reading]
) -> pyarrow.Table:
    import pyarrow

    return pyarrow.table(
        {
            "split": table["split"],
            "row": table["row"],
            "input_ids": pyarrow.array(ids, pyarrow.list_(pyarrow.int32())),
            "type_ids": pyarrow.array(types, pyarrow.list_(pyarrow.int8())),
            "length": pyarrow.array([len(each) for each in ids], pyarrow.int32()),
            "label": pyarrow.array(numbers, pyarrow.int32()),
            "text_tokens": pyarrow.array([each.tokens for each in readings], pyarrow.int32()),
            "unknown": pyarrow.array([each.unknown for each in readings], pyarrow.int32()),
            "cut": pyarrow.array([each.cut for each in readings], pyarrow.bool_()),
        }
    )


def train_tokenizer(texts: Iterable[str], vocabulary: int, least: int = 1) -> Tokenizer:
    """Byte-level BPE of at most `vocabulary` tokens, each of bytes that stand together at least so many times.

    `END` ends a text (Radford et al. 2019, section 2.2).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=least,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer

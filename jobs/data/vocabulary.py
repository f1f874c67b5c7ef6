"""Tokenizers of fewer tokens, which cut a text of these tokens as before."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal

from tokenizers import Tokenizer

from configs.loader import UsageError

Characters = Literal["all", "seen"]
Model = dict[str, Any]  # the part `model` of a tokenizer's JSON


def reduced(tokenizer: Tokenizer, wanted: Collection[int], characters: Characters) -> tuple[Tokenizer, list[int]]:
    """(tokenizer, ids): a tokenizer of the `wanted` and the necessary tokens, and the ids [K] that its tokens had.

    A text all of whose tokens are `wanted` is cut into the same tokens. Any other text stays encodable, in smaller
    pieces: special and single-character tokens stay, and the merges that make a token. With `characters` "seen" only
    the characters of `wanted` tokens stay. New ids are in the order of the old ones. Raises `UsageError` for an unknown
    kind of tokenizer.
    """
    written: dict[str, Any] = json.loads(tokenizer.to_str())
    model = written["model"]
    if model["type"] not in KEPT:
        raise _refused(f"tokens of a {model['type']} tokenizer are not known; those of {', '.join(KEPT)} are")
    if characters == "seen" and _is_bytes(written["pre_tokenizer"]):
        raise _refused("characters='seen': a byte-level tokenizer needs all 256 bytes to spell any text; use 'all'")
    number = _numbers(model)
    added = {each["content"]: each["id"] for each in written["added_tokens"]}
    used = {token for token, index in number.items() if index in wanted} - added.keys()
    alphabet = None if characters == "all" else frozenset("".join(used))
    kept = KEPT[model["type"]](model, used, alphabet) | (added.keys() & number.keys())
    ids = sorted({number[token] for token in kept} | set(added.values()))
    renumbered = {old: new for new, old in enumerate(ids)}
    _cut(model, kept, renumbered)
    for token in written["added_tokens"]:
        token["id"] = renumbered[token["id"]]
    if written["padding"]:
        written["padding"]["pad_id"] = renumbered[written["padding"]["pad_id"]]
    _renumber_frame(written["post_processor"], renumbered)
    return Tokenizer.from_str(json.dumps(written)), ids


def _numbers(model: Model) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {token: index for index, (token, _) in enumerate(model["vocab"])}
    return model["vocab"]


def _is_bytes(part: Any) -> bool:
    if not part:
        return False
    return part["type"] == "ByteLevel" or any(map(_is_bytes, part.get("pretokenizers", ())))


def _words(model: Model, used: set[str], alphabet: frozenset[str] | None) -> set[str]:
    """Tokens are whole words: there are no smaller pieces to keep."""
    return used | ({model["unk_token"]} & model["vocab"].keys())


def _word_pieces(model: Model, used: set[str], alphabet: frozenset[str] | None) -> set[str]:
    """The tokenizer takes the longest piece that matches, which stays the longest among fewer pieces."""
    prefix = model["continuing_subword_prefix"]
    single = _single(model["vocab"], alphabet, lambda token: token.removeprefix(prefix))
    return used | single | ({model["unk_token"]} & model["vocab"].keys())


def _pairs(model: Model, used: set[str], alphabet: frozenset[str] | None) -> set[str]:
    """Keep with each token the parts that its merges make on the way, so that a text of such tokens has all merges."""
    if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise _refused("a BPE tokenizer with a mark inside or at the end of words is not known")
    rank = {tuple(pair): index for index, pair in enumerate(model["merges"])}
    single = _single(model["vocab"], alphabet, str) | _bytes(model)
    parts = {part for token in used for merge in merges_of(token, rank) for part in (*merge, "".join(merge))}
    return used | single | parts | ({model["unk_token"]} & model["vocab"].keys())


def _likeliest(model: Model, used: set[str], alphabet: frozenset[str] | None) -> set[str]:
    """The likeliest segmentation stays the likeliest of fewer; the least score is the cost of an unknown character."""
    vocabulary: list[list[Any]] = model["vocab"]
    least = min((score for _, score in vocabulary), default=math.inf)
    kept = {token for token, score in vocabulary if score == least}
    if model["unk_id"] is not None:
        kept.add(vocabulary[model["unk_id"]][0])
    return used | kept | _single([token for token, _ in vocabulary], alphabet, str) | _bytes(model)


KEPT: Mapping[str, Callable[[Model, set[str], frozenset[str] | None], set[str]]] = {  # by the type of the model
    "WordLevel": _words,
    "WordPiece": _word_pieces,
    "BPE": _pairs,
    "Unigram": _likeliest,
}


def _single(tokens: Collection[str], alphabet: frozenset[str] | None, bare: Callable[[str], str]) -> set[str]:
    """The tokens of one character, which is in `alphabet` if that is given."""
    texts = {token: bare(token) for token in tokens}
    return {token for token, text in texts.items() if len(text) == 1 and (alphabet is None or text in alphabet)}


def _bytes(model: Model) -> set[str]:
    """The 256 byte tokens of a tokenizer that spells unknown text in bytes; else none."""
    return {f"<0x{byte:02X}>" for byte in range(256)} & _numbers(model).keys() if model["byte_fallback"] else set()


def merges_of(token: str, rank: Mapping[tuple[str, ...], int]) -> Iterator[tuple[str, str]]:
    """The merges by which BPE makes `token` of its characters, each time the merge of the lowest rank.

    They are the same inside any text that holds the token: a merge over its ends before them would have prevented it.
    (Sennrich et al. 2016, arXiv 1508.07909, algorithm 1.)
    """
    parts = list(token)
    while len(parts) > 1:
        best = min(itertools.pairwise(parts), key=lambda pair: rank.get(pair, math.inf))
        if best not in rank:
            return
        yield best
        at = next(index for index in range(len(parts) - 1) if (parts[index], parts[index + 1]) == best)
        parts[at : at + 2] = ["".join(best)]


def _cut(model: Model, kept: set[str], renumbered: Mapping[int, int]) -> None:
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            model["unk_id"] = renumbered[model["unk_id"]]
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in kept]
        return
    model["vocab"] = {token: renumbered[index] for token, index in model["vocab"].items() if token in kept}
    if model["type"] == "BPE":
        model["merges"] = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= kept]


def _renumber_frame(processor: Any, renumbered: Mapping[int, int]) -> None:
    """Renumber the tokens that a post-processor sets around a text."""
    match processor:
        case {"type": "Sequence", "processors": parts}:
            for part in parts:
                _renumber_frame(part, renumbered)
        case {"type": "TemplateProcessing", "special_tokens": tokens}:
            for token in tokens.values():
                token["ids"] = [renumbered[index] for index in token["ids"]]
        case {"sep": [_, _], "cls": [_, _]}:
            for name in ("sep", "cls"):
                token, index = processor[name]
                processor[name] = [token, renumbered[index]]


def _refused(reason: str) -> UsageError:
    return UsageError(f"compression: vocabulary: {reason}")

"""Bodies of requests that no client should send: mutations of valid ones, the same for the same seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

MARKER = "qz4111-0000-1111-7777zq"  # planted in every body; no answer may repeat it
NUMBERS = (0, -1, 1.5, 1e308, -1e308, 2**63, -(2**63) - 1, 10**30)
TEXTS = ("", " ", MARKER, "\x00", f"\u202e{MARKER}")
OBJECTS = ({}, {"": None}, {MARKER: MARKER}, {"messages": MARKER}, {"text": MARKER})
VALUES: tuple[Any, ...] = (None, True, False, *NUMBERS, *TEXTS, *OBJECTS, [], [[]], [None], [MARKER] * 3)
RAW = (b"NaN", b"-Infinity", b"1e999", b"-1e99999", b"0x10", b"01", b"+1", b"1.", b"'a'", b"undefined", b"1" * 5000)
CHARACTERS = ("\x00", "\x1f", "\x7f", "\u2028", "\ufeff", "\ufffe", "\U0010ffff", "\r\n", "</script>", "\\", '"')
AROUND = ((b"[", b"]"), (b"", b"{}"), (b"", b","), (b"\x00", b""), (b"// a\n", b""), (b"", b"\n" * 9))
NO_JSON = (b"", b"null", b'"a"', b"7", b"[]", b"{}", b"inputs=a", b"<inputs/>", MARKER.encode())
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "cp037")


def bodies(valid: dict[str, Any], count: int, seed: int) -> Iterator[bytes]:
    """So many mutations of a body."""
    chance = random.Random(seed)
    planted = _planted(valid)
    for number in range(count):
        yield MUTATIONS[number % len(MUTATIONS)](copy.deepcopy(planted), chance)


def _planted(part: Any) -> Any:
    """The body with the marker in its texts, but those that choose a model or a role."""
    if isinstance(part, dict):
        return {name: each if name in ("model", "role", "type") else _planted(each) for name, each in part.items()}
    if isinstance(part, list):
        return [_planted(each) for each in part]
    return f"{part} {MARKER}" if isinstance(part, str) else part


def _places(part: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in it."""
    keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
    for key in keys:
        yield part, key
        yield from _places(part[key])


def _put(body: Any, value: Any, chance: random.Random) -> Any:
    container, key = chance.choice(list(_places(body)))
    container[key] = value
    return body


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _other_type(body: Any, chance: random.Random) -> bytes:
    return _json(_put(body, chance.choice(VALUES), chance))


def _raw_value(body: Any, chance: random.Random) -> bytes:
    return _json(_put(body, "@raw@", chance)).replace(b'"@raw@"', chance.choice(RAW))


def _deep(body: Any, chance: random.Random) -> bytes:
    depth = chance.choice((2, 50, 500, 1500))
    begin, end = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    nested = begin * depth + _json(MARKER) + end * depth
    return _json(_put(body, "@raw@", chance)).replace(b'"@raw@"', nested)


def _surrogate(body: Any, chance: random.Random) -> bytes:
    escaped = chance.choice((b"\\ud800", b"\\udc00", b"\\udfff\\ud800", b"\\u00", b"\\uZZZZ"))
    return _json(_put(body, "@raw@", chance)).replace(b"@raw@", MARKER.encode() + escaped)


def _key_twice(body: Any, chance: random.Random) -> bytes:
    name = chance.choice(list(body))
    return b'{"%s": %s, %s' % (name.encode(), _json(chance.choice(VALUES)), _json(body)[1:])


def _unknown_key(body: Any, chance: random.Random) -> bytes:
    name = chance.choice((MARKER, "__proto__", "inputs\x00", "Inputs", "", "n", "tools", MARKER * 20))
    return _json({**body, name: chance.choice(VALUES)})


def _without_key(body: Any, chance: random.Random) -> bytes:
    del body[chance.choice(list(body))]
    return _json(body)


def _cut(body: Any, chance: random.Random) -> bytes:
    whole = _json(body)
    return whole[: chance.randrange(len(whole))]


def _wrong_bytes(body: Any, chance: random.Random) -> bytes:
    whole = bytearray(_json(body))
    for _ in range(chance.choice((1, 3, 20))):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    return bytes(whole)


def _encoding(body: Any, chance: random.Random) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode(chance.choice(ENCODINGS))


def _control(body: Any, chance: random.Random) -> bytes:
    """Characters in a text as they are, where JSON wants some of them escaped."""
    text = f"{MARKER}{chance.choice(CHARACTERS) * chance.choice((1, 100))}"
    if chance.random() < 0.5:
        return _json(_put(body, text, chance))
    return _json(_put(body, "@raw@", chance)).replace(b"@raw@", text.encode())


def _long(body: Any, chance: random.Random) -> bytes:
    text = chance.choice(("a", "ж", "a ", "\u0301", MARKER)) * chance.choice((100, 2000, 5000))
    return _json(_put(body, f"{MARKER}{text}", chance))


def _many(body: Any, chance: random.Random) -> bytes:
    return _json(_put(body, [MARKER] * chance.choice((2, 5, 300)), chance))


def _around(body: Any, chance: random.Random) -> bytes:
    before, after = chance.choice(AROUND)
    return before + _json(body) + after


def _no_json(_: Any, chance: random.Random) -> bytes:
    return chance.choice((*NO_JSON, chance.randbytes(200)))


MUTATIONS: tuple[Callable[[Any, random.Random], bytes], ...] = (
    _other_type, _raw_value, _deep, _surrogate, _key_twice, _unknown_key, _without_key, _cut, _wrong_bytes, _encoding,
    _control, _long, _many, _around, _no_json,
)  # fmt: skip

"""Personal data by kind: found in a labelled set with hard negatives, and at a cost that grows with the text alone."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.schema.redaction import Redaction
from jobs.models.reference import write_reference
from serving.bundle import MANIFEST, read_bundle
from serving.generator import load_generator
from serving.redaction import IBAN_LENGTHS, Redactor, luhn, redactor
from serving.runtime import load_bundle
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.models import encoder_classifier
from tests.tiny.stages import prepared

EACH = 400
ORDER = r"\b[A-Z]{2}-\d{4}-\d{5}\b"
KINDS = ["email", "phone", "card", "iban", "id_cn", "order"]
EVERYTHING = Redactor(Redaction.model_validate({"kinds": KINDS, "order_pattern": ORDER}))
AROUND = [
    "my number is {}, thanks",
    "{}",
    "Please use {} instead.",
    "联系{}谢谢",
    "({})",
    "it is: {}\nbye",
    "{} is mine",
]


def digits(chance: random.Random, count: int) -> str:
    return "".join(chance.choices(string.digits, k=count))


def email(chance: random.Random) -> str:
    name = chance.choice(["anna.b", "j_doe", "x+shop", "LI.WEI88", "o-neill", "a"])
    host = chance.choice(["mail.example.com", "example.co.uk", "qq.com", "my-shop.de", "sub.a1.example.org"])
    return f"{name}{digits(chance, 2)}@{host}"


def phone(chance: random.Random) -> str:
    d = digits(chance, 12)
    lead = chance.choice("23456789")
    return chance.choice(
        [
            f"+49 30 {d[:7]}",
            f"+49 (0)170 {d[:7]}",
            f"+1-{lead}{d[:2]}-{lead}{d[2:4]}-{d[4:8]}",
            f"({lead}{d[:2]}) {lead}{d[2:4]}-{d[4:8]}",
            f"{lead}{d[:2]}.{lead}{d[2:4]}.{d[4:8]}",
            f"0044 20 {d[:4]} {d[4:8]}",
            f"+33 6 {d[:2]} {d[2:4]} {d[4:6]} {d[6:8]}",
            f"030 / {d[:7]}",
            f"0170 {d[:7]}",
            f"0151{d[:7]}",
            f"13{d[:9]}",
            f"+86 13{d[0]} {d[1:5]} {d[5:9]}",
            f"15{d[0]}-{d[1:5]}-{d[5:9]}",
        ]
    )


def card(chance: random.Random) -> str:
    begin, length = chance.choice(
        [("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("36", 14), ("6011", 16), ("62", 19)]
    )
    body = begin + digits(chance, length - len(begin) - 1)
    number = next(body + check for check in string.digits if luhn(body + check))
    between = chance.choice(["", " ", "-"])
    return between.join(number[place : place + 4] for place in range(0, length, 4))


def iban(chance: random.Random) -> str:
    country = chance.choice(sorted(IBAN_LENGTHS))
    body = digits(chance, IBAN_LENGTHS[country] - 4)
    rest = int("".join(str(int(each, 36)) for each in f"{body}{country}00")) % 97
    number = f"{country}{98 - rest:02}{body}"
    return chance.choice([number, number.lower(), " ".join(number[n : n + 4] for n in range(0, len(number), 4))])


def id_cn(chance: random.Random) -> str:
    born = f"{chance.randint(1940, 2015)}{chance.randint(1, 12):02}{chance.randint(1, 28):02}"
    body = f"{chance.choice('123456')}{digits(chance, 5)}{born}{digits(chance, 3)}"
    weights = [2**power % 11 for power in range(17, 0, -1)]
    return body + "10X98765432"[sum(int(each) * weight for each, weight in zip(body, weights, strict=True)) % 11]


def order(chance: random.Random) -> str:
    return f"{chance.choice(['AB', 'XQ'])}-{digits(chance, 4)}-{digits(chance, 5)}"


def ean(chance: random.Random) -> str:
    body = chance.choice(["400", "501", "978", "690", "871"]) + digits(chance, 9)
    return body + str(-sum(int(each) * (3 if place % 2 else 1) for place, each in enumerate(body)) % 10)


NEGATIVES: dict[str, Callable[[random.Random], str]] = {
    "price": lambda chance: f"{chance.randint(1, 9999)}.{chance.randint(0, 99):02} EUR or 1,299.00 USD",
    "ean": ean,
    "model": lambda chance: chance.choice(["SM-G", "WH-1000XM", "DCD-", "RTX "]) + digits(chance, 4),
    "date": lambda chance: f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02} 10:30, 01.12.2026, 12/01/2026",
    "tracking": lambda chance: chance.choice(
        ["1Z" + digits(chance, 16), "JD0" + digits(chance, 17), digits(chance, 20)]
    ),
    "version": lambda chance: (
        f"version {chance.randint(1, 20)}.{chance.randint(0, 99)}.{digits(chance, 3)}.{digits(chance, 4)}"
    ),
    "size": lambda chance: (
        f"{chance.randint(1, 99)}x{chance.randint(100, 999)}x{digits(chance, 4)} mm, {digits(chance, 5)} mAh"
    ),
    "handle": lambda chance: f"@shop{digits(chance, 3)} and a@b",
    "number": lambda chance: f"article {chance.randint(1, 9)}{digits(chance, 7)}",
}
POSITIVES = {each.__name__: each for each in (email, phone, card, iban, id_cn, order)}


@pytest.mark.parametrize("kind", KINDS)
def test_of_each_kind_98_percent_are_found_whole(kind: str):
    chance = random.Random(kind)
    asked = [(chance.choice(AROUND), POSITIVES[kind](chance)) for _ in range(EACH)]
    right = [EVERYTHING(around.format(value)) == around.format(f"[{kind.upper()}]") for around, value in asked]
    missed = [
        (value, EVERYTHING(around.format(value)))
        for (around, value), found in zip(asked, right, strict=True)
        if not found
    ]
    assert sum(right) >= 0.98 * EACH, missed[:10]


@pytest.mark.parametrize("name", NEGATIVES)
def test_what_looks_like_one_stays(name: str):
    chance = random.Random(name)
    texts = [chance.choice(AROUND).format(NEGATIVES[name](chance)) for _ in range(EACH)]
    wrong = [(text, EVERYTHING(text)) for text in texts if EVERYTHING(text) != text]
    assert len(wrong) <= 0.01 * EACH, wrong[:10]


def test_a_digit_too_many_or_a_wrong_check_digit_is_no_number():
    for text in ("4111 1111 1111 1112", "4111 1111 1111 1111 1", "DE89 3704 0044 0532 0130 01", "11010519491231002Y"):
        assert EVERYTHING(text) == text
    assert EVERYTHING("DE89 3704 0044 0532 0130 00 BITTE, 4111 1111 1111 1111.") == "[IBAN] BITTE, [CARD]."
    assert EVERYTHING("11010519491231002X") == "[ID_CN]"


def test_only_kinds_that_are_asked_for_are_replaced_and_a_second_time_changes_nothing():
    text = "a@example.com or +49 30 1234567"
    assert Redactor(Redaction(kinds=["email"]))(text) == "[EMAIL] or +49 30 1234567"
    assert EVERYTHING(EVERYTHING(text)) == EVERYTHING(text) == "[EMAIL] or [PHONE]"
    assert redactor(None)(text) is text


@pytest.mark.parametrize(
    "part", ["a", "1", "1 ", "+1", "a@", "a.", "a@a.", "AB12 ", "0-", "(0", "+1(1)", "4 1-", "a-@a-.", "00 1", "é1"]
)
def test_the_steps_for_a_hostile_text_grow_with_its_length(part: str):
    """A pattern that backtracks would need hours, not seconds, for the longer text."""
    EVERYTHING(part * (100_000 // len(part)))


def test_a_shops_own_pattern_that_backtracks_ends():
    hostile = Redactor(Redaction(kinds=["order"], order_pattern=r"(a|aa|a?)+$(?<=b)"))
    with pytest.raises(ValueError, match=r"^data\.order_pattern takes more than a second for one text$"):
        hostile("a" * 100_000)


ASKED = Redaction(kinds=["email"])
MAIL = "write to a@example.com"


@pytest.mark.parametrize("pairs", [False, True])
def test_a_classifier_reads_what_it_was_trained_on(pairs: bool, tmp_path: Path):
    write_tiny_bundle(tmp_path / "plain", pairs=pairs)
    write_tiny_bundle(tmp_path / "redacting", pairs=pairs, redact=ASKED)
    plain, redacting = (load_bundle(tmp_path / name) for name in ("plain", "redacting"))
    asked, read = ((text, text) if pairs else text for text in (MAIL, "write to [EMAIL]"))
    assert redacting.rows([asked]) == [read] and plain.rows([asked]) == [asked]
    assert redacting.predict([asked]) == plain.predict([read])


def test_a_decoder_reads_what_it_was_trained_on_in_prompts_and_conversations(tmp_path: Path):
    write_tiny_decoder(tmp_path / "plain", redact=ASKED)
    assert load_generator(tmp_path / "plain").worded([MAIL]) == ["write to [EMAIL]\n"]
    template = "{% for each in messages %}{{ each.role }}: {{ each.content }}\n{% endfor %}"
    write_tiny_decoder(tmp_path / "chat", template=template, redact=ASKED)
    generator = load_generator(tmp_path / "chat")
    assert generator.worded([MAIL]) == ["user: write to [EMAIL]\n"]
    assert generator.conversation is not None
    assert generator.conversation.prompt([{"role": "user", "content": MAIL}]) == "user: write to [EMAIL]\n"


def test_attributes_are_replaced_in_their_text(tmp_path: Path):
    write_tiny_decoder(tmp_path / "bundle", attributes=True, redact=ASKED)
    assert load_generator(tmp_path / "bundle").worded([{"mail": "a@example.com"}]) == ["mail: [EMAIL]\n"]


def test_a_bundle_without_it_says_nothing_of_it_and_one_with_it_says_which(tmp_path: Path):
    write_tiny_bundle(tmp_path / "plain")
    write_tiny_bundle(tmp_path / "redacting", redact=ASKED)
    assert "redact" not in json.loads((tmp_path / "plain" / MANIFEST).read_bytes())
    assert read_bundle(tmp_path / "plain").redact is None
    assert read_bundle(tmp_path / "redacting").redact == ASKED


def test_prepared_rows_and_the_models_made_of_them_say_what_was_replaced(tmp_path: Path):
    plain, redacted = (
        prepared(tmp_path / name, data={"redact": kinds}) for name, kinds in (("plain", []), ("redacted", ["email"]))
    )
    assert plain.key != redacted.key and "redact" not in plain.manifest
    write_reference(tmp_path / "teacher", encoder_classifier(), redacted, "tiny", {}, {})
    assert read_bundle(tmp_path / "teacher").redact == ASKED

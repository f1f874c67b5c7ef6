"""What tells of a person is replaced by its kind, `[EMAIL]`, before a model reads it: in training and in service alike.

A kind is found by its form, and by its check digits where it has some: cards by Luhn's (ISO/IEC 7812-1), IBANs by the
remainder 97 (ISO 13616), Chinese ids by theirs (GB 11643). Phones have none: what is found has a plus, or the groups of
a national number. Time grows with the length of a text, not faster: every pattern begins at the edge of a word, and no
repetition of it is unbounded. Names and addresses are not found, so a redacted text is not anonymous.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

from configs.schema.redaction import Redaction

ORDER_SECONDS = 1.0  # for a shop's own pattern and one text
Found = Callable[[str], list[tuple[int, int]]]  # text -> where the kind stands

EMAIL = re.compile(
    r"(?<![\w.+%-])[a-z0-9_](?:[a-z0-9_.+%-]{0,62}[a-z0-9_+-])?@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,6}[a-z]{2,24}"
    r"(?![a-z0-9-])",
    re.IGNORECASE | re.ASCII,
)
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}", re.IGNORECASE | re.ASCII)
ID_CN = re.compile(r"(?<![A-Za-z0-9])[1-9][0-9]{16}[0-9Xx](?![A-Za-z0-9])")
CARD = re.compile(r"(?<![A-Za-z0-9])[2-6](?:[ -]?[0-9]){13,18}(?![A-Za-z0-9]|[ -]?[0-9])")
PHONE = re.compile(
    r"(?<![A-Za-z0-9.,+/-])(?:"
    r"(?:\+|(?<![0-9][ -])00)[1-9][0-9]{0,2}(?:[ ./-]?\(?[0-9]{1,8}\)?){2,7}"  # international
    r"|(?<![0-9][ -])(?:"
    r"\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-][0-9]{4}"  # North American
    r"|(?:1[ -])?[2-9][0-9]{2}([ .-])[2-9][0-9]{2}\1[0-9]{4}"
    r"|\(?0[1-9][0-9]{1,4}\)?[ /-]{1,3}[0-9]{3,8}(?:[ -][0-9]{2,5}){0,4}"  # with a trunk prefix, in groups
    r"|0[1-9][0-9]{8,9}"
    r"|1[3-9][0-9](?:[0-9]{8}|[ -][0-9]{4}[ -][0-9]{4}))"  # Chinese mobiles
    r")(?![A-Za-z0-9]|[.,:/-][0-9])"
)
PHONE_DIGITS = range(8, 16)  # ITU-T E.164
IBAN_LENGTHS = {  # of the IBAN registry
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FK", "FO", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "MN", "XK"), 20),
    **dict.fromkeys(("CH", "CR", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}
CARDS = re.compile(  # number ranges of the large schemes, with their lengths
    r"4[0-9]{15}|4[0-9]{18}|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}|3(?:52[89]|5[3-8][0-9])[0-9]{12}"
    r"|6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{12}|62[0-9]{14,17}|(?:50|5[6-9]|6[0-9])[0-9]{14,17}"
)


class Redactor:
    """Replaces what is found of some kinds."""

    def __init__(self, redaction: Redaction) -> None:
        self._finders: list[tuple[str, Found]] = []
        for kind in ("email", "order", "iban", "id_cn", "card", "phone"):  # those that are surest first
            if kind in redaction.kinds:
                finder = _orders(redaction.order_pattern or "") if kind == "order" else FINDERS[kind]
                self._finders.append((f"[{kind.upper()}]", finder))

    def __call__(self, text: str) -> str:
        """The text with the name of its kind in place of whatever is found. Raises `ValueError` after a second of an
        own pattern for orders."""
        for name, find in self._finders:
            pieces, end = [], 0
            for start, stop in find(text):
                pieces += [text[end:start], name]
                end = stop
            text = "".join([*pieces, text[end:]]) if pieces else text
        return text


def redactor(redaction: Redaction | None) -> Callable[[str], str]:
    """What redacts a text; nothing does where there is no `redaction`."""
    return Redactor(redaction) if redaction and redaction.kinds else str


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(each - 9 * (each > 9) for each in doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Whether letters and digits are an IBAN."""
    moved = text[4:] + text[:4]
    return IBAN_LENGTHS.get(text[:2]) == len(text) and int("".join(str(int(each, 36)) for each in moved)) % 97 == 1


def is_id_cn(text: str) -> bool:
    """Whether 18 characters are the number of a Chinese identity card."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    check = "10X98765432"[sum(int(digit) * weight for digit, weight in zip(text, weights, strict=False)) % 11]
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    return born.year >= 1890 and check == text[17].upper()


def _emails(text: str) -> list[tuple[int, int]]:
    return [each.span() for each in EMAIL.finditer(text)] if "@" in text else []


def _ibans(text: str) -> list[tuple[int, int]]:
    """Of each candidate so many letters and digits as its country has: what follows may be words."""
    found = []
    for each in IBAN.finditer(text):
        places = [place for place in range(*each.span()) if text[place] not in " -"]
        places = places[: IBAN_LENGTHS.get(each[0][:2].upper(), 0)]
        number = "".join(text[place] for place in places).upper()
        after = text[places[-1] + 1 : places[-1] + 2] if places else ""
        if number and is_iban(number) and not (after.isascii() and after.isalnum()):
            found.append((each.start(), places[-1] + 1))
    return found


def _ids(text: str) -> list[tuple[int, int]]:
    return [each.span() for each in ID_CN.finditer(text) if is_id_cn(each[0])]


def _cards(text: str) -> list[tuple[int, int]]:
    found = []
    for each in CARD.finditer(text):
        digits = _digits(each[0])
        if CARDS.fullmatch(digits) and luhn(digits):
            found.append(each.span())
    return found


def _phones(text: str) -> list[tuple[int, int]]:
    """Without a bracket that belongs to the text around it."""
    found = []
    for each in PHONE.finditer(text):
        start, stop = each.span()
        brackets = each[0].count("(") - each[0].count(")")
        if len(_digits(each[0])) in PHONE_DIGITS:
            found.append((start + (brackets > 0 and each[0][0] == "("), stop - (brackets < 0 and each[0][-1] == ")")))
    return found


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _orders(pattern: str) -> Found:
    import regex  # as slow to import as numpy

    compiled = regex.compile(pattern, regex.ASCII)  # a word ends before Chinese

    def find(text: str) -> list[tuple[int, int]]:
        try:
            return [each.span() for each in compiled.finditer(text, timeout=ORDER_SECONDS) if each[0]]
        except TimeoutError:
            raise ValueError("data.order_pattern takes more than a second for one text") from None

    return find


FINDERS: dict[str, Found] = {"email": _emails, "iban": _ibans, "id_cn": _ids, "card": _cards, "phone": _phones}

from __future__ import annotations

from typing import Any

import pytest

from jobs.tasks.classify.templates import Message, central, learn, peculiar_numbers, template_of, words_like_others


def message(reply: str, text: str = "where is it", intent: str = "track", **values: str) -> Message:
    return Message(text, intent, reply, values)


@pytest.mark.parametrize(
    ("reply", "values", "expected"),
    [
        ("Order A-17 is late, {{Name}}.", {"order": "A-17"}, "Order {{order}} is late, {{Name}}."),
        ("your PRO account, pro user", {"kind": "Pro"}, "your {{kind}} account, {{kind}} user"),
        ("a professional", {"kind": "pro"}, "a professional"),  # part of a word
        (
            "{{ Order Number }} of order",
            {"order": "order"},
            "{{Order Number}} of {{order}}",
        ),  # no placeholder inside one
        ("12 of 123 for Ann", {"a": "12", "b": "123", "c": "Ann"}, "{{a}} of {{b}} for {{c}}"),
        ("It costs $5 (net).", {"a": "$5"}, "It costs {{a}} (net)."),
        ("All well.", {"a": " "}, "All well."),
    ],
)
def test_values_of_the_message_become_placeholders(reply: str, values: dict[str, str], expected: str):
    assert template_of(message(reply, **values)) == expected


@pytest.mark.parametrize(
    ("text", "reply", "values"),
    [
        ("where is 4711", "Order 4711 is late.", {}),
        ("where is 004711", "Order 4711 is late.", {}),
        ("where is 4711", "Order 471100 is late.", {}),  # the customer left out digits
        ("i paid 1,299", "You get 1299 back.", {}),
        ("where is it", "Order 471100 of 4711 is late.", {"order": "4711"}),
        ("where is it", "Call us at [Phone Number].", {}),
        ("where is it", "Call us at {Phone}.", {}),
        ("where is it", "Call us at {{Phone}.", {}),
        ("where is it", "{{Phone}}", {}),
        ("where is it", "feel free to ask", {"kind": "free"}),
    ],
)
def test_a_reply_that_says_what_is_of_its_own_message_alone_can_be_no_template(
    text: str, reply: str, values: dict[str, str]
):
    assert template_of(message(reply, text, **values), {"free"}) is None


def test_a_number_that_is_a_placeholder_or_stands_inside_one_does_no_harm():
    assert template_of(message("{{Order 4711}} is 4711.", "my 4711", order="4711")) == "{{Order 4711}} is {{order}}."
    assert template_of(message("1. Wait. 2. Ask [us](mail).", "it is 11 days late")) == "1. Wait. 2. Ask [us](mail)."


def test_a_word_that_is_said_to_other_messages_is_no_value():
    rows = [message("Your free account. Feel free to ask.", kind="free")]
    rows += [message("Your pro account. Feel free to ask.", kind="pro") for _ in range(9)]
    assert words_like_others(rows) == {"free"}
    assert learn(rows, ["kind"]).templates == {"track": ["Your {{kind}} account. Feel free to ask."]}


def test_numbers_of_one_reply_and_long_ones_of_messages_are_peculiar():
    rows = [message("Call 112 or 5 in 14 days", "order 987"), message("Call 112 in 14 days", "in 14 days?")]
    assert peculiar_numbers(rows) == {"5", "987"}
    assert peculiar_numbers(rows[:1]) == {"987"}


def test_the_central_text_is_the_one_that_is_most_like_all():
    texts = ["your parcel", "look for your parcel", "no", "look for your parcel today", "wait"]
    assert central(texts, [True] * 5) == 1
    assert central(texts, [True, False, True, False, True]) == 0
    assert central(texts, [False] * 5) is None
    assert central(["?", "!"], [False, True]) == 1


def test_the_most_frequent_of_different_replies_is_central():
    replies = ["Please wait.", "Ask the carrier.", "Look at the map.", "Ask the carrier."]
    assert learn([message(each) for each in replies], []).templates == {"track": ["Ask the carrier."]}


def test_a_template_with_a_value_of_the_message_is_followed_by_one_without():
    rows: list[Any] = [message("Order A1 is on its way.", order="A1"), message("Order B2 is on its way.", order="B2")]
    rows += [message("It is on its way."), message("Say 5.", "my 5", "count"), message("Yes.", intent="refund")]
    found = learn(rows, ["order"])
    assert found.fields == ["order"]
    assert found.templates == {
        "refund": ["Yes."],
        "track": ["Order {{order}} is on its way.", "It is on its way."],
    }

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any

import pytest

from tuning.chart import BOTTOM, LEFT, RIGHT, TOP
from tuning.comparison import Label, draw, svg
from tuning.figures import AS_THEY_COME, Figures, figures, timed

SHAPE = timed((1, 32))


def answer(accuracy: float, p50: float, megabytes: float | None = None, around: float | None = None) -> Figures:
    found = figures({"accuracy": accuracy}, {SHAPE.at: {"p50_ms": p50}})
    if megabytes:
        found["metrics"]["bytes"] = megabytes * 1e6
    if around:
        found["metrics"] |= {"accuracy_low": accuracy - around, "accuracy_high": accuracy + around}
    return found


ANSWERS = {
    "tfidf_svm": answer(0.83, 0.6),
    "teacher": answer(0.97, 20.0, 90, 0.01),
    "step_<export>": answer(0.94, 8.1, 77, 0.01),
    "step_prune": answer(0.938, 8.0, 77, 0.01),
    "winner": answer(0.939, 2.0, 22.5, 0.01),
}


def drawn(answers: Mapping[str, Figures] = ANSWERS) -> dict[str, Any]:
    picture = draw(answers, "accuracy", SHAPE)
    assert picture is not None
    return picture | {each["name"]: each for each in picture["points"]}


def test_it_is_an_svg_with_a_circle_and_a_name_for_each_contender():
    root = ElementTree.fromstring(svg(ANSWERS, "accuracy", SHAPE))  # noqa: S314 - made here
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"tfidf svm", "teacher", "step <export>", "step prune", "winner"} <= set(texts)
    assert "p50, ms: batch 1, 32 tokens (log scale)" in texts and "area: size, line: 95 % interval" in texts
    titles = [each.text for each in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "winner: accuracy 0.9390, p50 2.00 ms, 22.5 MB" in titles
    assert "tfidf svm: accuracy 0.8300, p50 0.60 ms" in titles


def test_inside_a_page_it_names_no_address():
    assert "http" not in svg(ANSWERS, "accuracy", SHAPE, alone=False)


def test_the_axis_says_what_was_timed():
    picture = svg({"winner": figures({"bleu": 39.0}, {"mix": {"p50_ms": 8.0}})}, "bleu", AS_THEY_COME, title="BLEU")
    assert "p50, ms: a row as it comes" in picture
    assert ">BLEU</text>" in picture and "bleu" not in picture


def test_the_area_is_the_size_and_the_line_the_interval():
    picture = drawn()
    assert (picture["teacher"]["radius"] / picture["winner"]["radius"]) ** 2 == pytest.approx(90 / 22.5, rel=0.02)
    low, high = picture["winner"]["interval"]
    assert (low + high) / 2 == pytest.approx(picture["winner"]["y"], abs=0.1) and high < low
    assert picture["tfidf svm"]["interval"] is None


def test_a_name_stands_to_the_right_where_there_is_room_and_on_no_interval():
    apart = {"nearest_row": answer(0.30, 3.2, None, 0.005), "winner": answer(0.33, 1.8, 1.3, 0.005)}
    apart |= {"student": answer(0.328, 19.3, 2.6, 0.005), "teacher": answer(0.3346, 36.4, 6.1, 0.005)}
    assert drawn(apart)["nearest row"]["label"].anchor == "start"
    near = {"teacher": answer(0.94, 20.0, 90, 0.01), "student": answer(0.94, 16.0, 1, 0.01)}
    picture = drawn(near)
    for one in picture["points"]:
        left, top, right, bottom = one["label"].box(one["name"])
        for other in picture["points"]:
            low, high = other["interval"]
            assert not (left < other["x"] < right and top < low and high < bottom)


@pytest.mark.parametrize(
    "answers",
    [
        ANSWERS,
        {"winner": ANSWERS["winner"]},
        {"winner": answer(1.0, 3.0), "teacher": answer(1.0, 3.0)},
        {f"model_{n}": answer(0.9, 2.0, 10, 0.01) for n in range(6)},
    ],
    ids=["usual", "one", "equal", "many in one place"],
)
def test_circles_and_names_stay_in_the_picture(answers: dict[str, Figures]):
    for point in drawn(answers)["points"]:
        assert LEFT <= point["x"] <= RIGHT and TOP <= point["y"] <= BOTTOM
        left, top, right, bottom = point["label"].box(point["name"])
        assert left >= LEFT - 1 and right <= RIGHT + 1 and top >= 0 and bottom <= BOTTOM + 1


def test_names_of_contenders_in_one_place_do_not_cover_each_other():
    points = drawn({f"model_{n}": answer(0.9, 2.0, 10) for n in range(4)} | {"teacher": ANSWERS["teacher"]})["points"]
    places: list[Label] = [each["label"] for each in points]
    assert len(set(places)) == len(places)


def test_who_was_not_timed_is_not_drawn():
    untimed = {"nearest": figures({"accuracy": 0.5}), "winner": ANSWERS["winner"]}
    assert [each["name"] for each in drawn(untimed)["points"]] == ["winner"]
    assert svg({"nearest": figures({"accuracy": 0.5})}, "accuracy", SHAPE) == ""

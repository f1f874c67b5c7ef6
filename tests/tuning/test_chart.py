from __future__ import annotations

from typing import Any

import pytest

from configs.schema.search import BudgetSpec
from tests.tuning.pages import BUDGET, TEACHER, TRIALS, manifest, page, trial
from tuning.chart import BOTTOM, LEFT, RIGHT, TOP, Axis, draw
from tuning.pareto import Trial


def test_the_chart_draws_every_measured_trial_with_the_winner_marked_and_both_limits():
    found = page()
    assert sorted(filter(None, found.classes("circle"))) == ["inside", "outside", "outside", "ring", "winner"]
    assert found.classes("line").count("limits") == 2
    assert "at least 0.9405" in found.text and "at most 2 ms" in found.text
    assert "trial d_winner: metric 0.9475, retention 99.74%, p95, ms 1.50, MB 15.0" in found.text
    assert page(budget=BudgetSpec(min_retention=0.9)).classes("line").count("limits") == 1


def test_a_circles_area_is_its_megabytes():
    picture = drawn(TRIALS)
    radius = {point["words"].split(":")[0]: point["radius"] for point in picture["points"]}
    assert (radius["trial a_slow"] / radius["trial d_winner"]) ** 2 == pytest.approx(4, rel=0.05)


def drawn(trials: list[Trial], budget: BudgetSpec = BUDGET) -> dict[str, Any]:
    found = manifest(trials, budget)
    picture = draw(found["trials"], (found["winner"] or {}).get("id"), budget, TEACHER, "most accurate")
    assert picture is not None
    return picture


@pytest.mark.parametrize(
    "trials",
    [
        TRIALS,
        TRIALS[2:3],
        [trial("fast", 0.95, p95=0.01), trial("slow", 0.95, p95=500.0, megabytes=0.0)],
        [trial("none", 0.0, p95=1.0)],
        [trial("perfect", 1.0, p95=2.0), trial("same", 1.0, p95=2.0)],
    ],
    ids=["usual", "one", "far apart", "zero", "equal"],
)
@pytest.mark.parametrize("budget", [BUDGET, BudgetSpec(min_retention=0)], ids=["tight", "loose"])
def test_everything_is_drawn_inside_the_picture(trials: list[Trial], budget: BudgetSpec):
    picture = drawn(trials, budget)
    for point in picture["points"]:
        assert LEFT <= point["x"] <= RIGHT and TOP <= point["y"] <= BOTTOM
    assert TOP <= picture["limit_y"] <= BOTTOM
    assert picture["limit_x"] is None or LEFT <= picture["limit_x"] <= RIGHT
    for places, low, high in ((picture["x_ticks"], LEFT, RIGHT), (picture["y_ticks"], TOP, BOTTOM)):
        assert 2 <= len(places) <= 16
        assert all(low <= place <= high for place, _ in places)


def test_a_trial_below_the_edge_is_drawn_on_it_and_counted():
    picture = drawn(TRIALS)
    (collapsed,) = [point for point in picture["points"] if "e_collapsed" in point["words"]]
    assert collapsed["y"] == pytest.approx(BOTTOM - collapsed["radius"])
    assert "Trials below the lower edge are drawn on it: 1." in picture["caption"]
    assert "Trials without figures, not drawn: 1." in picture["caption"]


def test_axes_have_round_ticks():
    assert Axis(0.0, 9.1, LEFT, RIGHT).ticks() == [0, 2, 4, 6, 8]
    assert Axis(0.911, 0.958, LEFT, RIGHT).ticks() == [0.92, 0.93, 0.94, 0.95]
    assert Axis(0.3, 80.0, LEFT, RIGHT, log=True).ticks() == [0.5, 1, 2, 5, 10, 20, 50]


def test_a_log_axis_puts_equal_ratios_at_equal_distances():
    axis = Axis(1.0, 100.0, 0.0, 200.0, log=True)
    assert [axis.at(value) for value in (1, 10, 100)] == [0, 100, 200]

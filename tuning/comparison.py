"""The picture of an evaluation: the metric of every contender over its latency, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tuning.chart import BOTTOM, FRAME, LEFT, LOG_FROM, RIGHT, TOP, Axis
from tuning.figures import Figures, Timed

if TYPE_CHECKING:
    from jinja2 import Environment

LARGEST, SMALLEST = 26.0, 3.0  # radius of a circle; the smallest is also that of a contender of unknown size
LETTER, LINE = 6.6, 14.0  # width and height of a label's letters
Box = tuple[float, float, float, float]  # left, top, right, bottom


class Label(NamedTuple):
    """The place of a contender's name."""

    x: float
    y: float
    anchor: str

    def box(self, text: str) -> Box:
        """The box that it covers."""
        left = self.x - LETTER * len(text) * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]
        return left, self.y - LINE + 3, left + LETTER * len(text), self.y + 3


def svg(answers: Mapping[str, Figures], metric: str, timed: Timed, alone: bool = True, title: str = "") -> str:
    """One circle for each contender that has `metric` and a median latency of what was `timed`.

    Its area is its bytes; a vertical line is the interval from `<metric>_low` to `<metric>_high`. Empty where nobody
    was timed. With alone=False it is part of a page and takes its colours. `title` is the metric's name for readers.
    """
    picture = draw(answers, metric, timed, title)
    return templates().get_template("comparison.svg.jinja").render(picture, alone=alone) if picture else ""


def templates() -> Environment:
    """The templates beside this file; their values are escaped as text, not HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def draw(answers: Mapping[str, Figures], metric: str, timed: Timed, title: str = "") -> dict[str, Any] | None:
    """The picture as numbers and words for its template; None where nobody was timed."""
    p50 = {name: each["latency"].get(timed.at, {}).get("p50_ms", 0.0) for name, each in answers.items()}
    measured = {name: each["metrics"] for name, each in answers.items()}
    drawn = {name: each for name, each in measured.items() if metric in each and p50[name] > 0}
    if not drawn:
        return None
    times = [p50[name] for name in drawn]
    ends = [each.get(f"{metric}_{end}", each[metric]) for each in drawn.values() for end in ("low", "high")]
    title = title or metric
    margin = (max(ends) - min(ends) or 1.0) * 0.1
    log = max(times) / min(times) > LOG_FROM
    x = Axis(min(times) / 1.6 if log else 0.0, max(times) * (1.6 if log else 1.2), LEFT, RIGHT, log)
    y = Axis(min(ends) - margin, max(ends) + margin, BOTTOM, TOP)
    largest = max(each.get("bytes", 0.0) for each in drawn.values()) or 1.0
    points = []
    for name, each in drawn.items():
        size, low, high = (each.get(figure) for figure in ("bytes", f"{metric}_low", f"{metric}_high"))
        words = f"{name.replace('_', ' ')}: {title} {each[metric]:.4f}, p50 {p50[name]:.2f} ms"
        points.append(
            {
                "name": name.replace("_", " "),
                "kind": "ours" if name == "winner" else "other",
                "x": x.at(p50[name]),
                "y": y.at(each[metric]),
                "radius": round(max(SMALLEST, LARGEST * math.sqrt((size or 0.0) / largest)), 1),
                "interval": None if low is None or high is None else (y.at(low), y.at(high)),
                "words": words + (f", {size / 1e6:.1f} MB" if size else ""),
            }
        )
    points.sort(key=lambda point: -point["radius"])  # small ones lie above large ones
    _name(points)
    return {
        **FRAME,
        "metric": title,
        "legend": "area: size" + (", line: 95 % interval" if any(each["interval"] for each in points) else ""),
        "x_title": f"p50, ms: {timed.title}{' (log scale)' if log else ''}",
        "x_ticks": [(x.at(tick), f"{tick:g}") for tick in x.ticks()],
        "y_ticks": [(y.at(tick), f"{tick:g}") for tick in y.ticks()],
        "points": points,
        "words": f"{title} of {len(drawn)} contenders over latency; the figures are in the table",
    }


def _name(points: Sequence[dict[str, Any]]) -> None:
    """Write every name beside its circle where it covers the least of other names and circles."""
    circles: list[Box] = [
        (each["x"] - each["radius"], each["y"] - each["radius"], each["x"] + each["radius"], each["y"] + each["radius"])
        for each in points
    ]
    lines: list[Box] = [
        (each["x"] - 1, each["interval"][1], each["x"] + 1, each["interval"][0]) for each in points if each["interval"]
    ]
    written: list[Box] = []
    for number, each in enumerate(points):
        far = each["radius"] + 5
        places = [
            Label(each["x"] + far, each["y"] + 4, "start"),
            Label(each["x"] - far, each["y"] + 4, "end"),
            Label(each["x"], each["y"] - far, "middle"),
            Label(each["x"], each["y"] + far + 9, "middle"),
            Label(each["x"] + far * 0.8, each["y"] - far * 0.8, "start"),
            Label(each["x"] + far * 0.8, each["y"] + far * 0.8 + 8, "start"),
            Label(each["x"] - far * 0.8, each["y"] - far * 0.8, "end"),
            Label(each["x"] - far * 0.8, each["y"] + far * 0.8 + 8, "end"),
        ]
        others = [*written, *lines, *circles[:number], *circles[number + 1 :]]

        def covered(place: Label, text: str = each["name"], others: Sequence[Box] = others) -> float:
            box = place.box(text)
            outside = LETTER * LINE * len(text) - _overlap(box, (LEFT, TOP - LINE, RIGHT, BOTTOM))
            covers = sum(_overlap(box, other) for other in others)
            return round(outside + covers, 6)  # of equally good places the first wins, to the right

        each["label"] = best = min(places, key=covered)
        written.append(best.box(each["name"]))


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)

"""What was measured of a contender: nested as it is kept, flat as MLflow and bundles know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypedDict

Shape = tuple[int, ...]  # rows and tokens of a call, and of what writes the tokens of each answer
MIX = "mix"  # single rows as they come, of whatever length
LATENCIES = (
    *("p50_ms", "p95_ms", "p99_ms", "mean_ms", "calls", "busy", "p95_ms_others_low", "p95_ms_others_high"),
    *("ms_per_token", "tokens_per_second"),  # of answers of a stated length: by p50, prompt included
)


class Figures(TypedDict):
    """The figures of one contender, as JSON. What was timed is named by `at` or is `MIX`."""

    metrics: dict[str, float]  # of all rows, and of the contender itself: accuracy, bytes, load_s
    latency: dict[str, dict[str, float]]  # by what was timed: `LATENCIES`
    shares: dict[str, dict[str, float]]  # by what was timed: of the CPU's peak, by its kind (fp32, int8)


class Timed(NamedTuple):
    """What was timed: its name among the figures, and in words."""

    at: str
    title: str


AS_THEY_COME = Timed(MIX, "a row as it comes")


def at(shape: Shape) -> str:
    """The name of a shape."""
    batch, tokens, *answer = shape
    return f"batch{batch}_tokens{tokens}" + "".join(f"_answer{each}" for each in answer)


def timed(shape: Shape) -> Timed:
    """A shape, in words."""
    batch, tokens, *answer = shape
    if not answer:
        return Timed(at(shape), f"batch {batch}, {tokens} tokens")
    written = "first token" if answer == [1] else f"answers of {answer[0]}"
    return Timed(at(shape), f"batch {batch}, prompts of {tokens} tokens, {written}")


def figures(
    metrics: Mapping[str, float] | None = None,
    latency: Mapping[str, Mapping[str, float]] | None = None,
    shares: Mapping[str, Mapping[str, float]] | None = None,
) -> Figures:
    """New ones, of these."""
    return {
        "metrics": dict(metrics or {}),
        "latency": {name: dict(each) for name, each in (latency or {}).items()},
        "shares": {name: dict(each) for name, each in (shares or {}).items()},
    }


def add(more: Figures, to: Figures) -> None:
    """Add figures of the same contender."""
    to["metrics"].update(more["metrics"])
    for part, found in ((to["latency"], more["latency"]), (to["shares"], more["shares"])):
        for name, each in found.items():
            part.setdefault(name, {}).update(each)


def flat(each: Figures) -> dict[str, float]:
    """By the names that MLflow, bundles and metrics.json have: accuracy, batch1_tokens32_p50_ms."""
    latency = {f"{name}_{key}": value for name, found in each["latency"].items() for key, value in found.items()}
    shares = {
        f"{name}_{kind}_peak_share": value for name, found in each["shares"].items() for kind, value in found.items()
    }
    return each["metrics"] | latency | shares


def latency_of(metrics: Mapping[str, float], name: str) -> dict[str, float]:
    """The latencies of what was timed under `name`, out of flat metrics."""
    return {each: metrics[f"{name}_{each}"] for each in LATENCIES if f"{name}_{each}" in metrics}

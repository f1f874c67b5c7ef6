"""What the baselines say of a teacher, on validation rows, before a search for its students spends hours."""

from __future__ import annotations

import logging
from pathlib import Path

from cluster import tracking
from configs.schema.recipe import Recipe
from configs.schema.tasks import BASELINES
from jobs.data.prepared import Prepared
from jobs.data.snapshot import Snapshot
from serving.bundle import MANIFEST

log = logging.getLogger(__name__)


def compare(
    recipe: Recipe,
    prepared: Prepared,
    teacher: Path,
    whole: float | None,
    run: tracking.Run,
    validation: Snapshot | None = None,
) -> dict[str, dict[str, float]]:
    """{contender: its metric on the validation rows, with the ends of its interval} of the baselines that the recipe
    asks for; logged, and told to `run` as `baseline_*`.

    `whole`: the teacher's metric there, where it is known. A bundle that was made before is found.
    """
    from jobs.measure import baselines

    metric, found = recipe.judged_by.metric, {}
    there = teacher if (teacher / MANIFEST).exists() else None
    names = baselines.possible(recipe, there, bool(prepared.manifest.get("attributes")))
    for name, measured in baselines.measured(recipe, names, there, validation).items():
        figures = {each: measured[each] for each in (metric, f"{metric}_low", f"{metric}_high")}
        found[BASELINES[name].contender] = figures
        run.metrics.log({f"baseline_{name}_{each}": value for each, value in figures.items()})
    if found:
        words, ahead = said(found, whole, metric)
        log.log(logging.WARNING if ahead else logging.INFO, words)
    return found


def said(found: dict[str, dict[str, float]], whole: float | None, metric: str) -> tuple[str, bool]:
    """A sentence about baselines and teacher, and whether one is better: the low end of its interval is above it."""
    figures = ", ".join(
        f"{name} {each[metric]:.4f} ({each[f'{metric}_low']:.4f} to {each[f'{metric}_high']:.4f})"
        for name, each in found.items()
    )
    if whole is None:
        return f"On the validation rows, {metric} with its 95 % interval: {figures}.", False
    best = max(found, key=lambda name: found[name][metric])
    ahead = found[best][f"{metric}_low"] > whole
    words = f"On the validation rows, {metric} with its 95 % interval: {figures}; the teacher {whole:.4f}."
    if ahead:
        return f"The baseline {best} is better than the teacher, of which students are to be made. {words}", True
    return words, False

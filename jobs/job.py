"""A job: one MLflow run around what a verb makes, on the cluster, and what its RESULT line says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cluster import session, tracking
from configs.schema.recipe import Recipe
from jobs.command import Result
from jobs.data.snapshot import Snapshot, remove_left, take_snapshot
from jobs.layout import output
from tuning.pareto import RETENTION

T = TypeVar("T")


@dataclass
class Way:
    """A job under way: its recipe, its MLflow run, and what it has opened or made so far."""

    recipe: Recipe
    run: tracking.Run
    verb: str
    tracked: bool = False  # whether each stage that is made is an MLflow run below the job's own
    held: ExitStack = field(default_factory=ExitStack)  # what is given back when the job ends
    values: dict[str, Any] = field(default_factory=dict)  # by the name of a stage, or of what is asked `once`

    @property
    def output(self) -> Path:
        """The folder of results."""
        return Path(output(self.recipe))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, asked once a job."""
        if name not in self.values:
            self.values[name] = make()
        return self.values[name]

    def result(self, metrics: Mapping[str, float], tested: bool = False, **places: str | None) -> Result:
        """What the job tells of itself; `places` are fields of `Result`.

        `tested`: whether the metrics are of test rows. Else what is kept of the teacher is named as of validation rows.
        """
        named = dict(metrics) if tested else of_validation(metrics)
        return Result(self.verb, self.run.id, str(self.output), named, **places)

    @contextmanager
    def below(self, verb: str) -> Iterator[Way]:
        """The same way in an MLflow run of its own."""
        with _run(verb, self.recipe, self.run.id) as run:
            yield Way(self.recipe, run, verb, held=self.held, values=self.values)


@contextmanager
def job(
    verb: str,
    recipe: Recipe,
    parent: str | None = None,
    *,
    tracked: bool = False,
    cluster: bool = True,
    place: tracking.Place | None = None,
) -> Iterator[Way]:
    """Open the MLflow run of `verb`, below `parent` where there is one, and join the cluster where it is needed."""
    with _run(verb, recipe, parent, place) as run:
        if parent is None and place is None:  # the job has the output to itself
            remove_left(Path(output(recipe)))
        if cluster:
            session.connect()
        with ExitStack() as held:
            yield Way(recipe, run, verb, tracked, held)


def of_validation(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of validation rows named so, and plainly those that are said to be of test rows."""
    found = {f"validation_{RETENTION}" if name == RETENTION else name: value for name, value in metrics.items()}
    return {name.removeprefix("test_"): value for name, value in found.items()}


def validation_rows(way: Way) -> Snapshot:
    """The validation rows, read once a job, as the processes that measure are handed them."""

    def take() -> Snapshot:
        return way.held.enter_context(take_snapshot(way.recipe.data, "validation", way.output))

    return way.once("validation rows", take)


def _run(verb: str, recipe: Recipe, parent: str | None, place: tracking.Place | None = None) -> Any:
    told = recipe.model_dump()
    return tracking.run(verb, experiment=recipe.tracking.experiment, recipe=told, parent=parent, place=place)

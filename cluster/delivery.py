"""Delivers the entries of a run to MLflow; an entry delivered twice, because its answer was lost, counts once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import session
from cluster.client import NotOpened, client

LOCAL = "local-"  # ids that a job gives its runs itself; MLflow's own is known once the run is opened there
KEY, OPENED = "slimcart.key", "slimcart.opened"  # tags: the local id; when the run was (re)opened, ms since the epoch
PER_CALL = 100  # MLflow's limit of parameters and tags in one log_batch

Entry = Mapping[str, Any]

log = logging.getLogger(__name__)


class Delivery:
    """Delivers the entries of one run, in their order."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._kept: set[str] | None = None  # metrics that MLflow has of this run; None: ask
        self._steps: dict[str, set[int]] = {}  # by metric that was asked for: the steps that MLflow has

    def put(self, entry: Entry) -> None:
        """Deliver one entry: {kind: value}. Raises what MLflow's client raises, and `NotOpened`."""
        try:
            for kind, value in entry.items():
                getattr(self, f"_put_{kind}")(value)
        except Exception:
            self._kept = None  # it may have been taken all the same
            raise

    def opened(self) -> str:
        """MLflow's id of the run. Raises `NotOpened`."""
        if self.run.startswith(LOCAL):
            run_id = find(self.run)
            if run_id is None:
                raise NotOpened(f"MLflow has no run {self.run} yet")
            self.run = run_id
        return self.run

    def _put_open(self, opening: Mapping[str, Any]) -> None:
        """Create the run, or take up the run of this key, which a job that died or a lost request has opened."""
        experiment, at = _experiment_id(opening["experiment"]), int(opening["at"])
        tags = opening["tags"] | {KEY: opening["key"], OPENED: str(at)}
        if opening["parent"]:
            tags["mlflow.parentRunId"] = Delivery(opening["parent"]).opened()
        run_id = find(opening["key"], experiment)
        if run_id is None:
            run_id = client().create_run(experiment, at, tags, opening["name"]).info.run_id
        elif _opened_at(client().get_run(run_id)) < at:
            self._tag(run_id, tags)
            client().update_run(run_id, status="RUNNING")
        self.run = run_id
        log.info("MLflow run: %s", session.mlflow_page(session.tracking_uri(), experiment, "runs", run_id))

    def _put_metrics(self, rows: Sequence[tuple[str, float, int, int]]) -> None:
        """Deliver rows of (metric, value, ms since the epoch, step); the first value of a metric at a step counts.

        MLflow keeps every row that differs in any of the four. So it is asked what it has, before the first rows, which
        a job that died may have sent, and after a failure. Its SQL store takes equal rows, sent twice at the same
        moment, for one.
        """
        from mlflow.entities import Metric

        run = self.opened()
        if self._kept is None:
            self._kept, self._steps = set(client().get_run(run).data.metrics), {}
        for key in {row[0] for row in rows} - self._steps.keys():
            history = client().get_metric_history(run, key) if key in self._kept else []
            self._steps[key] = {each.step for each in history}
        missing: dict[tuple[str, int], Metric] = {}
        for key, value, at, step in rows:
            if step not in self._steps[key]:
                missing.setdefault((key, step), Metric(key, value, at, step))
        if missing:
            client().log_batch(run, metrics=list(missing.values()))
        for key, step in missing:
            self._steps[key].add(step)

    def _put_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        listed = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(listed), PER_CALL):
            client().log_batch(self.opened(), params=listed[start : start + PER_CALL])

    def _put_tags(self, tags: Mapping[str, str]) -> None:
        self._tag(self.opened(), tags)

    def _put_text(self, file: Mapping[str, str]) -> None:
        client().log_text(self.opened(), file["text"], file["name"])

    def _put_artifact(self, artifact: Mapping[str, str | None]) -> None:
        path, under = Path(artifact["path"] or ""), artifact["under"]
        if path.is_dir():
            client().log_artifacts(self.opened(), str(path), under)
        else:
            client().log_artifact(self.opened(), str(path), under)

    def _put_end(self, end: Mapping[str, Any]) -> None:
        """End the run, unless it has ended already or a later job has taken it up."""
        run = client().get_run(self.opened())
        if run.info.status == "RUNNING" and _opened_at(run) <= end["at"]:
            client().set_terminated(run.info.run_id, end["status"], end["at"])

    def _put_abandon(self, at: int) -> None:
        """End the run of a job that was killed and that nobody goes on with, if it ever was opened."""
        if run_id := find(self.run):
            self.run = run_id
            self._put_end({"status": "KILLED", "at": at})

    @staticmethod
    def _tag(run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        client().log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])


def find(key: str, experiment: str | None = None) -> str | None:
    """MLflow's id of the run with this local id."""
    within = [experiment] if experiment else [each.experiment_id for each in client().search_experiments()]
    runs = client().search_runs(within, f"tags.`{KEY}` = '{key}'", max_results=1)
    return runs[0].info.run_id if runs else None


def _opened_at(run: Any) -> int:
    return int(run.data.tags.get(OPENED, 0))


def _experiment_id(name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client().get_experiment_by_name(name)
    if experiment is not None:
        return experiment.experiment_id
    try:
        return client().create_experiment(name)
    except MlflowException:  # made by another job in between
        experiment = client().get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment.experiment_id

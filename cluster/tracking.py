"""One MLflow run per job: what went in, what came out, and metrics that never hold up a training loop."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import session
from cluster.session import JobError

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUEUE_BATCHES = 1000  # reports waiting for the server; what comes on top is dropped and counted
FLUSH_SECONDS = 30
PARAMS_PER_CALL = 100  # MLflow's limit of one log_batch
LONGEST_PARAM = 6000
HTTP_DEFAULTS = {  # MLflow's own defaults hold a caller for about 244 s
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}

log = logging.getLogger(__name__)


class MetricLog:
    """Sends metrics to a run from a thread of its own; `log` returns at once, whatever the server does."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.dropped = self._sending = 0
        self._queue: queue.Queue[list[tuple[str, float, int, int]] | None] = queue.Queue(QUEUE_BATCHES)
        self._thread = threading.Thread(target=self._send, daemon=True, name="metric-log")
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Queue `metrics`; non-numbers are left out."""
        now = int(time.time() * 1000)
        rows = [(key, float(value), now, step) for key, value in metrics.items() if isinstance(value, int | float)]
        try:
            self._queue.put_nowait(rows)
        except queue.Full:
            self.dropped += len(rows)

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until everything is sent, at most `seconds`; what could not be sent is said in the log."""
        deadline = time.monotonic() + seconds
        with suppress(queue.Full):
            self._queue.put(None, timeout=seconds)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        unsent = self.dropped + self._sending + sum(len(rows) for rows in list(self._queue.queue) if rows)
        if unsent:
            log.warning("%d metrics of run %s did not reach MLflow", unsent, self.run_id)

    def _send(self) -> None:
        from mlflow.entities import Metric

        while (rows := self._queue.get()) is not None:
            self._sending = len(rows)
            try:
                client().log_batch(self.run_id, metrics=[Metric(*row) for row in rows])
            except Exception as error:  # noqa: BLE001 - the loop goes on whatever happens to its record
                self.dropped += len(rows)
                log.warning("MLflow took no metrics: %s", str(error).splitlines()[0] if str(error) else repr(error))
            self._sending = 0


class Run:
    """An open MLflow run."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.metrics = MetricLog(run_id)

    def artifact(self, path: Path, under: str | None = None) -> None:
        """Upload a file, or a folder with everything in it."""
        if path.is_dir():
            client().log_artifacts(self.id, str(path), under)
        else:
            client().log_artifact(self.id, str(path), under)

    def tag(self, **tags: str) -> None:
        """Set tags; a double underscore in a name becomes a dot."""
        for key, value in tags.items():
            client().set_tag(self.id, key.replace("__", "."), value)


def client() -> MlflowClient:
    """A client of $MLFLOW_TRACKING_URI that gives up after seconds, not minutes."""
    for key, value in HTTP_DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=session.tracking_uri())


@contextmanager
def run(
    job: str, *, experiment: str, recipe: Mapping[str, Any], parent: str | None = None, name: str | None = None
) -> Iterator[Run]:
    """Record a job as one MLflow run: FINISHED, FAILED or KILLED, with the resolved recipe and where it came from."""
    import yaml
    from mlflow.exceptions import MlflowException

    run_id = _open(job, experiment, name or f"{job} {recipe.get('name', '')}".strip(), parent)
    opened = Run(run_id)
    status = "FAILED"
    try:
        log_parameters(run_id, recipe)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True), encoding="utf-8")
            opened.artifact(path)
        yield opened
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        opened.metrics.close()
        try:
            client().set_terminated(run_id, status)
        except MlflowException as error:  # not in place of what ended the job
            log.warning("MLflow did not take the end of run %s: %s", run_id, str(error).splitlines()[0])


def _open(job: str, experiment: str, name: str, parent: str | None) -> str:
    from mlflow.exceptions import MlflowException

    source, version = code_version()
    tags = {
        "mlflow.runName": name,
        "mlflow.source.name": f"jobs.{job}",
        "slimcart.job": job,
        "slimcart.code": version,
        "slimcart.code_from": source,
    }
    if source == "git":
        tags["mlflow.source.git.commit"] = version.removesuffix("-dirty")
    if parent:
        tags["mlflow.parentRunId"] = parent
    if submission := session.submission_id():
        tags["slimcart.submission_id"] = submission
    try:
        return client().create_run(_experiment_id(experiment), tags=tags, run_name=name).info.run_id
    except MlflowException as error:
        reason = str(error).splitlines()[0][:300]
        raise JobError(f"MLflow at {session.tracking_uri()} does not take runs: {reason}") from None


def _experiment_id(name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client().get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    try:
        return client().create_experiment(name)
    except MlflowException:  # made by another job in between
        found = client().get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


def log_parameters(run_id: str, tree: Mapping[str, Any]) -> None:
    """Every leaf of `tree` as one parameter under its dotted key."""
    from mlflow.entities import Param

    params = [Param(key, value[:LONGEST_PARAM]) for key, value in _flatten(tree)]
    for start in range(0, len(params), PARAMS_PER_CALL):
        client().log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
        else:
            yield f"{prefix}{key}", str(value)


def code_version(root: Path | None = None) -> tuple[str, str]:
    """(where it is known from, version): $SLIMCART_COMMIT, else git, else a digest of the code's files."""
    if commit := os.environ.get("SLIMCART_COMMIT"):
        return "SLIMCART_COMMIT", commit
    root = root or Path(__file__).resolve().parent.parent
    if (root / ".git").exists():

        def git(*words: str) -> str:
            return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

        try:
            return "git", git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
        except (OSError, subprocess.CalledProcessError):
            pass  # no commit yet, or no git: the files themselves say what ran
    digest = hashlib.sha256()
    for package in ("cluster", "configs", "jobs", "serving", "tuning"):
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return "digest", digest.hexdigest()

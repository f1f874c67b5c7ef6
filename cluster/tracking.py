"""One MLflow run per job: its inputs and results. The job waits for MLflow once, at the start, and then never again."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from cluster import resume, session, spool
from cluster.client import NotOpened
from cluster.delivery import LOCAL
from cluster.outbox import HANDOVER_SECONDS, Outbox, replay
from cluster.session import JobError
from cluster.version import code_version
from configs.folder import digest_json
from configs.loader import UsageError
from configs.shown_urls import shown_urls, shown_urls_in

OPEN_SECONDS, OPEN_TRIES = 60.0, 4  # for MLflow to open the run of a job; tries with 1, 2 and 4 s between them
OPEN_BELOW_SECONDS = 10.0  # the same for a child run, which begins without MLflow after that, or after one try
FLUSH_SECONDS = 30.0  # for the rest at the end of a job; what is not sent then stays in the output
STOPPED_SECONDS = 10.0  # the same where the job is stopped: Ray kills it 30 s after it asked
LONGEST_PARAM = 6000

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """The folder of a job's record until MLflow has it, and the field of the recipe that names the folder."""

    folder: Path
    field: str = "output"


class Run:
    """An open MLflow run. Everything it is given is sent in the background and kept in the output until then."""

    def __init__(self, metrics: Outbox) -> None:
        self.metrics = metrics

    @property
    def id(self) -> str:
        """MLflow's id; a run begun while MLflow was away has a local id, which its tag `slimcart.key` keeps."""
        return self.metrics.run

    def opened(self) -> str:
        """MLflow's id. Raises `NotOpened` until MLflow has the run."""
        if self.id.startswith(LOCAL):
            raise NotOpened(f"MLflow has no run {self.id} yet")
        return self.id

    def artifact(self, path: Path, under: str | None = None) -> None:
        """Upload a file, or a folder with everything in it, that stays where it is."""
        self.metrics.put({"artifact": {"path": str(path.absolute()), "under": under}})

    def text(self, name: str, text: str) -> None:
        """Upload `text` as the file `name`."""
        self.metrics.put({"text": {"name": name, "text": text}})

    def tag(self, **tags: str) -> None:
        """Set tags; a double underscore in a name becomes a dot."""
        self.metrics.put({"tags": {key.replace("__", "."): value for key, value in tags.items()}})


@contextmanager
def run(
    job: str,
    *,
    experiment: str,
    recipe: Mapping[str, Any],
    parent: str | None = None,
    name: str | None = None,
    place: Place | None = None,
) -> Iterator[Run]:
    """Record a job as one MLflow run: FINISHED, FAILED or KILLED, with the resolved recipe and its origin.

    The next job with the output and recipe of a killed job takes up its run; one whose cluster went away was killed,
    too. A job without `parent` has the output to itself; a job that touches nothing there may name another `place` for
    its record. Raises `JobError` where another job holds the output, where MLflow does not open the run (one below a
    `parent` begins without MLflow, too), or where this process meets another server than its job.
    """
    import yaml

    session.tracking_uri()
    output, field = place or Place(Path(recipe.get("output") or session.home()))
    label = name or job
    with nullcontext() if parent else resume.only_job(output, _who(label), field):
        opened = _open(job, experiment, recipe, parent, name, output)
        status = "FAILED"
        try:
            if parent is None:
                replay(output)
            shown = shown_urls_in(recipe)
            opened.metrics.put({"params": {key: value[:LONGEST_PARAM] for key, value in _flatten(shown)}})
            opened.text("recipe.yaml", yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))
            yield opened
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        except Exception as error:
            if session.is_lost(error):  # the job was ended with its cluster
                status = "KILLED"
            raise
        finally:
            opened.metrics.put({"end": {"status": status, "at": _now()}})
            if status != "KILLED":
                resume.end(output, label)
            if parent:
                opened.metrics.close(HANDOVER_SECONDS)
            else:
                _end_job(opened, output, status)


def _open(
    job: str, experiment: str, recipe: Mapping[str, Any], parent: str | None, name: str | None, output: Path
) -> Run:
    key, abandoned = resume.begin(output, name or job, digest_json(recipe), parent)
    if abandoned:
        _abandon(output, abandoned)
    outbox = Outbox(key, output)
    title = name or f"{job} {recipe.get('name', '')}".strip()
    opening = {"key": key, "experiment": experiment, "name": title, "parent": parent, "at": _now()}
    outbox.put({"open": {**opening, "tags": _tags(job, title)}})
    if parent:
        outbox.opened(OPEN_BELOW_SECONDS, tries=1)
    elif not outbox.opened(OPEN_SECONDS, OPEN_TRIES):
        reason = outbox.refusal or outbox.trouble or f"no answer after {OPEN_SECONDS:.0f} s"
        outbox.discard()
        if outbox.is_denied:
            raise UsageError(
                f"environment: MLFLOW_TRACKING_URI: {shown_urls(session.tracking_uri())}: credentials not taken "
                f"({reason}); set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        raise JobError(shown_urls(f"MLflow at {session.tracking_uri()} does not take runs: {reason}"))
    return Run(outbox)


def _end_job(opened: Run, output: Path, status: str) -> None:
    for key in resume.below(output, forget=status != "KILLED"):  # stages and trials that were killed
        _abandon(output, key)
    sent = opened.metrics.close(STOPPED_SECONDS if status == "KILLED" else FLUSH_SECONDS)
    if left := replay(output) if sent else spool.waiting(output):
        log.warning(
            "not sent to MLflow so far, the next job with this output sends it: %s",
            ", ".join(map(str, left)),
        )


def _abandon(output: Path, key: str) -> None:
    """Leave a note that marks a run as KILLED which nobody goes on with."""
    note = spool.Spool(output, key)
    note.append({"abandon": _now()})
    note.close(keep=True)


def _tags(job: str, title: str) -> dict[str, str]:
    source, version = code_version()
    tags = {
        "mlflow.runName": title,
        "mlflow.source.name": f"jobs.{job}",
        "slimcart.job": job,
        "slimcart.code": version,
        "slimcart.code_from": source,
    }
    if source == "git":
        tags["mlflow.source.git.commit"] = version.removesuffix("-dirty")
    if submission := session.submission_id():
        tags["slimcart.submission_id"] = submission
    return tags


def _who(label: str) -> str:
    submission = session.submission_id()
    return f"{label} ({f'submission {submission}' if submission else f'process {os.getpid()}'})"


def _now() -> int:
    return int(time.time() * 1000)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
        else:
            yield f"{prefix}{key}", str(value)

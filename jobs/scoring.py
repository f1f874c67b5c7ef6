"""Parts of rows answered by a bundle in service, with Ray Data: what its endpoint answers, without HTTP."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster import cores
from cluster.launch import WORKER_ENVIRONMENT
from configs.folder import FolderError, commit, name_again, verify
from configs.loader import Spec, UsageError
from configs.schema.kinds import BY_LABEL
from configs.schema.score import ScoreSpec
from configs.schema.serving import ServingSpec
from jobs.data.asked import Asked, Parts
from jobs.data.formats import written
from serving.bundle import Bundle
from serving.inputs import InputError
from serving.service import Caller, Refused, Release, put_in_service, to_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

MANIFEST = "_scores.json"  # readers of a folder of rows pass over it
ROWS_PER_REQUEST = 2048
SAID_EVERY_S = 10.0
NAMES_ROW = re.compile(r"^input \d+:? ")

log = logging.getLogger(__name__)


class Asking(Spec):
    """Which bundle is asked, what, and what of its answers is written; plain data."""

    release: Release
    serving: ServingSpec
    score: ScoreSpec
    task: str  # names the service in messages
    answers: dict[str, str]  # types by the names of its answers
    fields: list[str]  # columns of values that requests give
    labels: list[str]

    @property
    def columns(self) -> dict[str, str]:
        """Types of what stands beside a row, by the column's name."""
        return {self.score.prefix + name: kind for name, kind in {**self.answers, **_MODEL}.items()}


_MODEL = {"model": "string", "version": "string"}


def asking(bundle: Bundle, release: Release, score: ScoreSpec, serving: ServingSpec, fields: Sequence[str]) -> Asking:
    """What is asked of a bundle. Raises `UsageError` where its service does not know what `score` asks for."""
    answers, further = dict(bundle.record.answers), bundle.record.further_answers
    for name in ("scores", "details"):
        if getattr(score, name):
            if name not in further:
                what = f"kind {bundle.kind!r}" if bundle.kind else f"task {bundle.task!r}"
                raise UsageError(f"score.{name}: true: bundles of {what} have none to tell; leave it out")
            answers |= further[name]
    return Asking(
        release=release,
        serving=serving,
        score=score,
        task=bundle.task,
        answers=answers,
        fields=list(fields),
        labels=bundle.labels,
    )


class Answered(NamedTuple):
    """What became of the rows."""

    rows: int
    refused: int  # rows that the service does not answer
    per_second: float  # rows that were answered now, each second; 0 where all were found answered


def answer_parts(folder: Path, key: str, ask: Asking, parts: Parts, workers: int) -> None:
    """Have all parts answered, and make `folder` of them. Each is committed beside it, so a killed job goes on there.

    Raises `UsageError` for a row that cannot be asked about, and `FolderError` where the disk has no room.
    """
    work = folder.parent / ".work"
    place = work / f"{folder.name}-{key[:16]}"
    for left in work.glob(f"{folder.name}-{'?' * 16}"):
        if left != place:  # of other rows, or another bundle
            shutil.rmtree(left, ignore_errors=True)
    answered = _answer(place, ask, parts, workers)

    def fill(aside: Path) -> dict[str, Any]:
        for number in range(len(parts.rows)):
            name = _name(number, ask.score)
            name_again(place / _part(number) / name, aside / name)
        about = {"key": key, "fingerprint": parts.fingerprint, "model": ask.release.model}
        return about | {"columns": [*parts.columns, *ask.columns], **answered._asdict()}

    commit(folder, MANIFEST, fill)
    shutil.rmtree(place, ignore_errors=True)


def _answer(place: Path, ask: Asking, parts: Parts, workers: int) -> Answered:
    import ray.data

    from cluster.task_errors import Carried

    count = len(parts.rows)
    threads = str(ask.serving.threads)
    done = ray.data.from_items(list(range(count)), override_num_blocks=count).map_batches(
        Carried,
        batch_size=1,
        fn_constructor_args=[Answer, str(place), ask.model_dump(), parts],
        compute=ray.data.ActorPoolStrategy(size=min(workers, count)),
        num_cpus=ask.serving.threads,
        runtime_env={"env_vars": {**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": threads}},
    )
    progress = _Progress(sum(parts.rows))
    with cores.for_cores():
        for each in done.iter_batches(batch_size=None, prefetch_batches=0):
            progress.add(sum(each["rows"].tolist()), sum(each["refused"].tolist()), sum(each["now"].tolist()))
    return progress.answered


class _Progress:
    """Says from time to time how far the rows are."""

    def __init__(self, total: int) -> None:
        self._total, self._rows, self._refused, self._now = total, 0, 0, 0
        self._began = self._said = time.monotonic()

    def add(self, rows: int, refused: int, now: int) -> None:
        """So many rows more are answered, `now` of them by this job."""
        self._rows, self._refused, self._now = self._rows + rows, self._refused + refused, self._now + now
        if time.monotonic() - self._said >= SAID_EVERY_S:
            self._said = time.monotonic()
            log.info("%d of %d rows answered, %.0f a second", self._rows, self._total, self.answered.per_second)

    @property
    def answered(self) -> Answered:
        return Answered(self._rows, self._refused, self._now / max(1e-9, time.monotonic() - self._began))


class Answer:
    """Answers parts of the rows by their numbers; a Ray Data worker loads the bundle once."""

    def __init__(self, place: str, ask: Mapping[str, Any], parts: Parts) -> None:
        self.place, self.parts, self.ask = Path(place), parts, Asking.model_validate(ask)
        most = {"max_inputs": ROWS_PER_REQUEST, "max_waiting_texts": ROWS_PER_REQUEST}
        self.service = put_in_service(self.ask.task, self.ask.release, self.ask.serving.model_copy(update=most))
        self.loop = asyncio.new_event_loop()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Commit each part that is not there whole: its `rows`, those `refused`, and those answered `now`."""
        import numpy as np

        counts = [self.part(int(number)) for number in batch["item"]]
        return {name: np.array([each[name] for each in counts]) for name in ("rows", "refused", "now")}

    def part(self, number: int) -> dict[str, int]:
        """Answer one part, unless it is there."""
        folder = self.place / _part(number)
        try:
            return {**_counts(verify(folder, MANIFEST)), "now": 0}
        except FolderError:  # no part, or a damaged one
            made = commit(folder, MANIFEST, functools.partial(self.fill, number))
        return {**_counts(made), "now": made["rows"]}

    def fill(self, number: int, aside: Path) -> dict[str, Any]:
        """Write one part."""
        rows, score, ask = self.parts.read(number), self.ask.score, self.ask
        answers, refused = self.answers(rows)
        model = {"model": ask.release.name, "version": ask.release.version}
        named = [{score.prefix + name: (each | model).get(name) for name in ask.answers | model} for each in answers]
        path = aside / _name(number, score)
        if score.format == "parquet":
            written.write_parquet(path, self.parts.table(number), named, arrow_types(ask.columns, ask.labels))
        elif score.format == "csv":
            whole = [{**row.kept, **each} for row, each in zip(rows, named, strict=True)]
            written.write_csv(path, whole, [*self.parts.columns, *ask.columns])
        else:
            written.write_json_lines(path, [{**row.kept, **each} for row, each in zip(rows, named, strict=True)])
        return {"rows": len(rows), "refused": refused}

    def answers(self, rows: Sequence[Asked]) -> tuple[list[dict[str, Any]], int]:
        """(what the service says of each row, how many it refuses). Raises `UsageError`."""
        said: list[dict[str, Any]] = []
        refused = 0
        for start in range(0, len(rows), ROWS_PER_REQUEST):
            found, more = self._ask(rows[start : start + ROWS_PER_REQUEST])
            said, refused = said + found, refused + more
        return said, refused

    def _ask(self, rows: Sequence[Asked]) -> tuple[list[dict[str, Any]], int]:
        """The same of one request; where the service refuses it, its halves are asked, down to the row at fault."""
        body: dict[str, Any] = {"inputs": [each.input for each in rows]}
        if self.ask.fields:
            body["fields"] = [dict(each.fields) for each in rows]
        body |= {name: True for name in ("scores", "details") if getattr(self.ask.score, name)}
        try:
            answer: Any = self.loop.run_until_complete(self.service.routes[""](to_json(body), _caller()))
            return answer["predictions"], 0
        except (InputError, Refused) as error:
            if len(rows) == 1:
                return [self._unanswered(rows[0], error)], 1
        middle = len(rows) // 2
        (first, some), (second, more) = self._ask(rows[:middle]), self._ask(rows[middle:])
        return first + second, some + more

    def _unanswered(self, row: Asked, error: InputError | Refused) -> dict[str, Any]:
        """The answer to a row that the service refuses: its reason."""
        reason = NAMES_ROW.sub("", error.detail if isinstance(error, Refused) else str(error))
        if "reason" not in self.ask.answers:
            raise UsageError(f"{row.where}: {reason}")
        return {"reason": reason}


def arrow_types(columns: Mapping[str, str], labels: Sequence[str]) -> dict[str, pyarrow.DataType]:
    """Arrow's types of the answers' columns."""
    import pyarrow

    by_label = pyarrow.struct([(label, pyarrow.float64()) for label in labels])
    return {name: by_label if kind == BY_LABEL else pyarrow.type_for_alias(kind) for name, kind in columns.items()}


def _counts(manifest: Mapping[str, Any]) -> dict[str, int]:
    return {name: manifest[name] for name in ("rows", "refused")}


def _caller() -> Caller:
    """Waits as long as it takes."""
    return Caller(asyncio.Event().wait, math.inf)


def _part(number: int) -> str:
    return f"part-{number:05d}"


def _name(number: int, score: ScoreSpec) -> str:
    return f"{_part(number)}.{score.format}"

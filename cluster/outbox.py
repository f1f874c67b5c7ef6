"""Tells MLflow about a run from a thread of its own: nobody waits for an answer, and nothing is lost for want of one.

Every entry is on disk (`spool.py`) before it is sent. `replay` later sends what an outbox could not send before it was
closed or its process died; an entry that was sent already counts once (`delivery.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import settings, spool
from cluster.client import NotOpened, in_a_line, is_denied, may_pass
from cluster.delivery import LOCAL, Delivery, Entry
from configs.shown_urls import shown_urls
from configs.waiting import waiting

HANDOVER_SECONDS = 2.0  # that a worker or a stage waits at its end; the job that it is part of sends the rest
LONGEST_PAUSE = 15.0  # seconds between two tries
METRICS_SECONDS = 1.0  # between two calls with metrics: a server asked after every step takes cores from training
ROWS_PER_CALL = 500

log = logging.getLogger(__name__)


class Outbox:
    """The metrics, tags, parameters, files and end of one run on their way to MLflow.

    `run` is MLflow's id of it, or the local id of a run that was begun while MLflow was away. `log` and `put` return
    at once, whatever the server does.
    """

    def __init__(self, run: str, output: Path) -> None:
        """Raises `JobError` where this process meets another server than its job."""
        settings.check()
        self.trouble: str | None = None  # why the last try failed
        self.is_denied = False  # whether the last try failed for its credentials
        self.refusal: str | None = None  # why MLflow will never take one of the entries
        self._delivery = Delivery(run)
        self._spool = spool.Spool(output, run)
        self._entries: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._failures = 0  # tries since the last success
        self._metrics_at = 0.0  # monotonic seconds before which no metrics are sent
        self._closing = self._given_up = self._uploading = False
        self._thread = threading.Thread(target=self._deliver, daemon=True, name="outbox")
        self._thread.start()

    @property
    def run(self) -> str:
        """MLflow's id of the run, or its local id until MLflow answered."""
        return self._delivery.run

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Send metrics; non-numbers are left out. The first value of a metric at a step counts."""
        now = int(time.time() * 1000)
        rows = [(key, float(value), now, step) for key, value in metrics.items() if isinstance(value, int | float)]
        if rows:
            self.put({"metrics": rows})

    def put(self, entry: Entry) -> None:
        """Send an entry of `Delivery`."""
        with self._changed:
            self._spool.append(entry)
            self._entries.append(entry)
            if "metrics" not in entry:
                self._metrics_at = 0.0  # it waits behind them
            self._changed.notify_all()

    def opened(self, seconds: float, tries: int) -> bool:
        """Whether MLflow has the run, after at most `seconds` or so many `tries`."""

        def known() -> bool:
            return not self.run.startswith(LOCAL)

        with waiting(self._awaited), self._changed:
            self._changed.wait_for(
                lambda: known() or self.refusal or self.is_denied or self._failures >= tries, seconds
            )
        return known()

    def close(self, seconds: float = HANDOVER_SECONDS) -> bool:
        """Wait for at most `seconds`, or until an upload is over; whether all was sent. The rest stays on disk."""
        with waiting(self._awaited), self._changed:
            self._closing = True
            self._changed.notify_all()
            deadline = time.monotonic() + seconds
            while self._entries and (self._uploading or time.monotonic() < deadline):
                if self._uploading:
                    self._changed.wait_for(lambda: not self._uploading)
                    deadline = max(deadline, time.monotonic() + HANDOVER_SECONDS)
                else:
                    self._changed.wait(deadline - time.monotonic())
            self._given_up = True
            self._changed.notify_all()
            unsent = bool(self._entries)
        self._spool.close(keep=unsent, refused=self.refusal is not None)
        return not unsent

    def discard(self) -> None:
        """Send nothing of this, now or later."""
        with self._changed:
            self._given_up = True
            self._entries.clear()
            self._changed.notify_all()
        self._spool.close(keep=False)

    def _awaited(self) -> str:
        """What somebody waits for who waits for this, as a line."""
        doing = "to take a file" if self._uploading else f"to take {len(self._entries)} entries"
        return shown_urls(f"waiting for MLflow {doing} of run {self.run}: {self.trouble or 'no answer yet'}")

    def _deliver(self) -> None:
        while (batch := self._next()) is not None:
            entry, count = batch
            try:
                self._spool.sync()
                self._delivery.put(entry)
            except Exception as error:  # noqa: BLE001 - the job goes on whatever happens to its record
                if may_pass(error):
                    self._wait(in_a_line(error), is_denied(error))
                    continue
                self.refusal = in_a_line(error)
                log.warning("MLflow refused %s of run %s: %s", next(iter(entry)), self.run, self.refusal)
            self._done(count)

    def _next(self) -> tuple[Entry, int] | None:
        """The next entry to deliver, and the number of entries joined in it; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._closing or self._given_up)
            self._changed.wait_for(self._due, self._metrics_at - time.monotonic())
            if self._given_up or not self._entries:
                return None
            self._uploading = "artifact" in self._entries[0] and self.trouble is None
            if "metrics" in self._entries[0]:
                self._metrics_at = time.monotonic() + METRICS_SECONDS
            return _together(self._entries)

    def _due(self) -> bool:
        """Whether the first entry is sent now; called with `_changed` held."""
        hurried = self._closing or self._given_up or "metrics" not in self._entries[0]
        return hurried or len(self._entries) >= ROWS_PER_CALL or time.monotonic() >= self._metrics_at

    def _wait(self, trouble: str, denied: bool) -> None:
        with self._changed:
            if self.trouble is None and not (denied and self.run.startswith(LOCAL)):  # that ends the job
                log.warning("MLflow does not answer, what it is told is kept in %s: %s", self._spool.path, trouble)
            self.trouble, self.is_denied, self._uploading = trouble, denied, False
            self._failures += 1
            self._changed.notify_all()
            was_closing = self._closing
            pause = 0.5 if was_closing else min(2.0 ** (self._failures - 1), LONGEST_PAUSE)
            self._changed.wait_for(lambda: self._given_up or self._closing != was_closing, pause)

    def _done(self, count: int) -> None:
        with self._changed:
            for _ in range(count if self._entries else 0):
                self._entries.popleft()
            self.trouble, self.is_denied, self._uploading, self._failures = None, False, False, 0
            self._changed.notify_all()


def replay(output: Path) -> list[Path]:
    """Send what closed outboxes and dead processes left in this output; returns the files that could not be sent."""
    left, away = [], False
    for path in spool.waiting(output):
        if away:
            left.append(path)
            continue
        try:
            with spool.left_behind(path) as unsent:
                if unsent is None:
                    continue  # its writer lives and sends it itself
                if _deliver_all(path, *unsent):
                    path.rename(path.with_suffix(spool.REFUSED))
                else:
                    path.unlink()
        except Exception as error:  # noqa: BLE001 - the job goes on whatever happens to its record
            left.append(path)
            away = not isinstance(error, NotOpened)
    return left


def _deliver_all(path: Path, run: str, entries: list[Entry]) -> bool:
    """Deliver the entries; whether MLflow refused any of them, or nobody knows their run."""
    if not run:
        return bool(entries)
    delivery, refused = Delivery(run), False
    while entries:
        entry, count = _together(entries)
        del entries[:count]
        try:
            delivery.put(entry)
        except Exception as error:
            if may_pass(error):
                raise
            log.warning("MLflow refused %s in %s: %s", next(iter(entry)), path, in_a_line(error))
            refused = True
    return refused


def _together(entries: Sequence[Entry]) -> tuple[Entry, int]:
    """The first entry, or all metrics at the beginning as one entry; and the number of entries joined in it."""
    rows: list[Any] = []
    count = 0
    for entry in entries:
        if "metrics" not in entry or (rows and len(rows) + len(entry["metrics"]) > ROWS_PER_CALL):
            break
        rows += entry["metrics"]
        count += 1
    return ({"metrics": rows}, count) if count else (entries[0], 1)

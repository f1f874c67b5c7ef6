"""A searcher that goes on where an earlier process was killed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from cluster.session import JobError
from tuning.journal import ERROR, METRICS, SCORE, STOPPED, Entry, Progress, Score
from tuning.space import plain

NUMBER = "number of the trial"  # key of a trial's number among the values that Ray Tune hands to it

LONGEST = 500  # most letters of a reason

log = logging.getLogger(__name__)


def name(number: int) -> str:
    """Name of a trial in logs, reports and folders."""
    return f"{number + 1:02d}"


class Replay(Searcher):
    """Suggestions of `inner`, each with its number. Trials that were begun and have not ended come first.

    A suggestion is a function of the seed and of the results of certain trials, whenever they ended. The first `blind`
    suggestions depend on no trial; number n after them depends on trials 0 to n - `concurrent`, which `inner` is told
    of in this order. So the order in which trials end changes nothing, and a later process is where this one was (Ray
    Tune's own snapshot may be 10 s old). There is no suggestion while one of these trials runs. Without `inner` the
    only suggestion is empty.

    Trials that a process with another judge began before are points that `inner` holds already; it is told their worth
    by today's `score`.
    """

    def __init__(
        self,
        inner: Searcher | None,
        progress: Progress,
        blind: int,
        concurrent: int,
        score: Score = itemgetter(SCORE),
        over: Callable[[], object] = lambda: None,
    ) -> None:
        """`over` gives a reason once no new trial is to be begun."""
        super().__init__(metric=SCORE, mode="max")
        self._over = over
        self._inner, self._progress, self._again = inner, progress, progress.begun
        self._blind = max(blind, len(progress.before))
        self._concurrent, self._told, self._score = concurrent, 0, score

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Gives `inner` the space, then the journal. Raises `JobError` where it would have drawn other values."""
        if self._inner is None:
            return True
        taken = self._inner.set_search_properties(metric, mode, config, **spec)
        for number, values in sorted(self._progress.values.items()):
            if not self._tell_before(number) or plain(self._inner.suggest(name(number)) or {}) != values:
                raise JobError(
                    f"{self._progress.journal.file}: begun by another version, which drew other values; remove "
                    f"{self._progress.folder} to begin the search again"
                )
        return taken

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Values of the next trial, with its `NUMBER`; None where it waits for an earlier one."""
        if self._again:
            number = self._again.pop(0)
        else:
            number = len(self._progress.values)
            if self._over():
                return Searcher.FINISHED  # pyright: ignore[reportReturnType] - what Ray takes for the end
            if not self._tell_before(number):
                return None
            suggested = {} if self._inner is None else self._inner.suggest(name(number))
            if suggested is None or suggested == Searcher.FINISHED:
                return suggested
            self._progress.begin(plain(suggested))
        return {**self._progress.values[number], NUMBER: number}

    def _tell_before(self, number: int) -> bool:
        """Tell `inner` the trials that suggestion `number` depends on; False where one of them has not ended."""
        known = number - self._concurrent + 1 if number >= self._blind else 0
        while self._inner is not None and self._told < known:
            if (entry := self._progress.first.get(self._told)) is None:
                return False
            if METRICS in entry:
                known_of = {**entry[METRICS], SCORE: self._score(entry[METRICS])}
                self._inner.on_trial_complete(name(self._told), known_of)
            else:
                self._inner.on_trial_complete(name(self._told), error=True)
            self._told += 1
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: `Notes` hears the reason, too."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is kept instead."""


class Notes(Callback):
    """Notes the result of each trial, and logs when it starts and when it ends."""

    def __init__(self, progress: Progress, trials: int, score: Score = itemgetter(SCORE)) -> None:
        self._progress, self._trials, self._score = progress, trials, score

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Ray Tune looked at its trials, as it does many times a second."""
        self._progress.alive()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial starts, for the first or the second time."""
        values = {key: value for key, value in trial.config.items() if key != NUMBER}
        again = ", again" if trial.num_failures else ""
        log.info("trial %s of %d starts%s: %s", self._name(trial), self._trials, again, plain(values))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial failed for the first time."""
        log.warning("trial %s failed: %s; it is tried once more", self._name(trial), self._reason(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial is done, or was stopped."""
        result = self._progress.result(trial.config[NUMBER])
        self._end(trial, result if METRICS in result else {ERROR: STOPPED})
        score = self._score(result[METRICS]) if METRICS in result else None
        log.info("trial %s done (%d of %d): score %s", self._name(trial), self._ended, self._trials, score)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial failed for the second time."""
        reason = self._reason(trial)
        self._end(trial, {ERROR: reason})
        log.warning("trial %s failed (%d of %d): %s", self._name(trial), self._ended, self._trials, reason)

    def _end(self, trial: Trial, result: Entry) -> None:
        self._progress.end(trial.config[NUMBER], result)

    def _reason(self, trial: Trial) -> str:
        """Why the trial failed, in its own words, or in Ray's where its process died."""
        if ERROR in (result := self._progress.result(trial.config[NUMBER])):
            return result[ERROR]
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        return " ".join(text.rpartition("(occurred at ")[2].split()[1:])[:LONGEST] or "its process died"

    @property
    def _ended(self) -> int:
        return len(self._progress.ended)

    @staticmethod
    def _name(trial: Trial) -> str:
        return name(trial.config[NUMBER])

"""Progress of a training run as log lines."""

from __future__ import annotations

import time

import numpy as np

SECONDS_BETWEEN_LINES = 10


class Pace:
    """Progress of a run as log lines: loss by epoch, real tokens per second, time to go."""

    def __init__(self, role: str, epochs: int, lengths: np.ndarray, steps: int, silent: bool) -> None:
        """`steps`: the number that is left."""
        self._role, self._epochs, self._lengths, self._silent = role, epochs, lengths, silent
        self._total = steps
        self._steps, self._tokens = 0, 0
        self._started = self._spoke = time.monotonic()

    def step(self, batch: np.ndarray) -> None:
        """One global batch is done."""
        self._steps += 1
        self._tokens += int(self._lengths[batch].sum())
        now = time.monotonic()
        if not self._silent and now - self._spoke >= SECONDS_BETWEEN_LINES:
            self._spoke = now
            self._say(f"step {self._steps}/{self._total}")

    def epoch_done(self, epoch: int, metrics: dict[str, float], ranked: str) -> None:
        """One epoch is done and evaluated; `ranked` is the metric to log."""
        if not self._silent:
            value = metrics[f"validation_{ranked}"]
            shown = f"loss {metrics['train_loss']:.4f}, validation {ranked.replace('_', ' ')} {value:.4f}"
            self._say(f"epoch {epoch + 1}/{self._epochs}: {shown}")

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, padding excluded, of all workers, since the start."""
        return self._tokens / max(1e-9, time.monotonic() - self._started)

    def _say(self, text: str) -> None:
        left = (time.monotonic() - self._started) / max(1, self._steps) * (self._total - self._steps)
        print(f"{self._role}: {text}, {self.tokens_per_second:,.0f} tokens/s, {left:.0f} s to go", flush=True)

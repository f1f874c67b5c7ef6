from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.compression import layer_times
from jobs.compression.layer_times import LayerTimes
from jobs.models.layers import LayerSize, layers_of
from tests.tiny.models import POSITIONS, batch, encoder_classifier


def fed(tokens: int = 7) -> dict[str, torch.Tensor]:
    """What every block is given."""
    return batch(1, tokens) | {"hidden": torch.randn(1, tokens, 32), "mask": torch.zeros(1, 1, 1, tokens)}


@pytest.mark.parametrize("kind", ["bert", "electra", "distilbert"])
def test_the_blocks_that_are_timed_are_those_of_the_model(kind: str):
    """A layer is its attention block, then its feed-forward block; the rest is the model without layers."""
    model, given = encoder_classifier(kind, layers=2), fed()
    apart = layer_times._Apart(model, 2, 2)
    with torch.inference_mode():
        rest_BC, *attended = apart(**given)[:3]
        for number, layer in enumerate(layers_of(model.encoder)):
            answer = apart(**given | {"hidden": attended[number]})[3 + number]
            torch.testing.assert_close(answer, layer(given["hidden"], None), rtol=1e-4, atol=1e-5)
        del layers_of(model.encoder)[:]
        torch.testing.assert_close(rest_BC, model(given["input_ids"], given["attention_mask"]), rtol=1e-4, atol=1e-5)


def test_each_block_is_exported_by_itself(tmp_path: Path):
    apart, given = layer_times._Apart(encoder_classifier(layers=1), 1, 1), fed()
    sessions = layer_times._sessions(apart, ["rest", "heads 2", "units 64"], tmp_path, 7)
    feed = {name: each.numpy() for name, each in given.items()}
    with torch.inference_mode():
        for session, expected in zip(sessions.values(), apart(**given), strict=True):
            np.testing.assert_allclose(session.run(None, feed)[0], expected.numpy(), atol=1e-4)
    assert not list(tmp_path.iterdir())


def test_blocks_are_timed_from_the_smallest_size_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layer_times, "_sessions", lambda apart, names, folder, tokens: dict.fromkeys(names))
    monkeypatch.setattr(layer_times, "_times", lambda sessions, feed: {name: len(name) for name in sessions})
    times = layer_times.measure(encoder_classifier(), tmp_path)
    assert list(times.heads) == [1, 2]
    assert list(times.feed_forward) == [4, 16, 32, 64]
    assert times.facts()["tokens"] == layer_times.TOKENS < POSITIONS


def test_a_model_of_fewer_positions_is_timed_at_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fed_tokens: list[tuple[int, ...]] = []
    monkeypatch.setattr(layer_times, "_sessions", lambda apart, names, folder, tokens: dict.fromkeys(names))

    def timed(sessions: dict[str, None], feed: dict[str, np.ndarray]) -> dict[str, float]:
        fed_tokens.append(feed["input_ids"].shape)
        return dict.fromkeys(sessions, 1.0)

    monkeypatch.setattr(layer_times, "_times", timed)
    model = encoder_classifier()
    model.encoder.config.max_position_embeddings = 6  # the least of what is said and what is there
    assert layer_times.measure(model, tmp_path).facts()["tokens"] == 6
    assert fed_tokens == [(1, 6)]


def test_a_block_takes_the_milliseconds_of_its_undisturbed_calls(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Session:
        def __init__(self, seconds: float) -> None:
            self.seconds, self.calls = seconds, 0

        def run(self, outputs: None, feed: dict[str, np.ndarray]) -> None:
            self.calls += 1
            clock[0] += self.seconds if self.calls % 3 else 9.0  # a neighbour took the core

    assert layer_times._times({"one": Session(0.25), "other": Session(0.5)}, {}) == {"one": 250, "other": 500}


def test_a_model_takes_the_time_of_its_blocks_and_of_the_rest():
    times = LayerTimes(1.0, {1: 2.0, 3: 4.0}, {16: 1.0, 64: 4.0})
    assert times.model([LayerSize(1, 16, 64), LayerSize(3, 16, 16)]) == 1 + (2 + 4) + (4 + 1)
    assert times.model([LayerSize(2, 16, 32)]) == 1 + 3 + 2  # on the lines between
    assert times.facts()["feed_forward"] == {"16": 1.0, "64": 4.0}

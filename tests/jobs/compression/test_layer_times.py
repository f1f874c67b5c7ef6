from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.compression import layer_times
from jobs.compression.layer_times import LayerTimes
from jobs.models.layers import LayerSize, layers_of, sizes_of
from tests.tiny_models import batch, encoder_classifier


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_blocks_that_are_timed_do_what_those_of_the_model_do(kind: str, tmp_path: Path):
    """A layer is its attention block, then its feed-forward block."""
    stairs = encoder_classifier(kind, layers=2)
    apart = layer_times._Apart(stairs, 2, 2)
    sessions = layer_times._sessions(apart, ["rest", "heads a", "heads b", "units a", "units b"], tmp_path)
    given, hidden_BLH = batch(1, 7), torch.randn(1, 7, 32)
    feed = {name: each.numpy() for name, each in given.items()}
    feed |= {"hidden": hidden_BLH.numpy(), "mask": np.zeros((1, 1, 1, 7), dtype=np.float32)}
    for number, layer in enumerate(layers_of(stairs.encoder)):
        attended = sessions[f"heads {'ab'[number]}"].run(None, feed)[0]
        answer = sessions[f"units {'ab'[number]}"].run(None, feed | {"hidden": attended})[0]
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(answer), layer(hidden_BLH, None), rtol=1e-4, atol=1e-4)
    del layers_of(stairs.encoder)[:]
    with torch.inference_mode():
        expected_BC = stairs(**given)
    torch.testing.assert_close(torch.from_numpy(sessions["rest"].run(None, feed)[0]), expected_BC, rtol=1e-4, atol=1e-4)
    assert not list(tmp_path.iterdir())


def test_a_size_is_timed_for_all_that_a_layer_could_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, list[str]] = {}

    def fake(apart: object, names: list[str], folder: Path) -> dict[str, float]:
        asked["names"] = names
        return {name: float(number) for number, name in enumerate(names)}

    monkeypatch.setattr(layer_times, "_sessions", fake)
    monkeypatch.setattr(layer_times, "_medians", lambda sessions, feed: sessions)
    model = encoder_classifier()
    times = layer_times.measure(model, tmp_path)
    assert list(times.heads) == [1, 2]
    assert list(times.feed_forward) == [8, 16, 24, 32, 40, 48, 56, 64]
    assert times.model(sizes_of(model.encoder.config)) == 0.0 + 2 * (times.heads[2] + times.feed_forward[64])


def test_a_call_is_timed_in_milliseconds():
    class Session:
        def run(self, outputs: None, feed: dict[str, np.ndarray]) -> None:
            torch.ones(300, 300) @ torch.ones(300, 300)

    found = layer_times._medians({"one": Session(), "other": Session()}, {})
    assert 1e-3 < found["one"] < 1e3 and 0.1 < found["one"] / found["other"] < 10


def test_a_model_takes_the_time_of_its_blocks_and_of_the_rest():
    times = LayerTimes(1.0, {1: 2.0, 2: 3.0}, {16: 1.0, 64: 4.0})
    assert times.model([LayerSize(1, 16, 64), LayerSize(2, 16, 16)]) == 1 + (2 + 4) + (3 + 1)
    assert times.facts()["feed_forward"] == {"16": 1.0, "64": 4.0}

from __future__ import annotations

import json

from tuning.figures import AS_THEY_COME, LATENCIES, add, figures, flat, latency_of, timed

WINNER = figures(
    {"accuracy": 0.9, "bytes": 1e6},
    {"batch1_tokens32": {"p50_ms": 1.0, "busy": 0.1}, "mix": {"mean_ms": 2.0}},
    {"batch1_tokens32": {"fp32": 0.5, "int8": 0.125}},
)


def test_flat_names_are_those_that_mlflow_and_bundles_know():
    assert flat(WINNER) == {
        "accuracy": 0.9,
        "bytes": 1e6,
        "batch1_tokens32_p50_ms": 1.0,
        "batch1_tokens32_busy": 0.1,
        "mix_mean_ms": 2.0,
        "batch1_tokens32_fp32_peak_share": 0.5,
        "batch1_tokens32_int8_peak_share": 0.125,
    }


def test_figures_are_json_as_they_are():
    assert json.loads(json.dumps(WINNER)) == WINNER


def test_latencies_are_found_again_among_flat_names():
    taken = {name: float(number) for number, name in enumerate(LATENCIES)}
    others = figures({"mix_rows": 3.0}, {"mix": taken, "batch1_tokens3": taken})
    assert latency_of(flat(others), "mix") == taken
    assert latency_of(flat(others), "batch1_tokens32") == {}


def test_further_figures_stand_beside_those_there_were():
    found = figures({"accuracy": 0.8}, {"mix": {"p50_ms": 0.5}})
    add(WINNER, to=found)
    assert found["metrics"]["accuracy"] == 0.9
    assert found["latency"]["mix"] == {"p50_ms": 0.5, "mean_ms": 2.0}
    found["latency"]["batch1_tokens32"]["p50_ms"] = 7.0
    assert WINNER["latency"]["batch1_tokens32"]["p50_ms"] == 1.0, "nothing is shared"


def test_what_was_timed_is_named_for_readers():
    assert timed((16, 32)) == ("batch16_tokens32", "batch 16, 32 tokens")
    assert AS_THEY_COME == ("mix", "a row as it comes")

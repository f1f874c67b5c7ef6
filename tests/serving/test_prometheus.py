"""GET /metrics of a process without Ray, as Prometheus reads it."""

import asyncio
from pathlib import Path
from typing import Any

import requests
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families as families

from configs.schema.serving import ServingSpec
from serving.drift import WINDOW
from serving.metrics import ALL, MOST_LABELS, OTHER, Meter
from serving.platforms import Vertex
from serving.prometheus import PrometheusExporter
from serving.services import Services
from serving.site import Site
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.profiles import add_profile
from tests.tiny.services import answering

SECRET = "my card is 4111"


def values(text: str) -> dict[tuple[str, ...], float]:
    """By name and labels of each series, buckets aside."""
    found = {}
    for each in (sample for family in families(text) for sample in family.samples):
        if "le" not in each.labels and not each.name.endswith("_created"):
            found[(each.name, *(each.labels[name] for name in sorted(each.labels)))] = each.value
    return found


def test_answers_and_refusals_of_each_service_are_counted(tmp_path: Path):
    write_tiny_bundle(tmp_path / "intent")
    write_tiny_decoder(tmp_path / "writer", b"a\n says hello.")
    spec, exporter = ServingSpec(max_inputs=3), PrometheusExporter()
    services = Services({name: tmp_path / name for name in ("intent", "writer")}, spec, exporter)
    asyncio.run(services.load())
    with answering(Site(services, spec, Vertex(), exporter)) as address:

        def ask(service: str, **body: Any) -> requests.Response:
            return requests.post(f"{address}/v1/{service}", json=body, timeout=20)

        before = values(requests.get(f"{address}/metrics", timeout=20).text)
        said = ask("intent", inputs=["refund", SECRET]).json()
        assert ask("intent", inputs=[SECRET] * 4).status_code == 422
        written = ask("writer", inputs=["a"], max_tokens=5).json()
        ask("writer", inputs=["a"], max_tokens=1)  # a round is counted before the next one begins
        text = requests.get(f"{address}/metrics", timeout=20).text
        after = values(text)
    assert SECRET not in text
    intent, writer = services.version("intent"), services.version("writer")
    grown = {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}
    assert grown[("slimcart_requests_total", "intent", "200", intent)] == 1
    assert grown[("slimcart_requests_total", "intent", "422", intent)] == 1
    assert grown[("slimcart_request_seconds_count", "intent", intent)] == 1
    assert grown[("slimcart_batch_inputs_sum", "intent", intent)] == 2
    assert grown[("slimcart_confidence_count", "intent", intent)] == 2
    labels = {each["label"] for each in said["predictions"]}
    assert {key[1] for key in grown if key[0] == "slimcart_labels_total"} == labels
    assert grown[("slimcart_tokens_total", "writer", writer, "completion")] in (5, 6)
    assert grown[("slimcart_tokens_total", "writer", writer, "prompt")] >= 1
    assert written["predictions"][0]["finish_reason"] == "length"


def test_inputs_like_the_validation_rows_are_stable_and_others_are_a_drift(tmp_path: Path):
    write_tiny_bundle(tmp_path / "intent")
    known = ["refund", "where is my order please", "cancel it", "where is it now"]
    add_profile(tmp_path / "intent", known * 100)
    spec, exporter = ServingSpec(max_inputs=100), PrometheusExporter()
    services = Services({"intent": tmp_path / "intent"}, spec, exporter)
    asyncio.run(services.load())
    with answering(Site(services, spec, Vertex(), exporter)) as address:

        def drift(inputs: list[str]) -> dict[str, float]:
            for _ in range(WINDOW // len(inputs)):
                assert requests.post(f"{address}/v1/intent", json={"inputs": inputs}, timeout=20).ok
            found = values(requests.get(f"{address}/metrics", timeout=20).text)
            return {key[3]: value for key, value in found.items() if key[0] == "slimcart_drift"}

        assert all(value < 0.1 for value in drift(known * 25).values())
        others = drift(["cancel it"] * 100)
        assert others.keys() == {"characters", "label", "confidence"} and min(others.values()) > 0.25


def test_a_bundle_of_many_labels_has_so_many_series_and_one_for_the_rest():
    exporter = PrometheusExporter()
    labels = [str(number) for number in range(MOST_LABELS + 50)]
    meter = Meter(exporter, "intent", "1", labels)
    for each in labels:
        meter.label(each, 0.5)
    found = {
        key[1]: value
        for key, value in values(TestClient(exporter).get("/metrics").text).items()
        if key[0] == "slimcart_labels_total"
    }
    assert len(found) == MOST_LABELS + 1
    assert found[OTHER] == 50


def test_every_metric_says_what_it_is():
    assert len({metric.name for metric in ALL}) == len(ALL)
    assert all((metric.kind == "histogram") == bool(metric.buckets) and metric.help for metric in ALL)

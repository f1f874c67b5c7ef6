"""What Prometheus reads of running services by our own configuration: every rule finds series."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from cluster import session
from cluster.record import Cluster
from configs.schema.serving import ServingSpec
from serving.applications import application, package_code
from serving.deployment import deploy, undeploy
from serving.platforms import Vertex
from serving.prometheus import PrometheusExporter
from serving.services import Services
from serving.site import Site
from tests.processes import ROOT, free_port
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.profiles import add_profile
from tests.tiny.services import answering

WATCH = ROOT / "cluster" / "watch"
BOUND = re.compile(r"\s*[<>]=?\s*[\d.]+\s*$")
WATCHED = ("intent", "writer")
PATIENCE_S = 60.0
pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no Prometheus of Debian's here")


def expressions() -> list[str]:
    """Of all rules, without their bounds."""
    groups = yaml.safe_load((WATCH / "rules.yml").read_text(encoding="utf-8"))["groups"]
    found = [rule["expr"] for group in groups for rule in group["rules"]]
    assert found and all(BOUND.search(each) for each in found)
    return [BOUND.sub("", each) for each in found]


@contextmanager
def prometheus(folder: Path, targets: list[dict[str, Any]] | Path) -> Iterator[str]:
    """The address of a Prometheus on our configuration, which reads every second; `targets`: a file, or its content."""
    config = folder / "watch"
    shutil.copytree(WATCH, config)
    (config / "targets").mkdir()
    if isinstance(targets, Path):
        (config / "targets" / "ray.json").symlink_to(targets)
    else:
        (config / "targets" / "http.json").write_text(json.dumps(targets), encoding="utf-8")
    told = (config / "prometheus.yml").read_text(encoding="utf-8")
    assert "15s" in told
    (config / "prometheus.yml").write_text(told.replace("15s", "1s"), encoding="utf-8")
    port = free_port(9090)
    command = ["prometheus", f"--config.file={config / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def found(address: str, expression: str) -> list[Any]:
    """The series of an expression; none where Prometheus does not answer yet."""
    try:
        answer = requests.get(f"{address}/api/v1/query", {"query": expression}, timeout=10)
    except requests.ConnectionError:
        return []
    return answer.json()["data"]["result"] if answer.ok else []


def missing(address: str, wanted: list[str], ask: Any) -> list[str]:
    """Which expressions find no number, after as long as it may take."""
    until = time.monotonic() + PATIENCE_S
    while True:
        ask()
        left = [each for each in wanted if not [row for row in found(address, each) if row["value"][1] != "NaN"]]
        if not left or time.monotonic() > until:
            return left


def test_configuration_and_rules_are_what_prometheus_takes():
    for what, name in (("config", "prometheus.yml"), ("rules", "rules.yml")):
        subprocess.run(["promtool", "check", what, str(WATCH / name)], check=True, capture_output=True)


def test_each_rule_asks_for_help_when_it_should_and_only_then(tmp_path: Path):
    (tmp_path / "rules.yml").symlink_to(WATCH / "rules.yml")
    cases = shutil.copyfile(Path(__file__).with_name("rules_test.yml"), tmp_path / "rules_test.yml")
    groups = yaml.safe_load(cases.read_text(encoding="utf-8"))["tests"]
    tried = {case["alertname"]: set() for group in groups for case in group["alert_rule_test"]}
    for case in (case for group in groups for case in group["alert_rule_test"]):
        tried[case["alertname"]].add(bool(case.get("exp_alerts")))
    rules = yaml.safe_load((WATCH / "rules.yml").read_text(encoding="utf-8"))["groups"]
    assert tried == {rule["alert"]: {True, False} for group in rules for rule in group["rules"]}
    found = subprocess.run(["promtool", "test", "rules", str(cases)], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_rule_finds_series_of_a_process_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_watched(tmp_path)
    spec, exporter = ServingSpec(), PrometheusExporter()
    services = Services({name: tmp_path / name for name in WATCHED}, spec, exporter)
    asyncio.run(services.load())
    with answering(Site(services, spec, Vertex(), exporter)) as address:
        targets = [{"targets": [address.removeprefix("http://")]}]
        with prometheus(tmp_path, targets) as watching:
            assert not missing(watching, expressions(), lambda: ask(f"{address}/v1/intent", f"{address}/v1/writer"))
            monkeypatch.setattr("tests.cluster.test_watch.PATIENCE_S", 0.0)
            assert missing(watching, ["rate(slimcart_request[5m])"], lambda: None)  # no such name


@pytest.mark.cluster
@pytest.mark.often
def test_every_rule_finds_series_of_a_service_on_the_cluster(cluster: Cluster, on_cluster: Cluster, tmp_path: Path):
    session.connect()
    write_watched(tmp_path)
    headers = {"Authorization": f"Bearer {cluster.token_path.read_text()}"}
    requests.delete(f"{cluster.dashboard_url}/api/serve/applications/", headers=headers, timeout=60)
    spec = ServingSpec.model_validate({"port": free_port(9700), "graceful_shutdown_timeout_s": 1})
    given = (cluster.dashboard_url, headers, spec)
    code = package_code(tmp_path / "code")
    made = [application(spec, name, tmp_path / name, "t", "1", code, tmp_path) for name in WATCHED]
    endpoints = [deploy(*given, each, tmp_path) for each in made]
    try:
        with prometheus(tmp_path, cluster.temp / "ray" / "prom_metrics_service_discovery.json") as watching:
            assert not missing(watching, expressions(), lambda: ask(*endpoints))
            assert {row["metric"]["service"] for row in found(watching, "slimcart_requests_total")} == {*WATCHED}
    finally:
        for name in WATCHED:
            undeploy(*given, name, tmp_path)


def write_watched(folder: Path) -> None:
    """Bundles of both tasks, one with a profile."""
    write_tiny_bundle(folder / "intent")
    add_profile(folder / "intent", ["refund", "cancel it"])
    write_tiny_decoder(folder / "writer", b"refund\n is made.")


def ask(labels: str, texts: str) -> None:
    """Of classifiers enough at a time that a drift shows after some calls."""
    assert requests.post(labels, json={"inputs": ["refund"] * 64}, timeout=20).ok
    assert requests.post(texts, json={"inputs": ["refund"]}, timeout=20).ok

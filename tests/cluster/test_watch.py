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
from tests.tiny.services import answering

WATCH = ROOT / "cluster" / "watch"
BOUND = re.compile(r"\s*[<>]=?\s*[\d.]+\s*$")
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


def test_every_rule_finds_series_of_a_process_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_tiny_bundle(tmp_path / "intent")
    spec, exporter = ServingSpec(), PrometheusExporter()
    services = Services({"intent": tmp_path / "intent"}, spec, exporter)
    asyncio.run(services.load())
    with answering(Site(services, spec, Vertex(), exporter)) as address:
        targets = [{"targets": [address.removeprefix("http://")]}]
        with prometheus(tmp_path, targets) as watching:
            assert not missing(watching, expressions(), lambda: ask(f"{address}/v1/intent"))
            monkeypatch.setattr("tests.cluster.test_watch.PATIENCE_S", 0.0)
            assert missing(watching, ["rate(slimcart_request[5m])"], lambda: None)  # no such name


@pytest.mark.cluster
@pytest.mark.often
def test_every_rule_finds_series_of_a_service_on_the_cluster(cluster: Cluster, on_cluster: Cluster, tmp_path: Path):
    session.connect()
    write_tiny_bundle(tmp_path / "watched")
    headers = {"Authorization": f"Bearer {cluster.token_path.read_text()}"}
    requests.delete(f"{cluster.dashboard_url}/api/serve/applications/", headers=headers, timeout=60)
    spec = ServingSpec.model_validate({"port": free_port(9700), "graceful_shutdown_timeout_s": 1})
    given = (cluster.dashboard_url, headers, spec)
    made = application(spec, "watched", tmp_path / "watched", "t", "1", package_code(tmp_path / "code"), tmp_path)
    endpoint = deploy(*given, made, tmp_path)
    try:
        with prometheus(tmp_path, cluster.temp / "ray" / "prom_metrics_service_discovery.json") as watching:
            assert not missing(watching, expressions(), lambda: ask(endpoint))
            assert {row["metric"]["service"] for row in found(watching, "slimcart_requests_total")} == {"watched"}
    finally:
        undeploy(*given, "watched", tmp_path)


def ask(endpoint: str) -> None:
    assert requests.post(endpoint, json={"inputs": ["refund"]}, timeout=20).ok

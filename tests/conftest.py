"""What many tests share: one cluster for the whole session, and a shop small enough to train on in seconds."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Ray reads these two once, when it is imported; the rest of a cluster's environment may come later.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # no test asks the Hub
# Two test runs share the cores: math threads that spin while they wait made one test 100x slower.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import pytest
from _pytest.terminal import TerminalReporter

from cluster import local, processes, servers
from cluster.ports import choose_ports
from cluster.record import Cluster
from configs import waiting
from tests.faults import marks
from tests.processes import FOREIGN, free_port
from tests.tiny.shop import write_completions, write_encoder, write_recipe, write_rows

SERVERS = {"own_cluster", "mlflow_alone"}  # fixtures


@pytest.hookimpl(tryfirst=True)  # pytest chooses in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m cluster` chooses what needs the cluster below; other servers are slow to start, too."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "cluster" in fixtures:
            item.add_marker(pytest.mark.cluster)
        if SERVERS.intersection(fixtures):
            item.add_marker(pytest.mark.slow)
        marks.note(item)


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """`-m fault` ends with a table."""
    if config.getoption("markexpr") == marks.ROW:
        marks.summarise(terminalreporter)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray head and an MLflow server with a home of their own.

    Ray counts four CPUs wherever it runs: four tiny workers, or three tiny trials, fit side by side.
    """
    state = tmp_path_factory.mktemp("cluster") / "state"
    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        started = local.up(state, cpus=4, dashboard_port=free_port(8500), mlflow_port=free_port(9000))
    yield started
    local.down(state)


@pytest.fixture(scope="session")
def environment(cluster: Cluster) -> dict[str, str]:
    """The environment of a process that talks to the cluster."""
    own = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return own | cluster.environment()


@pytest.fixture(scope="session")
def on_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, which this process can join: `session.connect()` and MLflow find it."""
    with known(cluster):
        yield cluster
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()


@pytest.fixture(scope="session")
def mlflow_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of an MLflow server alone, for tests that need no Ray."""
    state = tmp_path_factory.mktemp("mlflow") / "state"
    ports = choose_ports(free_port(8900), free_port(9400))
    cluster = Cluster(state=state, home=state / "home", temp=state / "temp", ports=ports)
    cluster.home.mkdir(parents=True)
    part = servers.start("mlflow", cluster)
    try:
        servers.wait_until_ready(cluster.model_copy(update={"mlflow": part}))
        yield cluster
    finally:
        processes.end([part])


@pytest.fixture(scope="module")
def on_mlflow(mlflow_alone: Cluster) -> Iterator[Cluster]:
    """The same, and this process finds it."""
    with known(mlflow_alone):
        yield mlflow_alone


@contextlib.contextmanager
def known(cluster: Cluster) -> Iterator[None]:
    """This process has the environment of `cluster`, and no other's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        for name, value in cluster.environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[queue.Queue[str]]:
    """What waits of this process say, almost at once."""
    said = queue.Queue[str]()
    speaker = logging.Handler()
    speaker.emit = lambda record: said.put(record.getMessage())
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.05)
    waiting.log.addHandler(speaker)
    yield said
    waiting.log.removeHandler(speaker)


@pytest.fixture
def own_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Cluster]]:
    """Starts a cluster that a test may kill; called again, starts what has ended of it. This process joins none."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    state = tmp_path / "state"
    yield lambda: local.up(state, cpus=2, dashboard_port=free_port(8700), mlflow_port=free_port(9200))
    local.down(state)


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a BERT of three layers, 32 wide, with random weights and a tokenizer of the shop's words."""
    return write_encoder(tmp_path_factory.mktemp("teacher") / "encoder")


@pytest.fixture(scope="session")
def shop_folder(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Path:
    """train.jsonl, validation.jsonl, test.jsonl of five intents, and recipe.yaml completions.yaml."""
    folder = tmp_path_factory.mktemp("shop")
    write_rows(folder)
    write_recipe(folder, tiny_teacher)
    write_completions(folder)
    return folder

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import session
from cluster.record import Cluster
from configs.loader import UsageError
from configs.schema.engine import EngineSpec
from tests.processes import run


def engine(**fields: Any) -> EngineSpec:
    return EngineSpec.model_validate(fields)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound but not listened on: a connection is refused, and nobody else gets it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("fields", "total"),
    [
        ({"workers": 1, "cpus_per_worker": 2}, {"CPU": 2.0}),
        ({"workers": 4, "cpus_per_worker": 2}, {"CPU": 8.0, "memory": 1e9}),
        ({"workers": 2, "cpus_per_worker": 1, "use_gpu": True}, {"CPU": 8.0, "GPU": 2.0}),
        ({"cpus_per_worker": 1, "use_gpu": True, "gpus_per_worker": 0.25}, {"CPU": 8.0, "GPU": 1.0}),
    ],
)
def test_what_the_cluster_holds_is_accepted(fields: dict[str, Any], total: dict[str, float]):
    session.check_capacity(engine(**fields), total)


@pytest.mark.parametrize(
    ("fields", "total", "said"),
    [
        (
            {"workers": 3, "cpus_per_worker": 2},
            {"CPU": 4.0},
            (
                "engine: workers=3 x 2 CPU = 6 CPU, the cluster has 4; "
                "use at most 2 workers of this size or fewer CPUs each"
            ),
        ),
        (
            {"workers": 1, "cpus_per_worker": 8},
            {"CPU": 2.0},
            "engine: workers=1 x 8 CPU = 8 CPU, the cluster has 2; ",
        ),
        (
            {"workers": 2, "cpus_per_worker": 1, "use_gpu": True},
            {"CPU": 8.0},
            "engine: workers=2 x 1 GPU = 2 GPU, the cluster has 0; ",
        ),
    ],
)
def test_what_the_cluster_could_never_hold_is_refused_with_the_sum(
    fields: dict[str, Any], total: dict[str, float], said: str
):
    with pytest.raises(UsageError) as refused:
        session.check_capacity(engine(**fields), total)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "ask"), [("SLIMCART_HOME", session.home), ("MLFLOW_TRACKING_URI", session.tracking_uri)]
)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_address_is_a_usage_error_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, name: str, ask: Any, value: str | None
):
    monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"environment: {name} is not set; submit with `ray job .*`make up`"):
        ask()


def test_home_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIMCART_HOME", "home")
    assert session.home() == tmp_path / "home"


def test_the_submission_is_known_from_rays_own_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert session.submission_id() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    assert session.submission_id() == "raysubmit_1"


def test_an_address_that_does_not_answer_is_refused_at_once(closed_port: int):
    address = f"127.0.0.1:{closed_port}"
    with pytest.raises(UsageError, match=rf"environment: RAY_ADDRESS={address} does not answer \(.*refused\); submit"):
        session._check_reachable(address)


@pytest.mark.parametrize("address", ["auto", "local", "ray"])
def test_an_address_without_a_port_is_left_to_ray(address: str):
    session._check_reachable(address)


@pytest.mark.slow
def test_joining_a_cluster_that_is_gone_is_one_line(closed_port: int):
    """In a process of its own: Ray may already be up in this one. `run` would end it long before Ray gave up."""
    code = "import cluster.session as s\ntry:\n    s.connect()\nexcept s.UsageError as error:\n    print(error)"
    done = run([sys.executable, "-c", code], {**os.environ, "RAY_ADDRESS": f"127.0.0.1:{closed_port}"})
    assert done.code == 0, done.output
    assert done.output.startswith(f"environment: RAY_ADDRESS=127.0.0.1:{closed_port} does not answer (")
    assert done.output.count("\n") == 1


def test_a_cluster_is_lost_when_its_head_takes_no_connection(
    on_cluster: Cluster, closed_port: int, monkeypatch: pytest.MonkeyPatch
):
    import ray
    from ray.exceptions import RayActorError

    session.connect()
    monkeypatch.setattr(session, "LOSS_SECONDS", 0.2)
    errors = [ValueError(), session.JobError("known"), RayActorError(error_msg="gone")]
    assert not any(map(session.is_lost, errors))
    monkeypatch.setattr(type(ray.get_runtime_context()), "gcs_address", f"127.0.0.1:{closed_port}")
    assert all(map(session.is_lost, errors))


@pytest.mark.parametrize("of_ray", [True, False])
def test_after_an_error_of_ray_its_head_may_still_go(
    on_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, of_ray: bool
):
    """Whatever raised it: training, Ray Data or a search. Control: an error of ours is told at once."""
    from ray.exceptions import RayActorError

    session.connect()
    asked = iter([None, None, ConnectionRefusedError()])
    monkeypatch.setattr(session, "_refusal", lambda *_: next(asked))
    assert session.is_lost(RayActorError(error_msg="gone") if of_ray else ValueError()) == of_ray
    assert len(list(asked)) == (0 if of_ray else 2)


def test_a_process_joins_the_cluster_once_and_counts_its_cpus(on_cluster: Cluster):
    import ray

    session.connect()
    node = ray.get_runtime_context().get_node_id()
    session.connect()
    assert ray.get_runtime_context().get_node_id() == node
    assert ray.cluster_resources()["CPU"] == 4
    session.check_capacity(engine(workers=4, cpus_per_worker=1))
    with pytest.raises(UsageError, match="workers=5 x 1 CPU = 5 CPU, the cluster has 4"):
        session.check_capacity(engine(workers=5, cpus_per_worker=1))


def test_a_page_of_mlflow_shows_training_and_what_lies_below_the_experiments():
    assert session.mlflow_page("http://127.0.0.1:5000") == (
        "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
    )
    assert session.mlflow_page("http://127.0.0.1:5000", "1", "runs", "ab") == (
        "http://127.0.0.1:5000/#/experiments/1/runs/ab?workflowType=machine_learning"
    )

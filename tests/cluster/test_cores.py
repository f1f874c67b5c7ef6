from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import cores, launch, session
from cluster.cores import Claim, line
from cluster.record import Cluster
from configs.schema.engine import EngineSpec
from tests.processes import ROOT

TOTAL = {"CPU": 4.0, "memory": 1e9}
NAMES = {"02": "job raysubmit_a (jobs.optimize)", "03": "job raysubmit_b"}


def claim(job: str, cpus: float, **more: Any) -> Claim:
    return Claim(job, {"CPU": cpus}, **more)


@pytest.mark.parametrize(
    ("wanted", "held", "said"),
    [
        (claim("01", 2), [claim("02", 4)], "waiting for 2 cores: job raysubmit_a (jobs.optimize) holds them"),
        (claim("01", 1), [claim("03", 4)], "waiting for 1 core: job raysubmit_b holds them"),
        (
            claim("01", 4),
            [claim("02", 1), claim("01", 1), claim("03", 1), claim("02", 1)],
            "waiting for 4 cores: job raysubmit_a (jobs.optimize) and job raysubmit_b hold them",
        ),
        (claim("01", 4), [claim("09", 1)], "waiting for 4 cores: job 09 holds them"),
        (claim("01", 3), [claim("09", 2, service="service intent")], "waiting for 3 cores: service intent holds them"),
        (claim("01", 5), [], "waiting for 5 cores: the cluster has 4"),
        (Claim("01", {"GPU": 1}), [], "waiting for 1 GPU: the cluster has 0"),
        (claim("01", 2), [claim("01", 4)], None),  # its own trials stand before it
        (claim("01", 2), [claim("02", 1), claim("01", 3)], None),
        (claim("01", 2), [claim("02", 0)], None),
        (Claim("01", {"memory": 1e10}), [claim("02", 4)], None),
    ],
)
def test_the_line_names_what_is_waited_for_and_who_of_others_holds_it(
    wanted: Claim, held: list[Claim], said: str | None
):
    assert line(wanted, held, TOTAL, NAMES) == said


@pytest.mark.parametrize(
    ("job", "name"),
    [
        (
            {"submission_id": "raysubmit_a", "entrypoint": "python -m jobs.tune --config x.yaml"},
            "raysubmit_a (jobs.tune)",
        ),
        ({"submission_id": None, "entrypoint": "/usr/bin/python -m jobs.optimize data.train=x"}, "01 (jobs.optimize)"),
        ({"submission_id": None, "entrypoint": "python mine.py --token=abc"}, "01"),
        ({"submission_id": "raysubmit_a", "entrypoint": None}, "raysubmit_a"),
    ],
)
def test_a_job_is_named_without_its_arguments(job: dict[str, Any], name: str):
    assert cores._name(SimpleNamespace(job_id="01", **job)) == f"job {name}"


HOLDS = """
import os, sys, ray
ray.init(address=os.environ["RAY_ADDRESS"], logging_level="ERROR", log_to_driver=False)
kind, cpus = sys.argv[1:]
if kind == "group":
    held = ray.util.placement_group([{"CPU": float(cpus)}])
    ray.get(held.ready())
else:
    class Holder:
        def ready(self): pass
    held = ray.remote(Holder).options(num_cpus=float(cpus)).remote()
    ray.get(held.ready.remote())
print(ray.get_runtime_context().get_job_id(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(on_cluster: Cluster) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts another job that holds all cores until its input ends, and says its id."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", HOLDS, kind, "4"]
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    yield start
    for each in started:
        each.communicate()


def nothing(config: dict[str, Any]) -> str:
    """Runs on the worker."""
    return "done"


def test_training_says_which_job_holds_its_cores_and_begins_when_that_ends(
    holder: Callable[[str], subprocess.Popen[str]], waits: queue.Queue[str], tmp_path: Path
):
    """The other job ends when the line is said, and not before."""
    session.connect()
    other = holder("group")
    assert other.stdout
    job = other.stdout.readline().strip()
    assert cores.waited_for() is None
    said = list[str]()

    def end_the_other() -> None:
        said.append(waits.get())
        other.communicate()

    ends = threading.Thread(target=end_the_other, daemon=True)
    ends.start()
    assert launch.fit(f"{__name__}:nothing", {}, EngineSpec(workers=2, cpus_per_worker=1), tmp_path) == "done"
    assert said == [f"waiting for 2 cores: job {job} holds them"]
    ends.join()


def test_rows_that_wait_for_a_core_say_who_holds_it(
    holder: Callable[[str], subprocess.Popen[str]],
):
    import ray

    session.connect()
    other = holder("actor")
    assert other.stdout
    job = other.stdout.readline().strip()
    waits = ray.remote(lambda: 1).options(num_cpus=1).remote()
    while (said := cores.waited_for()) is None:  # Ray notes the states of tasks once a second
        pass
    assert said == f"waiting for 1 core: job {job} holds them"
    other.communicate()
    assert ray.get(waits) == 1

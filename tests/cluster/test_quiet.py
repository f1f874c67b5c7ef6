import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import quiet
from tests.processes import ROOT


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return []


def start(events: list[str], name: str, kind) -> threading.Thread:
    def body() -> None:
        with kind():
            events.append(f"{name} in")
        events.append(f"{name} out")

    thread = threading.Thread(target=body)
    thread.start()
    return thread


def waits(thread: threading.Thread) -> bool:
    """Whether it is still there when a thread that nothing holds up would long be gone."""
    thread.join(0.3)
    return thread.is_alive()


def wait_until_held(name: str) -> None:
    """Until another open file holds the lock."""
    path = next(Path(tempfile.gettempdir()).glob(f"*-{name}.lock"))
    while True:
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return


def test_two_steps_of_work_run_side_by_side(events: list[str]):
    with quiet.at_work():
        start(events, "other", quiet.at_work).join()
    assert events == ["other in", "other out"]


def test_work_waits_for_a_measurement(events: list[str]):
    with quiet.measuring():
        worker = start(events, "work", quiet.at_work)
        measurer = start(events, "second measurement", quiet.measuring)
        assert waits(worker)
        assert waits(measurer)
        events.append("first measurement ends")
    worker.join()
    measurer.join()
    assert events[0] == "first measurement ends"


def test_a_measurement_goes_before_work_that_came_after_it(events: list[str]):
    with quiet.at_work():
        measurer = start(events, "measurement", quiet.measuring)
        wait_until_held("turnstile")
        worker = start(events, "work", quiet.at_work)
        assert waits(worker)
        events.append("first work ends")
    measurer.join()
    worker.join()
    assert events[:2] == ["first work ends", "measurement in"]


def test_a_lock_ends_with_an_exception(events: list[str]):
    with pytest.raises(ValueError, match="broken"), quiet.measuring():
        raise ValueError("broken")
    start(events, "work", quiet.at_work).join()
    assert events == ["work in", "work out"]


def test_a_link_in_the_place_of_a_lock_is_refused(events: list[str], tmp_path: Path):
    with quiet.measuring():
        pass
    room = next(tmp_path.glob("*-room.lock"))
    room.unlink()
    room.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), quiet.measuring():
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts processes that take a core, print it and keep it until their input ends."""
    code = "import sys; from cluster import quiet; print(*quiet.take_cores(1), flush=True); sys.stdin.read()"
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", code]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.communicate()


def core_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout
    return int(process.stdout.readline())


def test_processes_keep_to_cores_of_their_own_until_they_end(keeper: Callable[[], subprocess.Popen[str]]):
    cores = sorted(os.sched_getaffinity(0), reverse=True)
    taken = {core_of(process): process for process in [keeper() for _ in cores]}
    assert sorted(taken, reverse=True) == cores
    assert core_of(keeper()) == cores[0], "none is left, so it shares"
    taken[cores[-1]].communicate()
    assert core_of(keeper()) == cores[-1]

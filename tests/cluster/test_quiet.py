import fcntl
import os
import queue
import select
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from cluster import quiet
from cluster.session import JobError
from tests.processes import ROOT

PATIENCE_SECONDS = 60
measuring = partial(quiet.measuring, "a tiny model")


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
    while True:
        with open(quiet._folder() / f"{name}.lock", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return


def test_two_steps_of_work_run_side_by_side(events: list[str]):
    with quiet.at_work():
        start(events, "other", quiet.at_work).join()
    assert events == ["other in", "other out"]


def test_work_waits_for_a_measurement(events: list[str]):
    with measuring():
        worker = start(events, "work", quiet.at_work)
        measurer = start(events, "second measurement", measuring)
        assert waits(worker)
        assert waits(measurer)
        events.append("first measurement ends")
    worker.join()
    measurer.join()
    assert events[0] == "first measurement ends"


def test_a_measurement_goes_before_work_that_came_after_it(events: list[str]):
    with quiet.at_work():
        measurer = start(events, "measurement", measuring)
        wait_until_held(f"turnstile-{max(quiet._groups(os.sched_getaffinity(0)))}")
        worker = start(events, "work", quiet.at_work)
        assert waits(worker)
        events.append("first work ends")
    measurer.join()
    worker.join()
    assert events[:2] == ["first work ends", "measurement in"]


def test_a_lock_ends_with_an_exception(events: list[str]):
    with pytest.raises(ValueError, match="broken"), measuring():
        raise ValueError("broken")
    start(events, "work", quiet.at_work).join()
    assert events == ["work in", "work out"]


def test_a_link_in_the_place_of_a_lock_is_refused(events: list[str], tmp_path: Path):
    with measuring():
        pass
    room = next(quiet._folder().glob("room-*.lock"))
    room.unlink()
    room.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), measuring():
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_locks_lie_in_a_folder_of_this_user_alone(events: list[str], tmp_path: Path):
    with measuring():
        pass
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(each.stat().st_mode) == 0o600 for each in folder.iterdir())


@pytest.mark.parametrize("found", ["open to others", "a link", "a file", "somebody else's"])
def test_where_another_user_was_first_one_line_says_what_would_work(
    events: list[str], tmp_path: Path, found: str, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / f"slimcart-{os.getuid()}"
    if found == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif found == "a file":
        folder.touch(mode=0o600)
    else:
        folder.mkdir(mode=0o700)
        if found == "open to others":
            folder.chmod(0o777)
        else:
            own = os.getuid()
            (tmp_path / f"slimcart-{own + 1}").mkdir(mode=0o700)
            monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.raises(JobError, match=r"slimcart-\d+: not a folder of this user alone.* set TMPDIR to") as refused:
        start_in(measuring)
    assert "\n" not in str(refused.value)


def start_in(kind: Callable[..., AbstractContextManager[None]]) -> None:
    with kind():
        pass


@pytest.mark.parametrize("waits_for", ["work", "a second measurement"])
def test_who_waits_for_a_measurement_says_of_what_and_whose(events: list[str], waits: queue.Queue[str], waits_for: str):
    with quiet.measuring("student, teacher"):
        other = start(events, waits_for, quiet.at_work if waits_for == "work" else measuring)
        assert (
            waits.get(timeout=PATIENCE_SECONDS) == f"waiting: a measurement of student, teacher (process {os.getpid()})"
        )
    other.join()
    assert events == [f"{waits_for} in", f"{waits_for} out"]


def test_a_measurement_that_waits_for_work_says_so(events: list[str], waits: queue.Queue[str]):
    with quiet.at_work():
        measurer = start(events, "measurement", measuring)
        assert waits.get(timeout=PATIENCE_SECONDS).startswith("waiting: work on core ")
    measurer.join()


ENTERS = """
import os, sys, threading
from pathlib import Path
from cluster import quiet
kind, topology, *cores = sys.argv[1:]
quiet.TOPOLOGY = Path(topology)
os.sched_setaffinity(0, map(int, cores))
threading.Thread(target=threading.Event().wait, daemon=True).start()

def say():
    masks = [os.sched_getaffinity(int(each)) for each in os.listdir("/proc/self/task")]
    print(*sorted(set().union(*masks)), flush=True)

with quiet.measuring("a tiny model") if kind == "measuring" else getattr(quiet, kind)():
    say()
    sys.stdin.read()
say()
"""


class Entering:
    """A process that enters, says on which cores its threads may run then, and stays until it is told to leave."""

    def __init__(self, kind: str, cores: Iterable[int], folder: Path) -> None:
        command = [sys.executable, "-c", ENTERS, kind, str(folder / "cpu"), *map(str, cores)]
        pipe, environment = subprocess.PIPE, os.environ | {"TMPDIR": str(folder)}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)

    def cores(self) -> list[int]:
        """Waits until it is inside."""
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], PATIENCE_SECONDS)[0], "it is not let in"
        return [int(core) for core in self.process.stdout.readline().split()]

    def waits(self) -> bool:
        """Whether it is still silent when a process that nothing holds up would long be inside."""
        assert self.process.stdout
        return not select.select([self.process.stdout], [], [], 0.5)[0]

    def leave(self) -> list[int]:
        """Returns its cores after that."""
        return [int(core) for core in self.process.communicate()[0].split()]


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Callable[..., Entering]]:
    started: list[Entering] = []

    def start(kind: str, *cores: int) -> Entering:
        started.append(Entering(kind, cores, tmp_path))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="one core has no other")


@two_cores
def test_a_measurement_stops_no_work_on_other_cores(enter: Callable[..., Entering]):
    measured, other, *_ = CORES
    assert enter("measuring", measured).cores() == [measured]
    assert enter("at_work", other).cores() == [other]
    assert enter("at_work", measured).waits()


@two_cores
def test_work_on_any_core_leaves_those_of_a_measurement_with_all_its_threads_and_comes_back(
    enter: Callable[..., Entering],
):
    measured, other, *_ = CORES
    assert enter("measuring", measured).cores() == [measured]
    worker = enter("at_work", measured, other)
    assert worker.cores() == [other]
    assert worker.leave() == [measured, other]


@two_cores
def test_measurements_on_all_cores_are_taken_at_once_and_work_waits_for_one_of_them(enter: Callable[..., Entering]):
    one, other, *_ = CORES
    measurers = [enter("measuring", core) for core in (one, other)]
    assert [each.cores() for each in measurers] == [[one], [other]]
    worker = enter("at_work", one, other)
    assert worker.waits()
    measurers[0].leave()
    assert worker.cores() == [one]


@two_cores
def test_a_measurement_that_waits_holds_up_nobody_on_other_cores(enter: Callable[..., Entering]):
    busy, other, *_ = CORES
    worker = enter("at_work", busy)
    assert worker.cores() == [busy]
    measurer = enter("measuring", busy)
    assert measurer.waits()
    assert enter("at_work", busy, other).cores() == [other]
    second = enter("measuring", other)
    assert second.waits(), "somebody works there"
    worker.leave()
    assert measurer.cores() == [busy]


@two_cores
def test_a_partner_of_work_steps_aside_and_neither_waits_nor_holds_up(enter: Callable[..., Entering]):
    measured, other, *_ = CORES
    assert enter("measuring", measured).cores() == [measured]
    assert enter("aside", measured, other).cores() == [other]
    assert enter("aside", measured).cores() == [measured]
    assert enter("measuring", other).cores() == [other]


@pytest.mark.parametrize(("held", "waiting"), [("measuring", "at_work"), ("at_work", "measuring")])
def test_whoever_is_killed_inside_holds_up_nobody(enter: Callable[..., Entering], held: str, waiting: str):
    holder = enter(held, CORES[0])
    holder.cores()
    other = enter(waiting, CORES[0])
    assert other.waits()
    holder.process.kill()
    assert other.cores() == [CORES[0]]


def parts(folder: Path, *groups: str) -> Path:
    """What Linux says of physical cores, each with the numbers of its parts."""
    for group in groups:
        for core in group.split(","):
            (folder / "cpu" / f"cpu{core}" / "topology").mkdir(parents=True)
            (folder / "cpu" / f"cpu{core}" / "topology" / "thread_siblings_list").write_text(f"{group}\n")
    return folder / "cpu"


@two_cores
def test_the_other_part_of_a_physical_core_belongs_to_the_measurement_too(
    enter: Callable[..., Entering], tmp_path: Path
):
    measured, other, *_ = CORES
    parts(tmp_path, f"{measured},{other}")
    measurer = enter("measuring", measured)
    assert measurer.cores() == [measured]
    worker = enter("at_work", other)
    assert worker.waits()
    measurer.leave()
    assert worker.cores() == [other]


def test_cores_whose_other_part_is_free_are_taken_first(
    events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quiet, "TOPOLOGY", parts(tmp_path, "0,1", "2,3"))
    monkeypatch.setattr(quiet, "_cores", lambda: {0, 1, 2, 3})
    taken = [quiet._take(1) for _ in range(4)]
    assert [cores for cores, _ in taken] == [[3], [1], [2], [0]]
    for _, (descriptor,) in taken:
        os.close(descriptor)


@pytest.mark.parametrize(("said", "found"), [("3", {3}), ("1,3", {1, 3}), ("2-3,6-7", {2, 3, 6, 7}), ("", {3})])
def test_the_parts_of_a_physical_core_are_read_as_linux_writes_them(tmp_path: Path, said: str, found: set[int]):
    file = tmp_path / "list"
    file.write_text(said + "\n")
    assert quiet._read_siblings(file, 3) == found


@two_cores
def test_a_measurement_of_a_process_that_runs_anywhere_has_a_core_of_its_own_meanwhile(events: list[str]):
    with measuring(threads=1):
        assert len(os.sched_getaffinity(0)) == 1
        core = f"core-{next(iter(os.sched_getaffinity(0)))}"
        assert quiet._is_held(core)
    assert sorted(os.sched_getaffinity(0)) == CORES and not quiet._is_held(core)


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

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from cluster import resume
from cluster.session import JobError
from tests.faults.marks import fault
from tests.processes import ROOT, run

HOLD = """
import sys
from pathlib import Path
from cluster.resume import only_job
with only_job(Path(sys.argv[1]), "tune (submission raysubmit_1)"):
    print("held", flush=True)
    sys.stdin.read()
"""


RACES = """
import fcntl, multiprocessing, sys
from pathlib import Path
from cluster.session import JobError
from cluster.resume import only_job

folder, races, locks = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
if not locks:
    fcntl.flock = lambda *_: None
fork = multiprocessing.get_context("fork")
start, tried, ran = fork.Barrier(2), fork.Barrier(2), fork.Value("i", 0)

def compete(name):
    for number in range(races):
        start.wait()
        try:
            with only_job(folder / str(number), name):
                with ran.get_lock():
                    ran.value += 1
                tried.wait()
        except JobError:
            tried.wait()

rivals = [fork.Process(target=compete, args=(name,)) for name in ("one", "two")]
for each in rivals:
    each.start()
for each in rivals:
    each.join()
print(ran.value)
"""


@fault("two jobs race for an output")
@pytest.mark.parametrize(("locks", "ran"), [(True, 50), (False, 100)])
def test_of_two_jobs_that_start_at_once_exactly_one_runs(tmp_path: Path, locks: bool, ran: int):
    done = run([sys.executable, "-c", RACES, str(tmp_path), "50", str(locks)], os.environ)
    assert done.output.split() == [str(ran)]


@pytest.mark.parametrize("locks", [True, False])
def test_the_second_job_of_an_output_is_refused_and_told_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
):
    if not locks:
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    refusal = pytest.raises(JobError, match=rf"^output: {tmp_path}: tune \(process 1\) works there; ")
    with (
        resume.only_job(tmp_path, "tune (process 1)"),
        refusal if locks else nullcontext(),
        resume.only_job(tmp_path, "tune (process 2)"),
    ):
        assert not locks
    with resume.only_job(tmp_path, "tune (process 2)"):
        pass


def test_the_lock_of_a_killed_job_is_taken_over(tmp_path: Path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(JobError, match=r": tune \(submission raysubmit_1\) works there; "),
            resume.only_job(tmp_path, "me"),
        ):
            pass
        holder.kill()
        holder.wait()
    with resume.only_job(tmp_path, "me"):
        pass


def begin(
    output: Path, label: str = "tune", recipe: str = "recipe", parent: str | None = None
) -> tuple[str, str | None]:
    return resume.begin(output, label, recipe, parent)


def test_a_run_is_gone_on_with_by_the_same_recipe_until_it_ends(tmp_path: Path):
    first, _ = begin(tmp_path)
    assert begin(tmp_path) == (first, None)
    assert begin(tmp_path, "distill")[0] != first
    other, abandoned = begin(tmp_path, recipe="other")
    assert (other != first, abandoned) == (True, first)
    resume.end(tmp_path, "tune")
    last, abandoned = begin(tmp_path, recipe="other")
    assert (last != other, abandoned) == (True, None)


def test_a_run_below_another_is_gone_on_with_until_that_ends_too(tmp_path: Path):
    done, _ = begin(tmp_path, "prepare", parent="whole")
    resume.end(tmp_path, "prepare")
    killed, _ = begin(tmp_path, "trial 1", parent="whole")
    assert resume.below(tmp_path, forget=False) == [killed]
    assert begin(tmp_path, "prepare", parent="whole") == (done, None)
    resume.end(tmp_path, "prepare")
    assert resume.below(tmp_path, forget=True) == [killed]
    assert begin(tmp_path, "prepare", parent="whole")[0] != done
    assert resume.below(tmp_path, forget=True) != [killed]


def test_a_run_below_another_is_broken_off_from_its_begin_to_its_end(tmp_path: Path):
    assert not resume.broken_off(tmp_path, "tune", "whole")
    begin(tmp_path, parent="whole")
    assert resume.broken_off(tmp_path, "tune", "whole")
    assert not resume.broken_off(tmp_path, "tune", "another")
    resume.end(tmp_path, "tune")
    assert not resume.broken_off(tmp_path, "tune", "whole")


def test_a_run_is_not_gone_on_with_below_another_parent(tmp_path: Path):
    first, _ = begin(tmp_path, parent="one")
    second, abandoned = begin(tmp_path, parent="another")
    assert (second != first, abandoned) == (True, first)


def test_a_damaged_note_is_nothing_to_go_on_with(tmp_path: Path):
    first, _ = begin(tmp_path)
    (tmp_path / ".work" / "run-tune.json").write_text('{"key": ')
    second, abandoned = begin(tmp_path)
    assert (second != first, abandoned) == (True, None)

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from cluster.session import JobError
from tests.faults.marks import fault
from tuning.journal import STOPPED, Journal, Progress, leave

GOOD = {"metrics": {"score": 0.5}}


def written(file: Path, *entries: dict[str, int]) -> Path:
    journal = Journal(file)
    for entry in entries:
        journal.append(entry)
    journal.close()
    return file


def read(file: Path) -> list[dict[str, int]]:
    journal = Journal(file)
    journal.close()
    return [{key: value for key, value in entry.items() if key != "at"} for entry in journal.entries]


def test_a_journal_holds_what_was_appended_by_each_process(tmp_path: Path):
    written(tmp_path / "journal", {"asked": 0})
    assert read(written(tmp_path / "journal", {"asked": 1})) == [{"asked": 0}, {"asked": 1}]


@fault("journal damaged")
def test_a_line_cut_short_was_never_written(tmp_path: Path):
    file = written(tmp_path / "journal", {"asked": 0}, {"asked": 1})
    content = file.read_bytes()
    first = content.index(b"\n") + 1
    for end in range(first, len(content)):
        file.write_bytes(content[:end])
        assert read(file) == [{"asked": 0}]
        assert file.read_bytes() == content[:first]


@fault("journal damaged")
def test_a_damaged_line_is_refused(tmp_path: Path):
    file = written(tmp_path / "journal", {"asked": 0}, {"asked": 1})
    content = file.read_bytes()
    for place in range(content.index(b"\n")):
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(JobError, match=rf"{file}: line 1 is damaged; remove {tmp_path} to begin the search again"):
            Journal(file)


@fault("disk full")
def test_an_entry_that_finds_no_room_leaves_the_journal_as_it_was(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    journal.append({"asked": 0})
    before, (_, hard) = journal.file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 9, hard))
    try:
        with pytest.raises(JobError, match=r"not written: .*; run the same command again: the search goes on"):
            journal.append({"asked": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert journal.file.read_bytes() == before
    journal.append({"asked": 1})
    assert [entry["asked"] for entry in journal.entries] == [0, 1]


def test_a_trial_that_was_finished_is_not_begun_again_though_nobody_heard_of_it(tmp_path: Path):
    progress = Progress(tmp_path, 3)
    assert [progress.begin({"rate": rate}) for rate in (0.1, 0.2)] == [0, 1]
    leave(tmp_path, 0, GOOD)
    again = Progress(tmp_path, 3)
    assert again.begun == [1] and again.left == 2
    assert again.values == {0: {"rate": 0.1}, 1: {"rate": 0.2}}
    assert Progress(tmp_path, 3).ended[0]["metrics"] == {"score": 0.5}


def test_a_trial_that_starts_again_takes_its_older_result_away(tmp_path: Path):
    progress = Progress(tmp_path, 1)
    leave(tmp_path, progress.begin({}), GOOD)
    leave(tmp_path, 0, None)
    assert progress.result(0) == {}
    assert Progress(tmp_path, 1).begun == [0]


def test_failed_trials_stay_failed_until_all_have_ended(tmp_path: Path):
    progress = Progress(tmp_path, 2)
    progress.end(progress.begin({}), {"error": "ValueError: no"})
    assert Progress(tmp_path, 2).left == 1
    progress.end(progress.begin({}), GOOD)
    again = Progress(tmp_path, 2)
    assert again.begun == [0] and again.left == 1


def test_failed_trials_are_not_tried_again_only_to_be_judged_otherwise(tmp_path: Path):
    progress = Progress(tmp_path, 2, "strict")
    progress.end(progress.begin({}), {"error": "ValueError: no"})
    progress.end(progress.begin({}), GOOD)
    assert Progress(tmp_path, 2, "mild").left == 0
    assert Progress(tmp_path, 2, "mild").begun == [0]  # asked again in the same way: as ever
    all_failed = Progress(tmp_path / "failed", 1, "strict")
    all_failed.end(all_failed.begin({}), {"error": "ValueError: no"})
    assert Progress(tmp_path / "failed", 1, "mild").begun == [0]


def test_a_trial_that_was_stopped_for_want_of_time_is_begun_again_where_there_is_more(tmp_path: Path):
    progress = Progress(tmp_path, 2)
    progress.end(progress.begin({}), {"error": STOPPED})
    again = Progress(tmp_path, 2)
    assert (again.begun, again.left, again.first) == ([0], 2, {})


def test_what_was_begun_in_another_way_is_known_whatever_was_begun_since(tmp_path: Path):
    first = Progress(tmp_path, 2, "strict")
    assert first.before == []
    assert [first.begin({}) for _ in range(2)] == [0, 1]
    assert Progress(tmp_path, 2, "strict").before == []
    second = Progress(tmp_path, 4, "mild")
    assert second.before == [0, 1]
    second.begin({})
    assert Progress(tmp_path, 4, "mild").before == [0, 1]
    assert Progress(tmp_path, 4, "strict").before == [0, 1, 2]


def test_fewer_trials_than_there_are_leave_nothing_to_do(tmp_path: Path):
    progress = Progress(tmp_path, 2)
    for _ in range(2):
        progress.end(progress.begin({}), GOOD)
    assert Progress(tmp_path, 1, "mild").left == 0


def test_the_time_of_a_search_is_that_of_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("tuning.journal.time.time", lambda: now[0])
    progress = Progress(tmp_path, 3)
    assert (progress.seconds_left(None), progress.seconds_left(60)) == (None, 60)
    now[0] = 125.0
    progress.begin({})
    now[0] = 1000.0  # nobody was at work
    assert Progress(tmp_path, 3).seconds_left(60) == 35
    assert Progress(tmp_path, 3).seconds_left(20) == 0


def test_the_last_span_of_a_killed_process_counts_up_to_its_last_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = [100.0]
    for clock in ("time", "monotonic"):
        monkeypatch.setattr(f"tuning.journal.time.{clock}", lambda: now[0])
    for seconds_left in (1000, 945, 890):
        progress = Progress(tmp_path, 3)
        assert progress.seconds_left(1000) == seconds_left
        progress.begin({})
        now[0] += 55.0
        progress.alive()
        now[0] += 0.5
        progress.alive()  # too early for another sign
        now[0] += 5000.0  # nobody is at work


@pytest.mark.parametrize("written", ["", "1", "nonsense"])
def test_a_sign_of_life_that_was_not_written_whole_counts_as_none(tmp_path: Path, written: str):
    Progress(tmp_path, 3).alive()
    (tmp_path / "alive").write_text(written)
    assert 59 < (Progress(tmp_path, 3).seconds_left(60) or 0) <= 60

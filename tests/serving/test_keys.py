"""The file of API keys and the command that writes it."""

import json
import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from configs.errors import KnownError, UsageError
from serving.keys import add, hash_of, main, read, revoke, usable
from tests.processes import ROOT

FORM = r"sc_([0-9a-f]{12})_[0-9a-f]{64}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLIMCART_HOME", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)


def test_a_key_is_stored_as_its_hash_in_a_file_of_its_owner_alone(path: Path):
    key = add(path, "shop", ["intent"], rate=60, daily=1000)
    match = re.fullmatch(FORM, key)
    assert match
    (stored,) = read(path).keys
    assert (stored.id, stored.name, stored.services) == (match[1], "shop", ["intent"])
    assert (stored.rate, stored.daily, stored.expires, stored.revoked) == (60, 1000, None, None)
    assert stored.hash == hash_of(key.encode())
    assert key.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_differ_and_are_kept_in_order(path: Path):
    keys = [add(path, f"name {number}") for number in range(3)]
    assert len(set(keys)) == 3
    assert [each.name for each in read(path).keys] == ["name 0", "name 1", "name 2"]


def test_a_revoked_key_stays_and_says_when_it_was_revoked_first(path: Path):
    add(path, "one")
    (one,) = read(path).keys
    first = revoke(path, one.id)
    assert first.revoked and first.state(datetime.now(UTC)) == "revoked"
    assert revoke(path, one.id) == first
    assert read(path).keys == [first]


def test_a_key_expires_at_its_moment(path: Path):
    end = datetime.now(UTC) + timedelta(hours=1)
    add(path, "one", expires=end)
    (one,) = read(path).keys
    assert [one.state(end + timedelta(seconds=late)) for late in (-1, 0, 1)] == ["valid", "expired", "expired"]


def test_writers_at_the_same_time_lose_no_key(path: Path):
    code = "import sys, pathlib, serving.keys as k\nfor _ in range(12): k.add(pathlib.Path(sys.argv[1]), 'x')"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT) for _ in range(2)]
    assert [each.wait(timeout=60) for each in writers] == [0, 0]
    assert len(read(path).keys) == 24


def test_a_change_that_cannot_be_written_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch):
    add(path, "one")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(KnownError, match="not written: No space left on device"):
        add(path, "two")
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_link_stays_a_link(path: Path, tmp_path: Path):
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real" / "keys.json")
    add(path, "one")
    add(path, "two")
    assert path.is_symlink() and len(read(tmp_path / "real" / "keys.json").keys) == 2


def test_nobody_takes_the_file_from_its_owner(path: Path, monkeypatch: pytest.MonkeyPatch):
    add(path, "one")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UsageError, match="run this as that user"):
        add(path, "two")


def wrong(**fields: Any) -> str:
    """A file of one key that is as it should be but for `fields`."""
    key = {"id": "0" * 12, "name": "a", "hash": "0" * 64, "services": None, "rate": None, "daily": None}
    key |= {"created": "2026-01-01T00:00:00Z", "expires": None, "revoked": None}
    return json.dumps({"format": 1, "keys": [key | fields]})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON of the right form"),
        ("4111", "not JSON of the right form"),
        ("[" * 100_000, "not JSON of the right form"),
        ('{"format": 1}', "wrong at keys;"),
        ('{"format": 2, "keys": []}', "wrong at format;"),
        ('{"format": 1, "keys": [], "4111": 1}', "not JSON of the right form"),
        (wrong(hash="4111"), r"wrong at keys\.0\.hash;"),
        (wrong(id="4111"), r"wrong at keys\.0\.id;"),
        (wrong(id="../" * 4), r"wrong at keys\.0\.id;"),
        (wrong(rate=-1), r"wrong at keys\.0\.rate;"),
        (wrong(daily=True), r"wrong at keys\.0"),
        (wrong(services=["4111/"]), r"wrong at keys\.0\.services;"),
        (wrong(services="intent"), r"wrong at keys\.0\.services;"),
        (wrong(name="\x1b[2J4111"), r"wrong at keys\.0\.name;"),
        (wrong(expires="4111-01-01T00:00:00"), r"wrong at keys\.0\.expires;"),
        (wrong(**{"4111": 1}), "not JSON of the right form"),
        (wrong().replace("]}", f", {wrong()[25:-2]}]}}"), "not JSON of the right form"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_not_quoted(path: Path, content: str, reason: str):
    path.write_text(content)
    with pytest.raises(UsageError, match=reason) as refused:
        read(path)
    assert "4111" not in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(UsageError, match=reason):
        add(path, "one")
    assert path.read_text() == content


def test_what_is_no_file_of_keys_is_refused_at_once(path: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"no such file; python -m serving\.keys add"):
        read(path)
    with pytest.raises(UsageError, match="Is a directory"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no plain file"):
        read(tmp_path / "pipe")
    with pytest.raises(UsageError, match="larger than 8 MiB"):
        read(Path("/dev/zero") if not Path("/proc/kpageflags").exists() else Path("/proc/kpageflags"))


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_in_which_others_may_write_keys_is_refused(path: Path, mode: int):
    add(path, "one")
    path.chmod(mode)
    with pytest.raises(UsageError, match="chmod go-w"):
        read(path)
    path.chmod(0o644)
    assert read(path).keys


def test_a_file_is_usable_while_one_of_its_keys_is_valid(path: Path):
    add(path, "old", expires=datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(UsageError, match=r"^--keys: .*: holds no key that is valid now; python -m serving\.keys add"):
        usable(path, "--keys")
    add(path, "new")
    assert usable(path, "--keys") == path
    revoke(path, read(path).keys[1].id)
    with pytest.raises(UsageError, match=r"^serving\.keys: "):
        usable(path, "serving.keys")


def test_the_command_prints_a_key_once_and_lists_neither_it_nor_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SLIMCART_HOME", str(tmp_path / "home"))
    limits = ["--services", "intent,reply", "--rate", "60", "--daily", "1000", "--expires", "2099-12-31"]
    assert main(["add", "the shop", *limits]) == 0
    printed = capsys.readouterr()
    key = printed.out.rstrip("\n")
    match = re.fullmatch(FORM, key)
    assert match and key not in printed.err
    (stored,) = read(tmp_path / "home" / "keys.json").keys
    assert main(["list"]) == 0
    _, line = (listed := capsys.readouterr().out).splitlines()
    assert re.split(r"  +", line)[:6] == [match[1], "the shop", "valid", "intent,reply", "60", "1000"]
    assert line.endswith("2100-01-01 00:00")
    assert stored.hash not in listed and key.rpartition("_")[2] not in listed
    assert main(["revoke", match[1]]) == 0
    assert capsys.readouterr().out == f"{match[1]} (the shop) is revoked\n"
    assert main(["list", "--file", str(tmp_path / "home" / "keys.json")]) == 0
    assert " revoked " in capsys.readouterr().out


KEY = f"sc_{'0' * 12}_{'4111' * 16}"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: add|list|revoke; see python -m serving.keys --help"),
        (["add"], "required: name"),
        (["list"], "--file: SLIMCART_HOME is not set"),
        (["list", "--file", "{}.none"], "none: no such file"),
        (["revoke", "a", "--file", "{}.none"], "none: no such file"),
        (["revoke", KEY, "--file", "{}"], "holds no key of this id"),
        (["revoke", "a", KEY, "--file", "{}"], "unrecognized arguments: sc_..."),
        (["add", KEY, "--file", "{}"], "name: a name is a line of printable characters, and no key"),
        (["add", "a\nb", "--file", "{}"], "name: a name is"),
        (["add", "a", "--services", "Intent", "--file", "{}"], "services: 'Intent' is no service name"),
        (["add", "a", "--services", KEY, "--file", "{}"], "services: 'sc_...' is no service name"),
        (["add", "a", "--services", "", "--file", "{}"], "services: '' is no service name"),
        (["add", "a", "--rate", "0", "--file", "{}"], "--rate: '0' is no whole number from 1 on"),
        (["add", "a", "--daily", "many", "--file", "{}"], "--daily: 'many' is no whole number"),
        (["add", "a", "--expires", "2020-01-01", "--file", "{}"], "--expires: 2020-01-01 is over already"),
        (["add", "a", "--expires", "0d", "--file", "{}"], "--expires: 0d is over already"),
        (["add", "a", "--expires", "9999-12-31", "--file", "{}"], "--expires: give a day such as"),
        (["add", "a", "--expires", "soon", "--file", "{}"], "--expires: give a day such as"),
    ],
)
def test_a_command_that_is_wrong_is_refused_in_one_line_without_a_key(
    path: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
):
    add(path, "there")
    before = path.read_bytes()
    assert main([each.replace("{}", str(path)) for each in arguments]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert reason in line and "4111" not in line
    assert (printed.out, path.read_bytes()) == ("", before)


def test_a_submitted_job_makes_no_key(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(["add", "one", "--file", str(path)]) == 2
    assert "its log would keep the key" in capsys.readouterr().err and not path.exists()


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    assert main(["add", "one", "--file", str(tmp_path / "file" / "keys.json")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "not written: " in line and line.endswith("give another --file")


def test_the_command_loads_no_server(tmp_path: Path):
    code = "import sys, serving.keys; print([x for x in ('fastapi', 'starlette', 'ray', 'numpy') if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

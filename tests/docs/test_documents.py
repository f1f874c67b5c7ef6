"""What the documents say can be done: each command is resolved as `--print-config` does, each name is there."""

from __future__ import annotations

import ast
import functools
import os
import re
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.documents import (
    ARCHITECTURE,
    OVERRIDE,
    PAGES,
    README,
    ROOT,
    Command,
    Shown,
    commands,
    in_code,
    overrides,
    recipes,
    words_of,
)

MOST_LINES = 170  # of README.md
EVERY_PAGE = (*PAGES, ARCHITECTURE, ROOT / "CHANGELOG.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"(?:configs|cluster|tuning|serving|jobs|tests|benchmarks|docs)/[\w./-]*")
NAME = re.compile(r"[\w-]+\.(?:py|md|yaml)")
MADE = {"table.md"}  # by a job
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
# Everything that does not say itself which recipe it is about is right where one of these takes it.
TAKERS = [
    ["jobs.distill", "--config", "configs/intent.yaml"],
    ["jobs.tune", "--config", "configs/intent.yaml"],
    ["jobs.distill", "--config", "configs/description.yaml"],
    ["jobs.distill", "--config", "configs/review.yaml"],
    ["jobs.reply", "--config", "configs/reply.yaml"],
]
# Where README's commands are run; `make demo`, `make up` and `make down` are targets, and people run these.
RUN_BY = {"jobs.optimize": "tests/end_to_end/test_main_way.py", "curl": "tests/end_to_end/test_main_way.py"}
SHELL = {"source", "curl", "haproxy", "prometheus"}  # the last two in tests/cluster


class Ended(NamedTuple):
    """Exit status and what was printed."""

    code: Any
    output: str
    error: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are typed: a folder with `configs/` and the recipes that a page names by a comment on top."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for page in PAGES:
        for _, text in recipes(page):
            if named := re.match(r"# (\S+\.yaml)\n", text):
                (tmp_path / named[1]).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLIMCART_HOME", raising=False)
    return tmp_path


@pytest.fixture
def ended(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """How `python -m <module> <arguments>` ends, in this process."""

    def run(module: str, *arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that the module was imported before
            with pytest.raises(SystemExit) as left:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        printed = capsys.readouterr()
        return Ended(left.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def refusal(ended: Callable[..., Ended]) -> Callable[..., str]:
    """What a verb has against its arguments; "" where only a cluster is missing for it to begin."""

    def ask(module: str, *arguments: str) -> str:
        done = ended(module, *arguments)
        begins = done.code == 0 or done.error.startswith("error: environment: SLIMCART_HOME is not set")
        return "" if begins else done.error

    return ask


def of_verbs() -> Iterator[Command]:
    for page in PAGES:
        yield from (each for each in commands(page) if (each.module or "").startswith("jobs."))
        for where, text in in_code(page):
            if "--config" in text or "--help" in text:
                words = words_of(text.removeprefix("python -m "))
                if words[0].startswith("jobs."):
                    yield Command(where, ("python", "-m", *words))
    for number, line in enumerate((ROOT / "Makefile").read_text(encoding="utf-8").splitlines(), start=1):
        if found := re.search(r"python -m jobs\.[^|]*", line):
            yield Command(f"Makefile:{number}", tuple(words_of(found[0])))


def ids(shown: Command | Shown) -> str:
    return shown.where


@pytest.mark.parametrize("command", list(of_verbs()), ids=ids)
def test_a_verb_takes_what_a_document_gives_it(command: Command, refusal: Callable[..., str]):
    _, _, module, *arguments = command.words
    assert refusal(module, *arguments) == ""


def fields_with_values() -> Iterator[Command]:
    for page in PAGES:
        yield from overrides(page)
        for where, text in in_code(page):
            if text == "section.field=value":
                continue
            if re.match(r'"?[a-z_]+\.[a-z_.]+=[^<]+$', text) and all(OVERRIDE.match(word) for word in words_of(text)):
                yield Command(where, tuple(words_of(text)))


@pytest.mark.parametrize("given", list(fields_with_values()), ids=ids)
def test_some_recipe_takes_the_overrides_of_a_document(given: Command, refusal: Callable[..., str]):
    said = [refusal(*taker, *given.words) for taker in TAKERS]
    assert "" in said, said


@pytest.mark.parametrize("shown", [each for page in PAGES for each in recipes(page)], ids=ids)
def test_a_recipe_that_a_document_shows_is_one(shown: Shown, folder: Path, refusal: Callable[..., str]):
    of_services = "\nservices:" in shown.text
    base = "" if of_services or "extends:" in shown.text else "extends: configs/intent.yaml\n"
    (folder / "shown.yaml").write_text(base + shown.text, encoding="utf-8")
    assert refusal("jobs.services" if of_services else "jobs.compress", "--config", "shown.yaml") == ""


def test_a_field_that_a_document_names_is_one(ended: Callable[..., Ended]):
    known = set(re.findall(r"^  ([\w.\[\]]+)  \(", ended("jobs.optimize", "--help").output, re.MULTILINE))
    sections = {key.partition(".")[0] for key in known if "." in key} - {"compression"}
    wrong = []
    for page in PAGES:
        for where, text in in_code(page):
            if found := re.fullmatch(r"([a-z_]+)(\.[a-z_]+)+", text):
                parts = text.split(".")
                prefixes = {".".join(key.split(".")[: len(parts)]) for key in known}
                if found[1] in sections and text not in prefixes:
                    wrong.append(f"{where}: {text}")
    assert wrong == []


def of_other_modules() -> Iterator[Command]:
    for page in EVERY_PAGE:
        yield from (each for each in commands_of(page) if each.module and not each.module.startswith("jobs."))
        for where, text in in_code(page):
            if text.startswith("python -m ") and not text.startswith("python -m jobs."):
                yield Command(where, tuple(words_of(text)))


def commands_of(page: Path) -> list[Command]:
    return list(commands(page)) if page in PAGES else []


@pytest.mark.parametrize("command", list(of_other_modules()), ids=ids)
def test_another_module_is_there_and_its_docstring_names_the_options(command: Command):
    assert command.module
    source = ROOT / Path(*command.module.split(".")).with_suffix(".py")
    doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    assert f"python -m {command.module}" in doc
    options = {word for word in command.words if word.startswith("--")}
    assert options <= set(re.findall(r"--[a-z-]+", doc))


def test_a_target_that_a_document_names_is_in_the_makefile():
    known = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    for page in EVERY_PAGE:
        typed = [each for each in commands_of(page) if each.words[0] == "make"]
        named = [Command(where, tuple(text.split())) for where, text in in_code(page) if text.startswith("make ")]
        for where, words in (*typed, *named):
            unknown = {word for word in words[1:] if "=" not in word} - known
            assert not unknown, f"{where}: {unknown}"


def test_a_document_shows_no_line_that_no_test_looks_at():
    for page in PAGES:
        for where, words in commands(page):
            known = words[0] in SHELL or words[0] == "make" or words[:2] == ("python", "-m")
            assert known, f"{where}: {' '.join(words)}"


def slugs(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page: Path):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.is_file(), target
            assert not anchor or anchor in slugs(file), target


@functools.cache
def names() -> set[str]:
    """Of all files."""
    folders = ("configs", "cluster", "tuning", "serving", "jobs", "tests", "benchmarks", "docs")
    return {path.name for name in folders for path in (ROOT / name).rglob("*.*")} | set(os.listdir(ROOT))


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_a_file_that_a_document_names_is_there(page: Path):
    missing = []
    for where, text in in_code(page):
        if FILE.fullmatch(text):
            missing += [] if (ROOT / text).exists() else [f"{where}: {text}"]
        elif NAME.fullmatch(text) and text not in MADE:
            missing += [] if text in names() else [f"{where}: {text}"]
    assert not missing, ", ".join(missing)


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_each_command_of_readme_is_run():
    for where, words in commands(README):
        name = words[2] if words[:2] == ("python", "-m") else words[0]
        if name not in ("make", "source"):
            test = (ROOT / RUN_BY[name]).read_text(encoding="utf-8")
            assert f'the_command(README, "{name}")' in test, where

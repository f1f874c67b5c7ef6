"""What README.md, ARCHITECTURE.md and docs/*.md show: commands as a shell would read them, recipes, names in code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.processes import ROOT

README, ARCHITECTURE = ROOT / "README.md", ROOT / "ARCHITECTURE.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))  # that show commands
SHELLS = ("", "sh", "bash", "shell", "console")  # languages of blocks that hold commands
FENCE = re.compile(r"^```(\w*)$")
PLACEHOLDER = re.compile(r"<[^<> \n][^<>\n]*>")  # <folder>, and no redirection
VARIABLE = re.compile(r"[A-Z_]+=")
OVERRIDE = re.compile(r"[a-z_]+(\.[\w-]+)*=")


class Shown(NamedTuple):
    """Something that a page shows, and where."""

    where: str  # file:line
    text: str


class Command(NamedTuple):
    """A command that a page shows."""

    where: str
    words: tuple[str, ...]

    @property
    def module(self) -> str | None:
        """What `python -m` runs in it, if it does."""
        return self.words[2] if self.words[:2] == ("python", "-m") else None


class Block(NamedTuple):
    """What stands between two fences."""

    language: str
    lines: list[Shown]


def blocks(page: Path) -> list[Block]:
    """In their order."""
    found: list[Block] = []
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence := FENCE.match(line):
            inside = not inside
            if inside:
                found.append(Block(fence[1], []))
        elif inside:
            found[-1].lines.append(Shown(f"{page.relative_to(ROOT)}:{number}", line))
    assert not inside, f"{page}: a block has no end"
    return found


def lines(page: Path) -> Iterator[Shown]:
    """What a user would type: of a block that begins with `$ ` the lines that do; joined where one ends with \\."""
    for block in blocks(page):
        if block.language not in SHELLS:
            continue
        dialogue = block.lines[0].text.startswith("$ ")
        begun: Shown | None = None
        for where, text in block.lines:
            if dialogue and not text.startswith("$ "):
                continue
            before = begun or Shown(where, "")
            joined = before.text + text.removeprefix("$ ")
            begun = Shown(before.where, joined[:-1]) if joined.endswith("\\") else None
            if begun is None and joined.strip():
                yield Shown(before.where, joined)
        assert begun is None, f"{begun}: goes on nowhere"


def words_of(text: str) -> list[str]:
    """`text` as a shell splits it, placeholders as one word, comments left out."""
    return shlex.split(PLACEHOLDER.sub("placeholder", text), comments=True)


def overrides(page: Path) -> Iterator[Command]:
    """Lines that are overrides of a recipe and nothing else."""
    for where, text in lines(page):
        if (words := words_of(text)) and all(OVERRIDE.match(word) for word in words):
            yield Command(where, tuple(words))


def commands(page: Path) -> Iterator[Command]:
    """All other lines: each command between `&&`, without variables before it, and what is submitted as itself."""
    for where, text in lines(page):
        words = words_of(text)
        if words and not all(OVERRIDE.match(word) for word in words):
            for part in split(words, "&&"):
                while part and VARIABLE.match(part[0]):
                    part.pop(0)
                submitted = part[part.index("--") + 1 :] if part[:3] == ["ray", "job", "submit"] else part
                yield Command(where, tuple(split(submitted, "<")[0]))


def split(words: list[str], at: str) -> list[list[str]]:
    """`words` cut at every `at`."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == at:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def recipes(page: Path) -> Iterator[Shown]:
    """The blocks of YAML, whole."""
    for block in blocks(page):
        if block.language == "yaml":
            yield Shown(block.lines[0].where, "\n".join(line.text for line in block.lines) + "\n")


def in_code(page: Path) -> Iterator[Shown]:
    """What stands in single backticks, also over the end of a line."""
    prose, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        inside ^= bool(FENCE.match(line))
        prose.append("" if inside or FENCE.match(line) else line)
    text = "\n".join(prose)
    for found in re.finditer(r"`([^`]+)`", text):
        number = text.count("\n", 0, found.start()) + 1
        yield Shown(f"{page.relative_to(ROOT)}:{number}", " ".join(found[1].split()))


def the_command(page: Path, name: str) -> Command:
    """The one command of `page` whose first word, or module, is `name`."""
    (found,) = (each for each in commands(page) if name in (each.words[0], each.module))
    return found

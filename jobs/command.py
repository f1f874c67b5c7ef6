"""The command line of every verb: a recipe and overrides in, exit code and one RESULT line out."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from cluster import session
from configs import core_files
from configs.errors import KnownError
from configs.folder import GOES_ON, NO_ROOM, write_synced
from configs.given import root_of
from configs.loader import Spec, UsageError, describe, load
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS, VERBS
from configs.shown_urls import shown_urls

DONE, FAILED, USAGE = 0, 1, 2
RESULT = "result.json"  # in the output: what the last verb made there
OF_SOME = ("bundle", "deploy", "remove", "status", "rollback", "again")  # fields that some verbs know
S = TypeVar("S", bound=Spec)
MOST_HEADLINES = 12  # metrics on the last line


@dataclass(frozen=True)
class Result:
    """What a job made; its JSON is <output>/result.json, and with the headline metrics the last line on stdout."""

    job: str
    run_id: str
    output: str
    metrics: dict[str, float] = field(default_factory=dict)
    bundle: str | None = None
    model_uri: str | None = None
    endpoint: str | None = None
    report: str | None = None
    scores: str | None = None

    @property
    def told(self) -> dict[str, Any]:
        """All of it, without what the job did not make."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def line(self, headline: Sequence[str]) -> str:
        """`RESULT ` and one JSON object; of many metrics it holds the first of those that `headline` names."""
        return "RESULT " + json.dumps(self.told | {"metrics": headlines(self.metrics, headline)})

    def write(self) -> None:
        """Write <output>/result.json, whole."""
        folder = Path(self.output)
        folder.mkdir(parents=True, exist_ok=True)
        write_synced(folder / RESULT, json.dumps(self.told, indent=2) + "\n")


def headlines(metrics: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """At most `MOST_HEADLINES` of the metrics: all where there are no more, else the first of `names`."""
    if len(metrics) <= MOST_HEADLINES:
        return dict(metrics)
    return {name: metrics[name] for name in [each for each in names if each in metrics][:MOST_HEADLINES]}


def main(
    run: Callable[[Recipe], Result],
    arguments: Sequence[str] | None = None,
    *,
    takes: Sequence[str] = (),
    kind: type[Recipe] = Recipe,
) -> NoReturn:
    """Run a verb as a command; never returns. Exit 0 done, 1 failed, 2 usage error.

    `takes`: which of `OF_SOME` this verb does not ignore.
    `kind`: what its recipe is checked as.
    """

    def do(given: Sequence[str]) -> str | None:
        recipe = read_command(sys.modules[run.__module__].__doc__ or "", given, kind)
        if recipe is None:
            return None
        _refuse_what_is_ignored(recipe, run.__module__, takes)
        result = run(recipe.on_driver(session.home(), Path.cwd()))
        result.write()
        return result.line(recipe.judged_by.headline)

    lead(do, arguments)


def lead(work: Callable[[Sequence[str]], str | None], arguments: Sequence[str] | None = None) -> NoReturn:
    """Have a command do its work, and print the line that it gives; never returns. Exit codes as of `main`."""
    logs = logging.StreamHandler(sys.stderr)
    logs.setFormatter(_Shown("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[logs])
    for client in ("httpx", "httpx2"):  # a line for each request
        logging.getLogger(client).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    core_files.forbid()
    try:
        line = work(sys.argv[1:] if arguments is None else arguments)
    except Exception as error:  # noqa: BLE001 - what is not known is a fault of ours
        _leave_with(error)
    if line is not None:
        print(line, flush=True)
    sys.exit(DONE)


def _leave_with(error: Exception) -> NoReturn:
    """End with the line of a known error, also one of a Ray task; of a fault of ours its finder needs the traceback."""
    root = root_of(error)
    if isinstance(root, KnownError):
        _leave(USAGE if isinstance(root, UsageError) else FAILED, str(root))
    if isinstance(root, OSError) and root.errno in NO_ROOM:
        _leave(FAILED, f"{root.filename or 'a file'}: not written: {root.strerror}; {GOES_ON}")
    print(shown_urls("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    _leave(FAILED, f"{type(root).__name__}: {root}")


def _refuse_what_is_ignored(recipe: Recipe, verb: str, takes: Sequence[str]) -> None:
    verb = Path(sys.argv[0]).stem if verb == "__main__" else verb.rpartition(".")[2]
    if verb in VERBS and verb not in (known := TASKS[recipe.task].verbs):
        able = f"{', '.join(known[:-1])} and {known[-1]} do"
        raise UsageError(f"task: {recipe.task!r}: {verb} does not know such models yet; {able}")
    for name in OF_SOME:
        if name not in takes and (value := getattr(recipe, name)):
            raise UsageError(f"{name}: {value!r}: {verb} does not take it; leave it out")


def _stop(number: int, _: object) -> NoReturn:
    """`ray job stop` sends SIGTERM: end as an exception does, so that the job's run is marked KILLED."""
    sys.exit(128 + number)


def _leave(code: int, message: str) -> NoReturn:
    print("error: " + shown_urls(" ".join(message.split())), file=sys.stderr, flush=True)
    sys.exit(code)


class _Shown(logging.Formatter):
    """Libraries log addresses as they are."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_urls(super().format(record))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"command line: {message}; see --help")


def read_command(doc: str, arguments: Sequence[str], kind: type[S]) -> S | None:
    """What --config and overrides say; None where they ask for help, which is printed. Raises `UsageError`."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_intermixed_args(list(arguments))
    if asked.help:
        _print(_help(doc, kind))
        return None
    if not asked.config:
        shipped = ", ".join(sorted(f"configs/{path.name}" for path in Path("configs").glob("*.yaml"))) or "none here"
        raise UsageError(f"command line: --config: missing; give a recipe, for example one of: {shipped}")
    recipe = load(kind, asked.config, asked.overrides)
    if asked.print_config:
        _print(yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True))
        return None
    return recipe


def _help(doc: str, kind: type[Spec]) -> str:
    rows = list(describe(kind if not issubclass(kind, Recipe) else Recipe))
    lines = [doc.strip(), "", "options: --config RECIPE.yaml  --print-config  --help  section.field=value ...", ""]
    for key, takes, default, description in rows:
        shown = default if default == "required" else f"default {default}"
        lines += [f"  {key}  ({takes}; {shown})", f"      {description}"]
    return "\n".join(lines) + "\n"


def _print(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

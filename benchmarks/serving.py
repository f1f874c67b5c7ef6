"""Serving: a deployed service against other servers of the same model over HTTP, and how its batches are cut.

    python -m benchmarks.serving [http] [batches] [score] [--bundle FOLDER] [--peers FOLDER]

http: five servers answer side by side, each with one process of one thread that holds the model: a service of
`serving.deployment` as `jobs.deploy` leaves it (HAProxy, one replica); `benchmarks._bare`, one uvicorn and nothing
else; BentoML and LitServe, both with batches of up to 32 inputs, in their current versions, installed into the folder
--peers; and our service on a Serve without its settings. The client, wrk, keeps to the last core and asks them in
turns, texts of 32 tokens. All servers share the first one, with the processes that a request passes through. Rows
compare requests a second, of one client by its median latency. The models are a student of two of the packaged
MiniLM's layers in int8 and one of two convolutions, neither trained, and that of --bundle.

batches: predictions of lists of 32 rows of $SLIMCART_DATA/<set>/test.jsonl.gz, by one thread without HTTP, against the
same rows in one batch that is padded to the longest.

score: rows a second of `jobs.score` over the rows of such a set, many times over, with two workers against one.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib.metadata
import json
import math
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from benchmarks._bare import LARGEST
from benchmarks._compare import compare, exit_code, in_turns, judge, missing, seconds
from benchmarks._recorded import on_cluster, verb
from benchmarks._servers import Server, installed, pin, program, service
from benchmarks._untrained import untrained
from benchmarks._wrk import CORE, MISSING, Asked, asked, script
from configs.schema.models import StudentSpec
from jobs.measure.timing import texts_of_length
from serving.bundle import read_bundle
from serving.classifier import Classifier
from serving.runtime import load_bundle

BARE, BENTOML, LITSERVE, DEFAULTS = "bare uvicorn", "BentoML", "LitServe", "Serve's defaults"
PARTS = ("http", "batches", "score")
SETS = ("intent_banking77", "review_rating_en")
FASTER = 1.3  # batches by padding, against those padded to the longest
BOTH = 1.6  # two workers on two cores, against one
REPEATED = 80  # times that the rows of a set are scored: starting workers takes seconds
TOKENS, RUNS, SECONDS = 32, 5, 2
TEXT = "My parcel was due on Monday and it is still not here, although the tracking page says that it was delivered"


class Work(NamedTuple):
    """What is asked of a server."""

    name: str
    clients: int
    inputs: int

    @property
    def alone(self) -> bool:
        """Whether one client waits for each of its answers."""
        return self.clients == 1


WORK = (
    *(Work(f"{number} client{'s' * (number > 1)}", number, 1) for number in (1, 4, 16, 64)),
    *(Work(f"{number} client{'s' * (number > 1)}, lists of {LARGEST}", number, LARGEST) for number in (1, 4)),
)
Bars = Mapping[tuple[str, str], float]  # what ours reaches of a peer, by the work's name and the peer
OF_LAYERS: Bars = {
    ("1 client", BARE): 1 / 1.6,
    ("16 clients", BARE): 0.9,
    ("16 clients", BENTOML): 1.2,
    ("16 clients", LITSERVE): 1.2,
    ("1 client", DEFAULTS): 3,
}
OF_CONVOLUTIONS: Bars = {("1 client", BARE): 1 / 2.5, ("16 clients", BARE): 0.6}


class Model(NamedTuple):
    """A bundle that all servers hold."""

    name: str
    bundle: Path
    bars: Bars


def main(arguments: list[str]) -> int:
    """Measure all rows of the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="a service against other servers")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--bundle", type=Path, help="folder of a classifier's bundle, which is asked, too")
    parser.add_argument("--peers", type=Path, help="folder in which BentoML and LitServe lie, or are installed")
    options = parser.parse_args(arguments)
    if unknown := [each for each in options.parts if each not in PARTS]:
        parser.error(f"{unknown[0]!r} is no part; parts: {', '.join(PARTS)}")
    parts = options.parts or PARTS
    with tempfile.TemporaryDirectory(prefix="slimcart-serving-") as scratch:
        place = Path(scratch)
        with contextlib.redirect_stdout(sys.stderr):
            models = [
                Model("two layers", untrained(place / "layers", StudentSpec(layers=2), quantized=True), OF_LAYERS),
                Model("convolutions", untrained(place / "conv", StudentSpec(kind="conv", layers=2)), OF_CONVOLUTIONS),
            ]
        if "batches" in parts:
            for model in models:
                _batches(model)
        if "score" in parts:
            _score(place / "score", models[0])
        if options.bundle:
            models.append(Model(options.bundle.resolve().name, options.bundle, {}))
        if "http" in parts and shutil.which("wrk") is None:
            missing("http", "requests/s", MISSING, None)
        elif "http" in parts:
            for model in models:
                _http(place / model.name.replace(" ", "-"), model, options.peers or place / "peers")
    return exit_code()


def _http(place: Path, model: Model, peers: Path) -> None:
    """All rows of one model; what is started ends before this returns."""
    place.mkdir()
    text = _text(model.bundle)
    with contextlib.ExitStack() as running:
        with contextlib.redirect_stdout(sys.stderr):  # which ports are taken is no row
            servers, versions = _started(running, place, model.bundle, peers)
        for server in servers.values():
            pin(server.processes(), min(os.sched_getaffinity(0)))
            server.rest()
        for work in WORK:
            question = script(place / "ask.lua", [text] * work.inputs)
            turns = {name: asked(question, server, work.clients, SECONDS) for name, server in servers.items()}
            _rows(model, work, in_turns(turns, RUNS), versions)


def _started(
    running: contextlib.ExitStack, place: Path, bundle: Path, peers: Path
) -> tuple[dict[str, Server], dict[str, str]]:
    """Servers by name, ours as "", and what each of the others is."""
    versions = {BARE: f"uvicorn {importlib.metadata.version('uvicorn')}"}
    servers = {"": running.enter_context(service(place / "ours", bundle, rest=CORE))}
    servers[BARE] = running.enter_context(program("benchmarks._bare", bundle))
    for name, package in ((BENTOML, "bentoml"), (LITSERVE, "litserve")):
        versions[name] = f"{name} {installed(package, peers)}"
        servers[name] = running.enter_context(program(f"benchmarks._{package}", bundle, (peers / package).resolve()))
    versions[DEFAULTS] = f"{DEFAULTS}, ray {importlib.metadata.version('ray')}"
    servers[DEFAULTS] = running.enter_context(service(place / "defaults", bundle, defaults=True, rest=CORE))
    return servers, versions


def _rows(model: Model, work: Work, said: Mapping[str, Sequence[Asked]], versions: Mapping[str, str]) -> None:
    """A row for each of the other servers."""
    unit = "requests/s at the median latency" if work.alone else "requests/s"
    for peer, version in versions.items():
        ours, theirs = (
            [1e3 / each.p50_ms if work.alone else each.requests_s for each in said[it]] for it in ("", peer)
        )
        name = f"{model.name}, {work.name}: our service / {peer}"
        also = {"of_ours": _medians(said[""]), "of_peer": _medians(said[peer])}
        judge(name, unit, ours, theirs, version, model.bars.get((work.name, peer)), **also)


def _medians(turns: Sequence[Asked]) -> dict[str, float]:
    return {name: round(statistics.median(getattr(each, name) for each in turns), 3) for name in Asked._fields}


def _batches(model: Model) -> None:
    """A row for each set: the time of the same lists, cut as the service cuts them, against one padded batch each."""
    for name in SETS:
        row, unit = f"{model.name}, lists of {LARGEST} of {name}: batches by padding / padded to the longest", "rows/s"
        try:
            texts = _lists(name)
        except OSError as error:
            missing(row, unit, f"$SLIMCART_DATA/{name}/test.jsonl.gz: {error.strerror}", FASTER)
            continue
        padded = load_bundle(model.bundle, tokens_per_batch=sys.maxsize, padding=math.inf)
        ours, peer = (_predicting(each, texts) for each in (load_bundle(model.bundle), padded))
        compare(row, unit, ours, peer, f"one batch of {LARGEST}", FASTER)


def _texts(name: str) -> list[str]:
    """Of a set's test rows. Raises `OSError` where there are none."""
    file = Path(os.environ.get("SLIMCART_DATA", "")) / name / "test.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def _lists(name: str) -> list[list[str]]:
    """Some lists of a set's texts. Raises `OSError` where there are none."""
    chosen = random.Random(0).sample(_texts(name), 10 * LARGEST)
    return [chosen[start : start + LARGEST] for start in range(0, len(chosen), LARGEST)]


def _score(place: Path, model: Model) -> None:
    """A row of two workers against one."""
    row, unit, (name, *_) = f"jobs.score, {model.name}, two workers / one", "rows/s", SETS
    place.mkdir()
    try:
        texts = _texts(name)
    except OSError as error:
        missing(row, unit, f"$SLIMCART_DATA/{name}/test.jsonl.gz: {error.strerror}", BOTH)
        return
    file = place / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * REPEATED), encoding="utf-8")
    given = [f"bundle={model.bundle}", f"score.input={file}", f"output={place / 'output'}", "again=true"]
    with on_cluster(place, needed=True, here=False):

        def scoring(workers: int) -> Callable[[], float]:
            told = [*given, f"score.workers={workers}"]
            return lambda: verb("score", "configs/intent.yaml", told, place / "log")["rows_per_second"]

        compare(row, unit, scoring(2), scoring(1), "one worker", BOTH, runs=3)


def _predicting(classifier: Classifier, lists: Sequence[Sequence[str]]) -> Callable[[], float]:
    def predict() -> None:
        for each in lists:
            classifier.predict(each)

    return lambda: sum(map(len, lists)) / seconds(predict)


def _text(bundle: Path) -> str:
    """Of so many tokens of the bundle's tokenizer."""
    tokenizer = Tokenizer.from_file(str(bundle / read_bundle(bundle).tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    (made,) = texts_of_length([TEXT], tokenizer, TOKENS, 1)
    assert isinstance(made, str)
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Planted texts in training rows, requests, faults and files to score: where they may lie is a list, and they lie
nowhere else: in no log, metric, error, run of MLflow, state of Ray, core file or database."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from cluster import session
from cluster.processes import members
from cluster.record import Cluster
from configs.schema.serving import ServingSpec
from serving import ingress
from serving.applications import application, package_code
from serving.deployment import begin, deploy, end, undeploy
from serving.keys import add
from tests.customers import Customers
from tests.planted import Planted
from tests.processes import Done, free_port, run, submit
from tests.searching import Hit, Searcher
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.raising import write_raising_bundle

pytestmark = pytest.mark.often
MEANT = {  # places of an output, as docs/security.md lists them
    "planted": ("scores", ".work/baselines/tfidf"),
    "labels that are texts": ("prepared/manifest.json",),
}
SPLITS = ("train", "validation", "test")


@dataclass
class Scene:
    """A cluster on which texts are planted; `said` holds the output of commands by name."""

    cluster: Cluster
    environment: dict[str, str]
    folder: Path  # of what users own: rows, recipes, bundles, keys
    planted: Planted = field(default_factory=lambda: Planted(seed=2))
    began: float = field(default_factory=lambda: time.time() - 1)
    said: dict[str, str] = field(default_factory=dict)

    def command(self, name: str, verb: str, *arguments: str) -> Done:
        """A verb started by hand, whose output is kept."""
        done = run([sys.executable, "-m", f"jobs.{verb}", *arguments], self.environment, timeout=300)
        self.said[name] = done.output
        return done

    def write(self, name: str, rows: list[Any]) -> str:
        """A file of rows; what is a text is a line as it stands."""
        path = self.folder / name
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return str(path)


@pytest.fixture(scope="module")
def scene(
    cluster: Cluster, on_cluster: Cluster, environment: dict[str, str], shop_folder: Path, tmp_path_factory: Any
) -> Scene:
    """Rows of the tiny shop, every tenth with a planted word, one of them twice and in all splits."""
    scene = Scene(cluster, environment, tmp_path_factory.mktemp("owned"))
    for kind in ("recipe", "completions"):
        tree = yaml.safe_load((shop_folder / f"{kind}.yaml").read_text())
        tree["data"] |= {split: str(scene.folder / f"{split}.jsonl") for split in SPLITS}
        tree["teacher"]["epochs"] = tree["distillation"]["epochs"] = 1
        (scene.folder / f"{kind}.yaml").write_text(yaml.safe_dump(tree))
    twice = f"where is it, {scene.planted.word()}"
    for split in SPLITS:
        rows = [json.loads(line) for line in (shop_folder / f"{split}.jsonl").read_text().splitlines()]
        for row in rows[::10]:
            row["text"] += f" {scene.planted.word()}"
        rows.append({**rows[0], "text": twice})
        rows += [{**rows[0], "text": twice}] * (split == "train")
        scene.write(f"{split}.jsonl", rows)
    return scene


@pytest.fixture(scope="module")
def trained(scene: Scene) -> Done:
    """A search of one trial and its evaluation by a submitted job, and a decoder with a tokenizer of its own."""
    with ThreadPoolExecutor(2) as pool:
        given = ("--config", str(scene.folder / "recipe.yaml"), "search.space={}", "output=planted", "name=planted")
        quick = ("evaluation.baselines=[tfidf]", "evaluation.steps=false")
        searched = pool.submit(submit, scene.environment, "jobs.optimize", *given, *quick, timeout=900)
        learned = ("teacher.new.vocabulary=2000", "output=planted-too")
        given = ("--config", str(scene.folder / "completions.yaml"), *learned)
        written = pool.submit(submit, scene.environment, "jobs.finetune", *given, timeout=900)
    for name, done in (("optimize", searched.result()), ("finetune", written.result())):
        scene.said[name] = done.output
        assert done.code == 0, done.output[-4000:]
    return searched.result()


@pytest.fixture(scope="module")
def refused(scene: Scene) -> None:
    """Training rows of every kind that are refused, by hand and as submitted jobs, and rows that only warn."""
    word = scene.planted.word
    good = [{"text": f"where is it {n}", "label": f"l{n % 2}"} for n in range(20)]
    wrong: dict[str, list[Any]] = {
        "no JSON": [f'{{"text": "{word()}'],
        "no object": [[word()]],
        "no text": [{"text": {"a": {word(): word()}}, "label": "l0"}],
        "half a character": [{"text": f"{word()} \ud800", "label": "l0"}],
        "no label": [{"text": word(), "label": [word()]}],
        "empty label": [{"text": word(), "label": " "}],
        "wrong columns": [{"text": word(), "class": word()}],
        "a key twice": [f'{{"text": "{word()}", "text": "{word()}", "label": "l0"}}'],
    }
    recipe = str(scene.folder / "recipe.yaml")

    def prepare(name: str) -> None:
        path = scene.write(f"{name}.jsonl", [*good, *wrong[name]])
        at = (f"data.train={path}", f"data.validation={path}", "data.test=null")
        done = scene.command(name, "prepare", "--config", recipe, *at, f"output={name}")
        assert done.code != 0, done.output

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(prepare, wrong))
    texts = [{"text": word(), "label": f"{word()} {word()}"} for _ in range(12)]
    leaked = [{"text": word(), "label": "l0"} for _ in range(3)]
    for name, (train, validation, more) in {
        "labels that are texts": ([*good, *texts], good, ()),
        "labels of validation alone": (good, [*good, *texts], ()),
        "a leak": ([*good, *leaked], [*good, *leaked], ("data.on_leak=refuse",)),
        "too long": (good, [*good, {"text": f"{word()} " * 4000, "label": "l1"}], ("data.max_length=8",)),
    }.items():
        at = [
            f"data.{split}={scene.write(f'{name} {split}.jsonl', rows)}"
            for split, rows in (("train", train), ("validation", validation))
        ]
        given = ("--config", recipe, *at, f"output={name}", "data.test=null", *more)
        scene.said[name] = submit(scene.environment, "jobs.prepare", *given).output


@pytest.fixture(scope="module")
def scored(scene: Scene, trained: Done) -> None:
    """Rows that a bundle answers, and rows of which some cannot be asked."""
    word, recipe = scene.planted.word, str(scene.folder / "recipe.yaml")
    good = [{"id": n, "text": f"where {word()}"} for n in range(10)]
    for name, rows in {
        "good": good,
        "bad": [*good, {"id": 1, "text": [word()]}],
        "torn": [*good, f'{{"id": "{word()}'],
    }.items():
        given = ("--config", recipe, f"score.input={scene.write(f'score {name}.jsonl', rows)}", "output=planted")
        done = scene.command(f"score {name}", "score", *given, f"score.output=planted/scores/{name}")
        assert (done.code == 0) == (name == "good"), done.output


@pytest.fixture(scope="module")
def asked(scene: Scene) -> Iterator[Customers]:
    """Services on the cluster, asked by customers of every kind, also while a candidate that raises is tried."""
    session.connect()
    url, headers = scene.cluster.dashboard_url, {"Authorization": f"Bearer {scene.cluster.token_path.read_text()}"}
    requests.delete(f"{url}/api/serve/applications/", headers=headers, timeout=60).raise_for_status()
    key = add(scene.folder / "keys.json", "shop")
    told = {"port": free_port(9800), "keys": str(scene.folder / "keys.json"), "max_body_bytes": 8192}
    spec = ServingSpec.model_validate({**told, "graceful_shutdown_timeout_s": 2})
    write_tiny_bundle(scene.folder / "intent", seed=1)
    write_raising_bundle(scene.folder / "raises")
    write_tiny_decoder(scene.folder / "writer", manner={"style": ["plain"]})
    code, places = package_code(scene.folder / "code"), scene.folder / "places"
    with pytest.MonkeyPatch.context() as patch:
        for name in (ingress.FOLDER, *ingress.FALLBACK_PORTS):
            patch.setenv(name, scene.cluster.environment()[name])
        for service in ("intent", "raises", "writer"):
            made = application(spec, service, scene.folder / service, service, "1", code, places)
            deploy(url, headers, spec, made, places)
        customers = Customers(f"http://127.0.0.1:{spec.port}", scene.planted, {"X-API-Key": key})
        customers.ask("intent", 20)
        customers.ask_wrongly("intent")
        customers.ask_what_raises("raises")
        customers.have_written("writer")
        customers.go_away("writer", [{"inputs": [scene.planted.word()], "stream": True} for _ in range(4)])
        Customers(customers.url, scene.planted).ask_wrongly("intent")
        tried = ServingSpec.model_validate({**spec.model_dump(), "rollout": {"canary": 50, "sticky": "X-Customer"}})
        made = application(tried, "intent", scene.folder / "raises", "intent", "2", code, places)
        begin(url, headers, tried, made, places, lambda _: None)
        for text in scene.planted.words(20):
            by = {"X-Customer": scene.planted.word().encode()}
            assert customers.send("/v1/intent", {"inputs": [f"{text} crash"]}, headers=by) == 200
        end(url, headers, tried, "intent", places, promoted=False)
        scene.planted.texts.append(key)
        yield customers
        for service in ("intent", "raises", "writer"):
            undeploy(url, headers, spec, service, places)


@pytest.fixture(scope="module")
def crashed(scene: Scene, asked: Customers) -> None:
    """A replica that ends by a fault of memory with texts in it."""
    assert scene.cluster.ray
    replicas = [each for each in members(scene.cluster.ray) if "intent:Service" in " ".join(each.cmdline())]
    assert replicas
    for each in replicas:
        assert each.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        os.kill(each.pid, signal.SIGSEGV)
        psutil.wait_procs([each], timeout=30)


@pytest.fixture(scope="module")
def hits(scene: Scene, trained: Done, refused: None, scored: None, asked: Customers, crashed: None) -> list[Hit]:
    """Where planted texts are, outside of what users own."""
    searcher = Searcher(scene.planted.texts)
    found = [hit for name, said in scene.said.items() for hit in searcher.in_bytes(said.encode(), name)]
    for name, content in told(scene.cluster).items():
        found += searcher.in_bytes(content, name)
    folders = [scene.cluster.state, scene.cluster.temp, Path(tempfile.gettempdir()), Path("/dev/shm"), Path.cwd()]  # noqa: S108
    found += searcher.in_folders(folders, since=scene.began)
    return [hit for hit in dict.fromkeys(found) if not hit.path.is_relative_to(scene.folder)]


def told(cluster: Cluster) -> dict[str, bytes]:
    """What the servers say of metrics, jobs, their logs, tasks, actors and services, by its address."""
    headers = {"Authorization": f"Bearer {cluster.token_path.read_text()}"}
    ask: Callable[[str], requests.Response] = lambda url: requests.get(url, headers=headers, timeout=60)  # noqa: E731
    jobs = ask(f"{cluster.dashboard_url}/api/jobs/").json()
    pages = [f"jobs/{each['submission_id']}/logs" for each in jobs if each.get("submission_id")]
    pages += ["jobs/", "serve/applications/", *(f"v0/{each}?detail=1&limit=10000" for each in STATES)]
    urls = [
        *(f"{cluster.dashboard_url}/api/{each}" for each in pages),
        f"http://127.0.0.1:{cluster.ports.metrics}/metrics",
    ]
    found = {url: ask(url) for url in urls}
    assert all(each.ok for each in found.values()), {url: each.status_code for url, each in found.items()}
    return {url: each.content for url, each in found.items()}


STATES = ("tasks", "actors", "jobs", "workers", "objects", "runtime_envs")


def meant(scene: Scene, path: Path) -> bool:
    """Whether customers' text is meant to be there."""
    places = (scene.cluster.home / output / each for output, known in MEANT.items() for each in known)
    return any(path.is_relative_to(each) for each in places)


def test_two_hundred_texts_are_nowhere_but_where_they_are_meant_to_be(scene: Scene, hits: list[Hit]):
    assert len(scene.planted.texts) >= 200
    elsewhere = sorted({(str(hit.path), hit.inside, hit.form) for hit in hits if not meant(scene, hit.path)})
    assert not elsewhere, "\n".join(map(str, elsewhere[:40]))


def test_the_search_would_have_found_them(scene: Scene, hits: list[Hit]):
    """In each kind of place: what is meant to be there, and what others write there, is found."""
    found = [hit.path for hit in hits if meant(scene, hit.path)]
    for output, places in MEANT.items():
        for place in places:
            assert any(path.is_relative_to(scene.cluster.home / output / place) for path in found), place
    others = Searcher(["planted-too", "raysubmit_", "127.0.0.1"])
    places = [scene.cluster.state / "logs", scene.cluster.state / "mlflow", scene.cluster.temp]
    for place in places:
        assert others.in_folders([place], since=scene.began), place
    for url, content in told(scene.cluster).items():
        assert len(content) > 20, url

from __future__ import annotations

import math
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster import registry, resume, session, tracking
from cluster.record import Cluster
from cluster.registry import CHALLENGER, CHAMPION, PREVIOUS
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.serving import ServingSpec
from jobs import deploy, evaluate
from jobs.deploy import check_serve
from jobs.measure.gate import Evidence
from jobs.release import SERVED_TAG, evidence, make_champion
from jobs.tasks.classify.evaluation import smoke
from jobs.tasks.generate.evaluation import SMOKE
from jobs.tasks.generate.evaluation import smoke as writes
from serving import applications, deployment
from serving.bundle import bundle_bytes, bundle_digest, read_bundle
from serving.dashboard import Dashboard, DeployError
from serving.generator import Generator, load_generator
from tests.faults.proxy import Fault, in_front_of
from tests.processes import ROOT
from tests.serving.test_checked import write_checked
from tests.serving.test_writing import SCRIPT
from tests.tiny.bundles import LABELS, write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder

URI = "models:/tiny/3"


def test_evidence_counts_the_files_whatever_the_manifest_says(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "tiny", metrics={"megabytes": 1e-9, "retention": 1.0})
    assert evidence(bundle) == {"retention": 1.0, "megabytes": bundle_bytes(bundle) / 1e6}


@pytest.mark.parametrize("pairs", [False, True])
def test_a_sound_bundle_passes_the_smoke_request(tmp_path: Path, pairs: bool):
    smoke(URI, tmp_path / "tiny", write_tiny_bundle(tmp_path / "tiny", pairs=pairs))


@pytest.mark.parametrize("answer", [{"label": "unheard", "score": 0.5}, {"label": LABELS[0], "score": math.nan}])
def test_an_answer_that_makes_no_sense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
):
    class Nonsense:
        def predict(self, texts: list[str]) -> list[dict[str, Any]]:
            return [answer for _ in texts]

    monkeypatch.setattr("jobs.tasks.classify.evaluation.load_bundle", lambda folder: Nonsense())
    with pytest.raises(JobError, match=rf"^{URI}: not deployed: the smoke request was answered '{answer['label']}'"):
        smoke(URI, tmp_path / "tiny", write_tiny_bundle(tmp_path / "tiny"))


@pytest.mark.parametrize("pairs", [False, True])
def test_a_sound_decoder_writes_the_same_text_as_a_stream_and_at_once(tmp_path: Path, pairs: bool):
    writes(URI, tmp_path / "tiny", write_tiny_decoder(tmp_path / "tiny", seed=3, pairs=pairs))


def test_a_decoder_whose_checks_hold_the_smoke_text_back_is_sound(tmp_path: Path):
    bundle = read_bundle(write_checked(tmp_path / "tiny", SCRIPT.encode(), given=True))
    assert load_generator(tmp_path / "tiny").checked([SMOKE])[0]["held"]
    writes(URI, tmp_path / "tiny", bundle)


def test_a_decoder_that_writes_another_text_as_a_stream_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Generator, "write", lambda self, given, tell: tell("another"))
    with pytest.raises(JobError, match=rf"^{URI}: not deployed: the smoke request was answered with 7 characters as a"):
        writes(URI, tmp_path / "tiny", write_tiny_decoder(tmp_path / "tiny", seed=3))


def test_a_folder_is_not_deployed_since_it_could_not_be_rolled_back(tmp_path: Path):
    recipe = Recipe(name="tiny", bundle=str(tmp_path))
    with pytest.raises(UsageError, match=rf"^bundle: '{tmp_path}': deploy takes registered models, models:/<name>@"):
        deploy.deploy(recipe)


def test_a_service_that_is_not_there_is_not_removed_and_those_that_are_get_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session, "dashboard", lambda: ("http://127.0.0.1:1", {}))
    monkeypatch.setattr(session, "home", lambda: tmp_path)
    monkeypatch.setattr(Dashboard, "read", lambda _: {"intent": {}, "catalogue": {}})
    with pytest.raises(JobError, match=r"^review: not deployed; services: intent$"):
        deploy.remove(Recipe(name="tiny", remove=True, serving=ServingSpec(service="review")))


CLIENT = {"served_p50_ms": 2.0, "served_p95_ms": 3.0}


class Serve:
    """Stands in for Ray Serve; remembers which versions it was given, and says what runs."""

    def __init__(self) -> None:
        self.versions: list[str] = []
        self.running: dict[str, Any] | None = None
        self.broken = False

    def deploy(
        self, url: str, headers: Any, spec: Any, application: dict[str, Any], folder: Path, answering: Any, allowed: Any
    ) -> str:
        allowed(self.running)
        if self.broken:
            raise DeployError("tiny: version was not deployed: out of memory\nas Ray says")
        answering()
        self.running = applications.release_of(application)
        self.versions.append(self.running["version"])
        return "http://127.0.0.1:8000/v1/tiny"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    stand_in = Serve()
    monkeypatch.setattr(deployment, "deploy", stand_in.deploy)
    monkeypatch.setattr(deploy, "served", lambda *_: dict(CLIENT))
    return stand_in


def test_a_taken_port_is_one_line_before_anything_is_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session, "dashboard", lambda: ("http://127.0.0.1:1", {}))
    monkeypatch.setattr(Dashboard, "_details", lambda _: {"applications": {}})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(JobError, match=rf"^port {port} of 127\.0\.0\.1: .*; choose another serving\.port$"):
            check_serve(Recipe(name="tiny", serving=ServingSpec(port=port)))


def aliases_of(name: str) -> tuple[str | None, str | None]:
    return registry.alias_version(name, CHAMPION), registry.alias_version(name, PREVIOUS)


@pytest.fixture
def three(on_mlflow: Cluster, tmp_path: Path) -> str:
    """A model of three versions, and no champion yet."""
    name = tmp_path.name.replace("_", "-")
    with tracking.run("tune", experiment="tests of deploy", recipe={"output": str(tmp_path)}) as run:
        for seed in (1, 2, 3):
            write_tiny_bundle(tmp_path / str(seed), seed=seed)
            registry.register(name, run, tmp_path / str(seed), {}, CHALLENGER)
    return name


@pytest.mark.parametrize("fault", ["drop", "lose"])
@pytest.mark.parametrize("champions", [[], ["1"], ["1", "2"]])
def test_aliases_that_cannot_move_stay_where_they_were(
    three: str, on_mlflow: Cluster, monkeypatch: pytest.MonkeyPatch, champions: list[str], fault: Fault
):
    for version in champions:
        make_champion(three, version, {})
    before = aliases_of(three)
    assert before == (*reversed(champions), None, None)[:2]
    with in_front_of(on_mlflow.mlflow_url) as proxy:
        monkeypatch.setattr(registry, "REGISTER_SECONDS", 0.0)  # one try
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        proxy.break_first(1, "/alias", fault)
        with pytest.raises(DeployError, match=rf"^models:/{three}: alias '\w+' not set: MLflow at [^\n]*$"):
            make_champion(three, "3", {})
        monkeypatch.setenv("MLFLOW_TRACKING_URI", on_mlflow.mlflow_url)
    assert aliases_of(three) == before


def test_aliases_that_cannot_be_put_back_are_named_with_what_they_were(three: str, monkeypatch: pytest.MonkeyPatch):
    make_champion(three, "1", {})

    def away(*_: Any) -> None:
        raise JobError("alias not set: MLflow is away")

    monkeypatch.setattr(registry, "set_alias", away)
    said = "alias not set: MLflow is away; aliases may have moved, before: champion 1, previous unset"
    with pytest.raises(DeployError, match=f"^{said}$"):
        make_champion(three, "2", {})


def test_a_job_that_is_stopped_while_an_alias_moves_puts_it_back(three: str, monkeypatch: pytest.MonkeyPatch):
    make_champion(three, "1", {})
    set_alias = registry.set_alias

    def stopped(name: str, alias: str, version: str | None, *seconds: float) -> None:
        set_alias(name, alias, version, *seconds)
        if version == "2":
            raise SystemExit(143)

    monkeypatch.setattr(registry, "set_alias", stopped)
    with pytest.raises(SystemExit):
        make_champion(three, "2", {})
    assert aliases_of(three) == ("1", None)


def test_another_model_than_the_service_runs_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch):
    running = {"args": {}, "deployments": [{"user_config": {"bundle": "/b", "name": "intent", "version": "3"}}]}
    monkeypatch.setattr(session, "dashboard", lambda: ("http://127.0.0.1:1", {}))
    monkeypatch.setattr(Dashboard, "check", lambda _: {"shop": running})
    asked = Recipe(name="review", serving=ServingSpec(service="shop"))
    with pytest.raises(
        JobError, match=r"^shop: would not be deployed: the model is review, .* runs models:/intent/3; "
    ):
        check_serve(asked)
    check_serve(asked.model_copy(update={"name": "intent"}))
    check_serve(asked.model_copy(update={"serving": ServingSpec(service="shop", accept=["name"])}))


def said_of(bundle: Path, value: float, retention: float) -> dict[str, Any]:
    """The manifest of an evaluation on a thousand rows."""
    figures = {"asked": "a" * 64, "rows": 1000, "metric": "accuracy", "value": value, "retention": retention}
    figures |= {"p95_ms": 1.0, "megabytes": 0.1, "retention_low": retention, "retention_high": retention}
    return {"tested": figures, "bundle": bundle_digest(bundle), "run_id": "r", "at": "2026-01-01T00:00:00+00:00"}


@pytest.fixture
def joined(on_mlflow: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a job that joined a cluster."""
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setattr(session, "dashboard", lambda: ("http://127.0.0.1:1", {}))


@dataclass
class Shop:
    """A model with a version for each bundle, in one service."""

    folder: Path
    name: str
    serve: Serve

    def register(
        self, number: int, name: str | None = None, figures: Mapping[str, float] | None = None, **fields: Any
    ) -> str:
        """The next version, with the evidence of test rows where `figures` give some; returns its URI."""
        name = name or self.name
        bundle = self.folder / f"{name}-{number}"
        write_tiny_bundle(
            bundle, seed=number, **{"metrics": {"metric": 0.9, "retention": 1.0, "p95_ms": 1.0}, **fields}
        )
        with tracking.run("tune", experiment="tests of deploy", recipe={"output": str(self.folder)}) as run:
            uri = registry.register(name, run, bundle, {registry.BUNDLE_TAG: bundle_digest(bundle)}, CHALLENGER)
        if figures:
            evaluate.record(said_of(bundle, **figures))
        return uri

    def deploy(self, uri: str | None = None, accept: Sequence[str] = (), **sections: Any) -> deploy.Deployed:
        given = {"name": self.name, "bundle": uri, "serving": {"service": "shop", "accept": accept}}
        return deploy.deploy(Recipe.model_validate({"budget": {"min_retention": 0.9}, **given, **sections}))

    def refused(self, uri: str | None = None, **sections: Any) -> str:
        """The line that a deployment ends with; nothing moves."""
        before = aliases_of(self.name), self.serve.running
        with pytest.raises(JobError, match="not deployed: ") as failed:
            self.deploy(uri, **sections)
        assert (aliases_of(self.name), self.serve.running) == before
        assert "\n" not in str(failed.value)
        return str(failed.value).partition("not deployed: ")[2]


@pytest.fixture
def shop(joined: None, serve: Serve, tmp_path: Path) -> Shop:
    return Shop(tmp_path, tmp_path.name.replace("_", "-"), serve)


def test_a_model_that_no_unseen_row_meets_the_bar_of_is_not_deployed_unless_that_is_accepted_and_recorded(shop: Shop):
    uri = shop.register(1, figures={"value": 0.8, "retention": 0.843})
    words = "outside the budget on 1,000 test rows: retention 0.843 (0.843 to 0.843) misses min_retention=0.9 by 6.3%"
    assert shop.refused() == f"{words}; serving.accept='[outside]' deploys it all the same"
    deployed = shop.deploy(accept=["outside"])
    assert (deployed.uri, deployed.accepted) == (uri, [("outside", words)])
    assert (deployed.metrics["test_retention"], deployed.metrics["inside"]) == (0.843, 0.0)
    assert registry.tags(shop.name, "1")["slimcart.accepted"] == f"outside: {words}"
    assert aliases_of(shop.name) == ("1", None)


def test_a_model_that_no_test_rows_were_asked_of_is_not_deployed_unless_that_is_accepted(shop: Shop):
    shop.register(1)
    assert shop.refused().startswith("no test rows were asked what it keeps")
    assert [each.kind for each in shop.deploy(accept=["untested"]).accepted] == ["untested"]


def test_what_a_client_of_the_service_sees_is_said_and_stands_in_the_versions_tags(shop: Shop):
    shop.register(1, figures={"value": 0.9, "retention": 1.0})
    assert shop.deploy().metrics.items() >= CLIENT.items()
    tags = registry.tags(shop.name, "1")
    assert [tags[f"slimcart.{name}"] for name in CLIENT] == ["2", "3"]


@pytest.mark.often
def test_a_decoder_passes_the_same_gate_by_its_own_metric(shop: Shop):
    bundle = shop.folder / "decoder"
    write_tiny_decoder(bundle, seed=3, metrics={"metric": 30.0, "retention": 1.0, "p95_ms": 1.0})
    with tracking.run("compress", experiment="tests of deploy", recipe={"output": str(shop.folder)}) as run:
        uri = registry.register(shop.name, run, bundle, {registry.BUNDLE_TAG: bundle_digest(bundle)}, CHALLENGER)
    assert shop.refused(task="generate").startswith("no test rows were asked what it keeps")
    said = said_of(bundle, 30.0, 0.85)
    evaluate.record({**said, "tested": {**said["tested"], "metric": "bleu"}})
    assert shop.refused(task="generate").startswith("outside the budget on 1,000 test rows: retention 0.85")
    deployed = shop.deploy(task="generate", accept=["outside"])
    assert (deployed.uri, deployed.metrics["test_bleu"]) == (uri, 30.0)
    assert aliases_of(shop.name) == ("1", None)


def test_evidence_is_of_the_bundle_and_not_of_its_number(shop: Shop):
    uri = shop.register(1)
    write_tiny_bundle(shop.folder / "other", seed=9)
    evaluate.record(said_of(shop.folder / "other", 0.9, 1.0))
    assert "slimcart.test" not in " ".join(registry.tags(shop.name, "1"))
    evidence = Evidence(**said_of(shop.folder / "other", 0.9, 1.0)["tested"], bundle="0" * 64, run="r", at="2026")
    registry.set_tags(shop.name, "1", dict([evidence.tag()]))
    assert shop.refused(uri).startswith("no test rows were asked what it keeps")


def test_a_service_keeps_its_name_its_labels_and_its_quality_unless_told_otherwise(shop: Shop):
    shop.register(1, figures={"value": 0.714, "retention": 1.0})
    shop.deploy()
    worse = shop.register(2, figures={"value": 0.635, "retention": 0.95})
    assert shop.refused(worse).startswith(
        f"accuracy 0.635 on 1,000 test rows, of which the champion models:/{shop.name}/1 has accuracy 0.714; "
    )
    labels = shop.register(3, labels=["track", "refund", "stop"], figures={"value": 0.8, "retention": 1.0})
    assert "1 gone ('cancel'), 1 new ('stop'); serving.accept='[labels]'" in shop.refused(labels)
    other = shop.register(1, f"{shop.name}-other", figures={"value": 0.8, "retention": 1.0})
    assert f"runs models:/{shop.name}/1; serving.accept='[name]'" in shop.refused(other)
    shop.deploy(worse, accept=["worse"])
    shop.serve.running = None  # as after `make down` and `make up`: the alias says what it would replace
    assert "'[labels]'" in shop.refused(labels)
    assert "accuracy 0.714" not in shop.refused(labels)


def test_what_has_served_comes_back_whatever_todays_budget_says_and_whatever_is_better_now(shop: Shop):
    for number, value in ((1, 0.6), (2, 0.7)):
        shop.register(number, figures={"value": value, "retention": 0.95})
        shop.deploy()
    today: dict[str, Any] = {"budget": {"min_retention": 0.99}}
    assert "misses min_retention=0.99" in shop.refused(
        shop.register(3, figures={"value": 0.9, "retention": 0.95}), **today
    )
    back = shop.deploy(f"models:/{shop.name}@{PREVIOUS}", **today)
    assert (back.uri, back.accepted) == (f"models:/{shop.name}/1", [])
    shop.deploy(f"models:/{shop.name}/2", **today)
    assert shop.serve.versions == ["1", "2", "1", "2"]


HOLD = """
import sys
from pathlib import Path
from cluster.resume import only_job
with only_job(Path(sys.argv[1]), "optimize"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def searched(tmp_path: Path) -> Iterator[Path]:
    """An output that a job in another process holds."""
    output = tmp_path / "output"
    command = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        yield output


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_return_to_previous_works_while_another_process_searches_in_the_output(shop: Shop, searched: Path):
    for number in (1, 2):
        shop.register(number, figures={"value": 0.9, "retention": 1.0})
        shop.deploy()
    before = files(searched)
    place = {"output": str(searched), "serving": {"service": "shop"}}
    back = deploy.run(Recipe.model_validate({"name": shop.name, "bundle": f"models:/{shop.name}@{PREVIOUS}", **place}))
    assert back.model_uri == f"models:/{shop.name}/1"
    assert aliases_of(shop.name) == ("1", "2")
    assert files(searched) == before, "the record of the job that runs there is its own"


def test_two_deployments_of_one_service_are_one_after_the_other(shop: Shop):
    place = session.home() / ".deployments" / "shop"
    with (
        resume.only_job(place, "deploy (process 1)"),
        pytest.raises(
            JobError,
            match=r"^serving\.service: .*/shop: deploy \(process 1\) works there; wait for it, stop it, or",
        ),
    ):
        deploy.run(Recipe.model_validate({"name": shop.name, "serving": {"service": "shop"}}))


def test_the_alias_champion_moves_when_the_service_answers_and_back_again(shop: Shop):
    uri = shop.register(1, figures={"value": 0.9, "retention": 1.0})
    deployed = shop.deploy()
    assert (deployed.uri, deployed.endpoint) == (uri, "http://127.0.0.1:8000/v1/tiny")
    assert evidence(read_bundle(shop.folder / f"{shop.name}-1")).items() <= deployed.metrics.items()
    assert aliases_of(shop.name) == ("1", None)
    shop.register(2, figures={"value": 0.9, "retention": 1.0})
    shop.serve.broken = True
    with pytest.raises(JobError, match=r"^tiny: version was not deployed: out of memory$"):
        shop.deploy()
    assert aliases_of(shop.name) == ("1", None)
    assert not [key for key in registry.tags(shop.name, "2") if key.startswith(SERVED_TAG)]
    shop.serve.broken = False
    shop.deploy()
    assert aliases_of(shop.name) == ("2", "1")
    assert f"{SERVED_TAG}shop" in registry.tags(shop.name, "2")
    shop.deploy(f"models:/{shop.name}@{PREVIOUS}")
    assert aliases_of(shop.name) == ("1", "2")
    assert shop.serve.versions == ["1", "2", "1"]

from __future__ import annotations

from pathlib import Path

import pytest

from configs.loader import UsageError, load
from configs.schema.services import ServicesSpec

ONE = "services: {shop: {model: 'models:/shop@champion'"


def read(folder: Path, text: str, *overrides: str) -> ServicesSpec:
    (folder / "serving.yaml").write_text(text)
    return load(ServicesSpec, folder / "serving.yaml", overrides)


def test_a_service_answers_as_it_says_over_what_all_say(tmp_path: Path):
    common = "serving: {port: 8100, replicas: 2, max_inputs: 8, cpus_per_replica: 0.5}\n"
    asked = read(tmp_path, f"{common}{ONE}, serving: {{max_inputs: 4}}}}, b: {{model: models:/b/3}}}}")
    mine, other = asked.serving_of("shop"), asked.serving_of("b")
    assert (mine.service, mine.port, mine.replicas, mine.max_inputs, mine.cpus_per_replica) == ("shop", 8100, 2, 4, 0.5)
    assert (other.service, other.max_inputs) == ("b", 8)


@pytest.mark.parametrize(
    ("common", "own", "replicas", "most"),
    [("replicas: 2", "autoscaling: {max: 3}", 1, 3), ("autoscaling: {max: 3}", "replicas: 2", 2, None)],
)
def test_replicas_and_autoscaling_of_a_service_take_the_place_of_the_others(
    tmp_path: Path, common: str, own: str, replicas: int, most: int | None
):
    spec = read(tmp_path, f"serving: {{{common}}}\n{ONE}, serving: {{{own}}}}}}}").serving_of("shop")
    assert (spec.replicas, spec.autoscaling and spec.autoscaling.max) == (replicas, most)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{ONE}, serving: {{port: 1}}}}}}", "services.shop: serving.port: leave it out; all services share one"),
        (f"{ONE}, serving: {{service: x}}}}}}", "services.shop: serving.service: leave it out; the key above names it"),
        (f"serving: {{rollout: {{shadow: true}}}}\n{ONE}}}}}", "serving.rollout: leave it out; it is of one service"),
        ("services: {shop: {model: /data/bundle}}", "services.shop.model: '/data/bundle' is no registered model; give"),
        ("services: {models: {model: models:/a/1}}", "'models' is taken by a route of all services"),
        ("services: {shop: {model: models:/a/1, replicas: 2}}", "services.shop.replicas: unknown key (value 2)"),
        (f"{ONE}}}}}\nservices: {{}}", "'services'"),  # a key twice
        (
            f"serving: {{max_batch_size: 64}}\n{ONE}, serving: {{max_ongoing_requests: 32}}}}}}",
            "services.shop.serving: max_ongoing_requests=32 is less than max_batch_size=64"[:21],
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, text: str, said: str):
    with pytest.raises(UsageError) as refused:
        read(tmp_path, text)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_limits_that_fit_alone_and_not_together_are_refused_by_the_name_of_the_service(tmp_path: Path):
    text = f"serving: {{max_ongoing_requests: 64}}\n{ONE}, serving: {{max_batch_size: 128}}}}}}"
    said = r"services\.shop\.serving, over serving: max_ongoing_requests=64 is less than max_batch_size=128"
    with pytest.raises(UsageError, match=said):
        read(tmp_path, text)

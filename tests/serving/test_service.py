from datetime import datetime
from pathlib import Path

import pytest

from configs.schema.serving import ServingSpec
from serving.service import Release, catalogue_entry
from tests.tiny.bundles import write_tiny_bundle


@pytest.mark.parametrize("fields", [{}, {"pairs": True}, {"attributes": True}])
def test_the_catalogue_says_what_a_service_takes(tmp_path: Path, fields: dict[str, bool]):
    write_tiny_bundle(tmp_path, **fields)
    release = Release(bundle=str(tmp_path), name="tiny", version="1")
    entry = catalogue_entry("shop", release, ServingSpec.model_validate({"max_inputs": 4}))
    assert entry["limits"]["max_inputs"] == 4 and "max_tokens" not in entry["limits"]
    assert {name: entry[name] for name in ("pairs", "attributes")} == {"pairs": False, "attributes": False, **fields}


def test_the_catalogue_says_for_which_figures_a_model_was_let_into_service(tmp_path: Path):
    found = {"accuracy": 0.9, "retention": 0.98, "p95_ms": 2.5, "megabytes": 1.5, "ece": 0.1, "classes": 5.0}
    write_tiny_bundle(tmp_path, metrics=found)
    measured = {"validation_accuracy": 0.9, "validation_retention": 0.98, "p95_ms": 2.5, "megabytes": 1.5}
    for given, said in ({}, measured), ({"accuracy": 0.8, "retention": 0.97}, {"accuracy": 0.8, "retention": 0.97}):
        release = Release(bundle=str(tmp_path), name="tiny", version="1", evidence=given)
        entry = catalogue_entry("shop", release, ServingSpec.model_validate({}))
        assert entry["evidence"] == said and entry["share"] == 100
        assert datetime.fromisoformat(entry["since"]).timestamp() == entry["created"]


def test_a_model_is_the_same_whatever_was_measured_on_it_since():
    release = Release(bundle="/a", name="tiny", version="1")
    assert release.is_model_of(release.model_copy(update={"evidence": {"accuracy": 0.9}}))
    assert not release.is_model_of(release.model_copy(update={"version": "2"}))

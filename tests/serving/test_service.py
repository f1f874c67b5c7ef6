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

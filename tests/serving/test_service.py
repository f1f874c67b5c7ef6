from pathlib import Path

import pytest

from serving.service import Release, catalogue_entry
from tests.tiny.bundles import write_tiny_bundle


@pytest.mark.parametrize("fields", [{}, {"pairs": True}, {"attributes": True}])
def test_the_catalogue_says_what_a_service_takes(tmp_path: Path, fields: dict[str, bool]):
    write_tiny_bundle(tmp_path, **fields)
    entry = catalogue_entry("shop", Release(bundle=str(tmp_path), name="tiny", version="1"))
    assert {name: entry[name] for name in ("pairs", "attributes")} == {"pairs": False, "attributes": False, **fields}

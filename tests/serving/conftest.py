"""What tests of HTTP share: one process that serves bundles of every task and kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny.http import Process
from tests.tiny.site import SERVICES, answering, write_site


@pytest.fixture(scope="session")
def site_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for each of `tests.tiny.site.SERVICES`."""
    made = tmp_path_factory.mktemp("site")
    write_site(made)
    return made


@pytest.fixture(scope="session")
def site(site_folder: Path) -> Iterator[Process]:
    """A process that serves all of them; its requests are independent of one another."""
    with answering(site_folder, *SERVICES) as process:
        yield process

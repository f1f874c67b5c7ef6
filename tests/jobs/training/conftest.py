"""Runs of the train loop that several files look at; each worker group is started once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import session
from cluster.record import Cluster
from tests.jobs.training.loops import Facts, Shop
from tests.jobs.training.modes import FOUR_WORKERS, ON_A_GPU, ONE_WORKER, TWO_WORKERS, TWO_WORKERS_MORE


@pytest.fixture(scope="session")
def shop(on_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, shop_folder: Path, tiny_teacher: Path) -> Shop:
    session.connect()
    return Shop(tmp_path_factory.mktemp("loop"), shop_folder, tiny_teacher)


@pytest.fixture(scope="session")
def one(shop: Shop) -> dict[str, Facts]:
    return shop.observe(1, ONE_WORKER)


@pytest.fixture(scope="session")
def two(shop: Shop) -> dict[str, Facts]:
    return shop.observe(2, TWO_WORKERS)


@pytest.fixture(scope="session")
def two_more(shop: Shop) -> dict[str, Facts]:
    return shop.observe(2, TWO_WORKERS_MORE)


@pytest.fixture(scope="session")
def four(shop: Shop) -> dict[str, Facts]:
    return shop.observe(4, FOUR_WORKERS)


@pytest.fixture(scope="session")
def on_a_gpu(shop: Shop) -> dict[str, Facts]:
    return shop.observe(1, {name: given for name, (given, _) in ON_A_GPU.items()}, gpu=True)

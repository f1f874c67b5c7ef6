"""A deployed service, on a cluster of its own."""

from __future__ import annotations

import contextlib
import os
import unittest.mock
from collections.abc import Iterator
from pathlib import Path

from benchmarks._bare import SERVICE
from cluster import local
from cluster.ports import choose_port
from configs.schema.serving import ServingSpec
from serving import applications, deployment
from serving.dashboard import Dashboard


@contextlib.contextmanager
def service(state: Path, bundle: Path, defaults: bool = False) -> Iterator[str]:
    """The URL of a service on a cluster of its own; with `defaults` Serve was started before, by nobody's settings."""
    cluster = local.up(state)
    try:
        headers = {"Authorization": f"Bearer {cluster.token_path.read_text()}"}
        spec = ServingSpec.model_validate({"port": choose_port(f"the service of {state.name}", 9810)})
        code, places = applications.package_code(state / "code"), state / "serving"
        made = applications.application(spec, SERVICE, bundle, SERVICE, "1", code, places)
        with unittest.mock.patch.dict(os.environ, cluster.environment()):
            if defaults:
                serve = Dashboard(cluster.dashboard_url, headers, spec)
                serve.write(serve.read())
            yield deployment.deploy(cluster.dashboard_url, headers, spec, made, places)
    finally:
        local.down(state)

"""Addresses and credentials of the servers that a job uses (MLflow, the Hub, S3), the same in all its processes.

Ray starts trials and workers with the environment of their node, which may name other servers than the driver's. So
the driver's settings travel through the object store, among the values that such a process is handed, and replace the
node's. They never travel in a `runtime_env`, in arguments of a command, or in a train loop's config: the dashboard and
Ray's logs show those.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cluster.session import JobError
from configs import places
from configs.shown_urls import shown_urls

PREFIXES = ("MLFLOW_", "HF_", "HUGGING_FACE_HUB_", "AWS_")
ADDRESS = "MLFLOW_TRACKING_URI"
GUARDED = {  # settings of every client of MLflow, whatever the driver's environment says
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # it is the client that would unpickle
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Settings:
    """Settings of one driver; printing them does not show their values."""

    values: Mapping[str, str] = field(repr=False)
    node: str  # IP address of the driver's node

    @property
    def address(self) -> str:
        """MLflow's address; empty where the driver has none."""
        return self.values.get(ADDRESS, "")

    def enter(self, node: str) -> None:
        """Replace the settings of this process, which runs on `node`, by these.

        Raises `JobError` where the driver's address leads to another server from here, or where this process has
        entered another driver's settings.
        """
        if urlsplit(self.address).hostname in LOOPBACK and node != self.node:
            raise JobError(
                f"environment: {ADDRESS}: {shown_urls(self.address)} is another server on node {node} than on "
                f"{self.node}, where the job runs; give an address that all nodes reach"
            )
        if _entered and _entered[0].address != self.address:
            raise _other(_entered[0].address, self.address)
        for name in [each for each in os.environ if each.startswith(PREFIXES)]:
            del os.environ[name]
        os.environ.update(self.values)
        _entered[:] = [self]


_entered: list[Settings] = []  # the settings that this process has entered, one at most


def of_this_process(node: str) -> Settings:
    """The settings of a driver, or of a process that entered its driver's; also the places that its recipe names."""
    names = {*places.used(), *(_entered[0].values if _entered else ())}
    named = {name: os.environ[name] for name in names if name in os.environ}
    values = named | {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}
    return Settings(values | GUARDED, node)


def check() -> None:
    """Raise `JobError` where this process entered the settings of one MLflow server and meets another."""
    met = os.environ.get(ADDRESS, "")
    if _entered and met != _entered[0].address:
        raise _other(met, _entered[0].address)


def _other(met: str, entered: str) -> JobError:
    return JobError(
        f"environment: {ADDRESS}: {shown_urls(met) or 'none'} in a process of a job that records at "
        f"{shown_urls(entered) or 'none'}; set it in the environment of the job alone"
    )

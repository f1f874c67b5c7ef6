"""Bundles of every task and kind, for one process that serves them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.reply import Replies, Templates, with_replies
from tests.tiny.bundles import LABELS, write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.http import Process, ended, ready, started

SERVICES = ["intent", "second", "pairs", "category", "reply", "writer", "talk"]
LIMITS = {"max_inputs": 4, "max_body_bytes": 8192, "request_timeout_s": 30}
SCRIPT = b"a\n says hello."  # what follows the input "a"


def write_site(folder: Path) -> None:
    """One bundle for each of `SERVICES`."""
    write_tiny_bundle(folder / "intent", seed=1)
    write_tiny_bundle(folder / "second", seed=2)
    write_tiny_bundle(folder / "pairs", pairs=True, attributes=True)
    write_tiny_bundle(folder / "category", seed=3, attributes=True)
    templates = {label: [f"{label} of {{{{order_number}}}}"] for label in LABELS}
    made = Templates(fields=["order_number"], templates=templates)
    with_replies(folder / "second", folder / "reply", Replies(made, 0.0), {})
    write_tiny_decoder(folder / "writer", SCRIPT, manner={"style": ["plain", "warm"]})
    write_tiny_decoder(folder / "talk", template="{% for each in messages %}{{ each.content }}{% endfor %}")


@contextmanager
def answering(folder: Path, *services: str, keys: Path | None = None) -> Iterator[Process]:
    """A process that serves those of `write_site`, and asks for one of the `keys`."""
    asking = [] if keys is None else ["--keys", str(keys)]
    limits = [f"--{name.replace('_', '-')}={value}" for name, value in LIMITS.items()]
    popen = started(*(str(folder / each) for each in services), *limits, *asking)
    try:
        yield ready(popen, len(services))
    finally:
        ended(popen)

"""Bundles whose services are watched for drift."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.schema.data import DataSpec
from jobs.measure.contenders import Contender, load
from serving.bundle import PROFILE, with_metrics


def add_profile(folder: Path, inputs: Sequence[str]) -> None:
    """Give a bundle the profile of these validation inputs, as a measurement does."""
    predict = load(Contender(name="bundle", kind="bundle", folder=str(folder)), DataSpec(), threads=1)
    made = predict.profile(inputs, predict(inputs))
    assert made
    with_metrics(folder, {}, files={PROFILE: made.model_dump_json()})

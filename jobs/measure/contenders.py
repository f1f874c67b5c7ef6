"""What can be measured side by side: an exported bundle, an eager torch model, a baseline made of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from configs.loader import Spec
from configs.schema.data import DataSpec
from configs.schema.tasks import TASKS, named
from jobs.measure.answers import LoadedContender
from serving.bundle import read_description
from tuning.figures import Shape


class Contender(Spec):
    """One system under measurement."""

    name: str
    kind: Literal["bundle", "reference", "fitted"]
    folder: str | None = None  # the bundle
    fit: str | None = None  # "module:name" of the function that fits it to the training rows when it is loaded
    shapes: list[Shape] | None = None  # those it is timed at, of all that are; None: all
    tokenizer: str | None = None  # file whose tokens count at a shape; None: the same one for all

    @model_validator(mode="after")
    def lies_in_a_folder_or_is_fitted(self) -> Self:
        if (self.folder is None) != (self.kind == "fitted") or (self.fit is None) == (self.kind == "fitted"):
            raise ValueError(f"{self.name}: a {self.kind} has {'a function' if self.kind == 'fitted' else 'a folder'}")
        return self


def load(contender: Contender, data: DataSpec, threads: int) -> LoadedContender:
    """A ready predictor that uses `threads` threads."""
    if contender.fit is not None:
        return named(contender.fit)(data)
    assert contender.folder is not None
    folder = Path(contender.folder)
    bundle = read_description(folder)
    opens = bundle.record.open if contender.kind == "bundle" else TASKS[bundle.task].open_reference
    return named(bundle.record.answering)(named(opens)(folder, threads))

"""An answer is a function of its own text, in every form that a file is exported in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.session import JobError
from configs.schema.models import StudentSpec
from configs.schema.recipe import Recipe
from configs.schema.runtimes import RUNTIMES, ExportTarget
from configs.schema.tasks import TASKS
from jobs.compression.apply import compress
from jobs.compression.checks.selection import installed, write
from jobs.models.encoder import EncoderClassifier
from jobs.models.student import encoder_student
from serving.cascade import join
from serving.runtime import load_bundle
from tests.tiny.models import VOCABULARY, encoder_classifier
from tests.tiny.workplace import examples, workplace

STEPS: Mapping[str, list[dict[str, Any]]] = {
    "float": [{"step": "export"}],
    "int8": [{"step": "export"}, {"step": "quantize"}],
}


def takes(form: ExportTarget, steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all steps but export work on files of a runtime."""
    return all(each["step"] in ("export", *RUNTIMES[form.runtime].steps) for each in steps)


FORMS = [ExportTarget(name, each) for name in TASKS["classify"].runtimes for each in RUNTIMES[name].precisions]
BUNDLES = [f"{name} {' '.join(form)}" for name, steps in STEPS.items() for form in FORMS if takes(form, steps)]
CASCADES = ["cascade of float", "cascade of int8"]
ATOL = {"f32": 1e-3, "bf16": 1.5e-2, "f16": 1e-2}  # of a score, in the mean of a row: other shapes round elsewhere


def export(folder: Path, model: EncoderClassifier, forms: Sequence[ExportTarget]) -> None:
    """Bundles of a model in float and in int8, by one export."""
    place = workplace(folder, model, examples(100), examples(20, seed=1), budget={"min_retention": 0})
    fields = place.reference.model_dump(exclude={"files", "metrics", "provenance"})
    for name, steps in STEPS.items():
        able = [form for form in forms if takes(form, steps)]
        place.recipe = Recipe.model_validate(place.recipe.model_dump() | {"compression": steps})
        made = compress(model, place.recipe.compression, place, list({form.runtime: None for form in able}))
        for form in able:
            write(folder / f"{name} {' '.join(form)}", form, made.files[form.runtime].last, place, fields)
        for runtime in made.files:
            (place.folder / runtime).rename(place.folder / f"{name} {runtime}")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batches")
    model = encoder_classifier(layers=2)
    export(folder / "second", model, FORMS)
    small = encoder_student(model, StudentSpec(kind="conv", layers=2, hidden=16)).eval()
    export(folder / "first", small, FORMS[:1])
    for name in STEPS:
        file = f"{name} onnxruntime f32"
        join(folder / "second" / f"cascade of {name}", folder / "first" / file, folder / "second" / file, 0.4)
    return folder


@pytest.fixture(scope="module")
def texts(bundles: Path) -> list[str]:
    """Of one word to more than the models see."""
    chance = np.random.default_rng(0)
    return [" ".join(f"w{word}" for word in chance.integers(5, VOCABULARY, 1 + number % 44)) for number in range(120)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"second/{each}" for each in (*BUNDLES, *CASCADES)), "first/int8 onnxruntime f32"])
def test_a_text_is_answered_alike_alone_and_among_any_others(name: str, bundles: Path, texts: list[str]):
    runtime, precision = name.split()[-2:] if name.endswith(tuple(ATOL)) else ("onnxruntime", "f32")
    try:
        installed([ExportTarget(runtime, precision)])
    except JobError as error:
        pytest.skip(str(error))
    classifier = load_bundle(bundles / name)
    alone_NC = np.concatenate([classifier.scores([text]) for text in texts])
    assert alone_NC.std(0).max() > 2 * max(ATOL.values())  # so that other rows would show
    chance = np.random.default_rng(1)
    for size in (2, 5, 32, len(texts)):
        order = chance.permutation(len(texts))
        for rows in np.split(order, range(size, len(order), size)):
            found_NC = classifier.scores([texts[row] for row in rows])
            off_N = np.abs(found_NC - alone_NC[rows]).mean(1)
            assert off_N.max() < ATOL[precision]
            if precision == "f32":
                assert (found_NC.argmax(1) == alone_NC[rows].argmax(1)).all()

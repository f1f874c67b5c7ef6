"""Which of several exported forms is taken; the files are tiny graphs, the times are made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cluster.session import JobError
from configs.schema.recipe import Recipe
from configs.schema.runtimes import ExportTarget
from jobs.compression.apply import Compressed, Exported
from jobs.compression.checks import selection
from jobs.compression.checks.agreement import Parity
from jobs.compression.checks.selection import choose, installed, write
from jobs.compression.export.onnx import export
from jobs.compression.step_context import StepContext
from jobs.models.encoder import EncoderClassifier
from serving.runtime import load_bundle
from tests.tiny.models import encoder_classifier
from tests.tiny.workplace import examples, labelled, workplace

ONNX, FAST = ExportTarget("onnxruntime", "f32"), ExportTarget("openvino", "f32")


class Made:
    """A model, its file, and one whose answers are shuffled."""

    def __init__(self, folder: Path) -> None:
        self.model: EncoderClassifier = encoder_classifier(layers=1)
        rows = labelled(examples(60), self.model)
        self.place: StepContext = workplace(
            folder, self.model, rows, rows, export={"lengths": [8, 16], "batches": [1, 4]}
        )
        self.file, self.wrong = self.place.folder / "0.onnx", self.place.folder / "wrong.onnx"
        export(self.model, self.file, self.place)
        graph = onnx.load(str(self.file))
        head = next(each for each in graph.graph.initializer if each.name.endswith("head.bias"))
        head.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(head) + np.array([9, 0, 0, 0, 0], np.float32), head.name)
        )
        onnx.save(graph, str(self.wrong))
        self.fields = self.place.reference.model_dump(exclude={"files", "metrics", "provenance"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("choice"))


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """p50 at each shape, by form; a form without times is never asked for. Bundles are not written."""
    known: dict[str, list[float]] = {}

    def timed(bundles: dict[str, Path], _: Recipe, shapes: list[tuple[int, int]], *__: Any) -> dict[str, Any]:
        return {name: dict(zip(shapes, known[name], strict=True)) for name in bundles}

    monkeypatch.setattr(selection, "timed", timed)
    monkeypatch.setattr(selection, "write", lambda *_: None)
    return known


def files(made: Made, **by_runtime: tuple[Path, Path]) -> Compressed:
    return Compressed(made.model, {runtime: Exported(*pair, {}) for runtime, pair in by_runtime.items()}, {})


def test_a_form_alone_is_not_timed_and_its_parity_is_noted(made: Made, times: dict[str, list[float]]):
    chosen = choose(files(made, onnxruntime=(made.file, made.file)), [ONNX], made.place, made.fields)
    assert (chosen.form, chosen.file) == (ONNX, made.file)
    parity = chosen.facts["onnxruntime f32"]["parity"]
    assert (parity["rows"], parity["same"]) == (60, 1.0) and parity["difference"] < 1e-3


def test_of_several_the_fastest_over_all_shapes_is_taken(made: Made, times: dict[str, list[float]]):
    compressed = files(made, onnxruntime=(made.file, made.file), openvino=(made.file, made.file))
    times |= {"onnxruntime f32": [1.0, 1.0, 8.0, 8.0], "openvino f32": [2.0, 2.0, 3.0, 3.0]}  # means 2.83 and 2.45
    chosen = choose(compressed, [ONNX, FAST], made.place, made.fields)
    assert chosen.form == FAST
    assert chosen.facts["onnxruntime f32"]["mean_ms"] == pytest.approx(8**0.5)
    assert chosen.facts["openvino f32"]["batch1_tokens16_p50_ms"] == 2.0


def test_a_form_outside_the_parity_limit_is_left_out_with_the_reason(made: Made, times: dict[str, list[float]]):
    compressed = files(made, onnxruntime=(made.file, made.file), openvino=(made.wrong, made.wrong))
    chosen = choose(compressed, [ONNX, FAST], made.place, made.fields)
    assert chosen.form == ONNX
    assert "openvino in f32 answers" in chosen.facts["openvino f32"]["left_out"]
    assert "export.parity asks for 99.90%" in chosen.facts["openvino f32"]["left_out"]


def test_int8_is_held_to_its_limit_only_where_it_competes(made: Made, times: dict[str, list[float]]):
    compressed = files(made, onnxruntime=(made.file, made.file), openvino=(made.file, made.wrong))
    assert choose(compressed, [FAST], made.place, made.fields).file == made.wrong
    chosen = choose(compressed, [ONNX, FAST], made.place, made.fields)
    assert chosen.form == ONNX
    assert "openvino in int8 answers" in chosen.facts["openvino f32"]["left_out"]


def test_int8_alone_is_held_to_its_limit_where_the_rest_is_not_f32(made: Made, monkeypatch: pytest.MonkeyPatch):
    said = {(made.file, "f32"): 1.0, (made.wrong, "bf16"): 0.97}
    monkeypatch.setattr(selection, "comparison", lambda *_: lambda file, precision: Parity(60, said[file, precision]))
    with pytest.raises(JobError, match=r"openvino in int8 answers 97\.00% of 60 .* asks for 98\.00%"):
        choose(
            files(made, openvino=(made.file, made.wrong)), [ExportTarget("openvino", "bf16")], made.place, made.fields
        )


def test_a_runtime_that_has_no_file_is_left_out_with_the_reason(made: Made, times: dict[str, list[float]]):
    lost = {"openvino": "'quantize' lowers validation accuracy"}
    compressed = files(made, onnxruntime=(made.file, made.file))._replace(left_out=lost)
    chosen = choose(compressed, [ONNX, FAST, ExportTarget("openvino", "bf16")], made.place, made.fields)
    assert chosen.form == ONNX
    assert chosen.facts["openvino f32"] == chosen.facts["openvino bf16"] == {"left_out": lost["openvino"]}
    with pytest.raises(JobError, match=r"^'quantize' lowers validation accuracy$"):
        choose(compressed, [FAST, ExportTarget("openvino", "bf16")], made.place, made.fields)


def test_int8_of_a_decoder_is_held_to_its_limit_alone(made: Made, monkeypatch: pytest.MonkeyPatch):
    said = {made.file: 1.0, made.wrong: 0.75}
    monkeypatch.setattr(selection, "comparison", lambda *_: lambda file, precision: Parity(32, said[file]))
    place = replace(made.place, recipe=made.place.recipe.model_copy(update={"task": "generate"}))
    files = Compressed(made.model, {"ctranslate2": Exported(made.file, made.wrong, {})}, {})
    with pytest.raises(JobError, match=r"ctranslate2 in int8 answers 75\.00% of 32 .* asks for 80\.00%"):
        choose(files, [ExportTarget("ctranslate2", "f32")], place, made.fields)


def test_a_float_file_that_answers_otherwise_ends_the_job(made: Made, times: dict[str, list[float]]):
    with pytest.raises(JobError, match=r"onnxruntime in f32 answers .* of 60 validation rows as the model does"):
        choose(files(made, onnxruntime=(made.wrong, made.wrong)), [ONNX], made.place, made.fields)


def test_the_limit_is_the_recipe_s(made: Made, times: dict[str, list[float]]):
    export_spec = made.place.recipe.export.model_copy(update={"parity": 0.0})
    wide = StepContext(
        made.place.recipe.model_copy(update={"export": export_spec}),
        made.place.student,
        made.place.reference,
        made.place.folder,
    )
    assert choose(files(made, onnxruntime=(made.wrong, made.wrong)), [ONNX], wide, made.fields).form == ONNX


def test_a_written_bundle_says_its_form(made: Made, tmp_path: Path):
    bundle = write(tmp_path / "bundle", ONNX, made.file, made.place, made.fields)
    assert (bundle.runtime, bundle.precision, bundle.model) == ("onnxruntime", "f32", "model.onnx")
    assert load_bundle(tmp_path / "bundle").predict(["w7 w8 w9"])[0]["label"] in bundle.labels


def test_a_runtime_that_is_not_installed_is_left_out_or_named(monkeypatch: pytest.MonkeyPatch):
    find: Any = lambda name: None if name == "openvino" else object()  # noqa: E731
    monkeypatch.setattr(selection.importlib.util, "find_spec", find)
    assert installed([ONNX, FAST]) == [ONNX]
    with pytest.raises(
        JobError,
        match=r"export\.runtime: 'openvino' is not installed here; install slimcart with its extra 'runtimes'",
    ):
        installed([FAST])

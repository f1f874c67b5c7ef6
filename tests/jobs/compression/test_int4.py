"""Weights in 4 bits, against plain formulas and against CTranslate2 itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ctranslate2
import numpy as np
import pytest

from configs.folder import digest_file
from configs.schema.compression import QuantizeSpec
from jobs.compression import int4
from jobs.compression.export.ctranslate2 import export, quantize
from jobs.compression.step_context import StepContext
from jobs.models.decoder import Decoder
from jobs.tasks.generate.judging import token_accuracy, token_logits
from serving.bundle import BundleError
from serving.runtimes.int4 import CODES, SCALES, expanded, read, unpack
from tests.tiny.models import decoder
from tests.tiny.workplace import completed, workplace

ROWS, COLUMNS, GROUP = 6, 64, 16


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def rounded(weights_RC: np.ndarray, group: int) -> np.ndarray:
    return unpack(*int4.pack(weights_RC, group))


def test_what_lies_on_the_grid_of_its_group_is_kept_exactly():
    chance = np.random.default_rng(0)
    codes = chance.integers(-7, 8, (ROWS, COLUMNS // GROUP, GROUP))
    codes[..., 0] = 7
    scales = 2.0 ** chance.integers(-12, 3, (ROWS, COLUMNS // GROUP, 1))
    given = (codes * scales).reshape(ROWS, COLUMNS).astype(np.float32)
    np.testing.assert_array_equal(rounded(given, GROUP), given)


def test_a_weight_takes_4_bits_and_a_group_16():
    codes, scales = int4.pack(weights(), GROUP)
    assert (codes.dtype, codes.shape) == (np.int8, (ROWS, COLUMNS // 2))
    assert (scales.dtype, scales.shape) == (np.float16, (ROWS, COLUMNS // GROUP))


def test_the_error_is_no_larger_than_with_the_largest_weight_as_the_largest_code():
    given = weights()
    groups = given.reshape(ROWS, -1, GROUP)
    steps = np.abs(groups).max(2, keepdims=True) / 7
    plain = np.square(np.rint(groups / steps) * steps - groups).sum(2)
    found = np.square(rounded(given, GROUP).reshape(groups.shape) - groups).sum(2)
    assert (found <= plain * 1.02).all()  # scales are kept in float16
    assert found.sum() < 0.95 * plain.sum()


def test_smaller_groups_err_less():
    errors = [np.square(rounded(weights(), group) - weights()).sum() for group in (64, 16, 4)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("group", "inputs", "fits"), [(32, 100, 20), (32, 96, 32), (32, 30, 30), (32, 74, 2), (2, 8, 2)]
)
def test_groups_are_the_largest_that_divide_the_inputs(group: int, inputs: int, fits: int):
    assert int4.fitting(group, inputs) == fits


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_weights_out_of_the_range_of_a_scale_stay_finite(value: float):
    found = rounded(np.full((1, GROUP), value, np.float32), GROUP)
    assert np.isfinite(found).all()
    assert value or not found.any()


@pytest.fixture(scope="module")
def model() -> Decoder:
    return decoder("llama")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model: Decoder) -> StepContext:
    """With the model in float in the folder `0`."""
    rows = completed(model, 40)
    made = workplace(
        tmp_path_factory.mktemp("int4"), model, rows, rows, task="generate", compression=[{"step": "export"}]
    )
    export(model, made.folder / "0", made)
    return made


def in_4_bits(place: StepContext, name: str, **fields: object) -> Path:
    made = place.folder / name
    quantize(place.folder / "0", QuantizeSpec.model_validate({"step": "quantize", "bits": 4, **fields}), made, place)
    return made


def test_a_file_that_is_read_is_written_as_it_was(place: StepContext):
    whole = place.folder / "0" / "model.bin"
    assert read(whole).content() == whole.read_bytes()


@pytest.mark.parametrize("kept", [0.9, 0.1, 0.0001, 0])
@pytest.mark.parametrize("content", [None, b"something else " * 99])
def test_a_file_that_is_cut_or_something_else_is_refused_in_one_line(
    place: StepContext, tmp_path: Path, kept: float, content: bytes | None
):
    file = tmp_path / "model.bin"
    whole = content or (place.folder / "0" / "model.bin").read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(BundleError, match=r"model\.bin: is no file of CTranslate2: ") as refused:
        read(file)
    assert "\n" not in str(refused.value)


def test_layers_are_stored_in_4_bits_and_all_else_as_it_was(place: StepContext):
    made = in_4_bits(place, "all", guard=False)
    before, after = (read(folder / "model.bin") for folder in (place.folder / "0", made))
    coded = [name.removesuffix(CODES) for name in after.arrays if name.endswith(CODES)]
    assert len(coded) == 10 and all("/layer_" in name for name in coded)
    for name, array in before.arrays.items():
        if name in coded:
            assert after.arrays[name + CODES].values.nbytes * 8 == array.values.nbytes
            assert after.arrays[name + SCALES].values.size * 32 == array.values.size
        else:
            np.testing.assert_array_equal(after.arrays[name].values, array.values)
    assert list(expanded(after).arrays) == list(before.arrays)


def test_the_answers_are_those_of_a_float_file_with_the_rounded_weights(place: StepContext, tmp_path: Path):
    made = in_4_bits(place, "compared", guard=False)
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("config.json", "vocabulary.json"):
        (plain / name).write_bytes((made / name).read_bytes())
    (plain / "model.bin").write_bytes(expanded(read(made / "model.bin")).content())
    ctranslate2.Generator(str(plain))  # as the library itself reads it
    examples = place.prepared.examples("validation")
    for found, expected in zip(token_logits(made, examples, 9), token_logits(plain, examples, 9), strict=True):
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[0].std() > 0.01


@pytest.mark.slow
def test_what_is_computed_in_bfloat16_is_as_near_to_the_rounded_weights(place: StepContext):
    export_spec = place.recipe.export.model_copy(update={"precision": "bf16"})
    half = replace(place, recipe=place.recipe.model_copy(update={"export": export_spec}), folder=place.folder / "half")
    half.folder.mkdir()
    export(decoder("llama"), half.folder / "0", half)
    assert {array.kind for array in read(half.folder / "0" / "model.bin").arrays.values()} >= {"bfloat16"}
    examples = place.prepared.examples("validation")
    made = in_4_bits(half, "1", guard=False)
    for found, expected in zip(
        token_logits(made, examples, 9),
        token_logits(in_4_bits(place, "whole", guard=False), examples, 9),
        strict=True,
    ):
        np.testing.assert_allclose(found[0], expected[0], atol=0.3 * expected[0].std())


@pytest.mark.slow
def test_the_guard_leaves_layers_in_float_until_the_loss_is_inside(place: StepContext):
    examples = place.prepared.examples("validation")
    free = token_accuracy(in_4_bits(place, "free", guard=False), examples, 40)
    held = token_accuracy(in_4_bits(place, "held", max_loss=0.02), examples, 40)
    left = place.facts["quantize"]["in_float"]
    assert free < 0.97 < 0.98 <= held
    assert 0 < len(left) < place.facts["quantize"]["layers"] == 10


@pytest.mark.slow
def test_the_same_file_comes_of_the_same_model(place: StepContext):
    first, second = (in_4_bits(place, name, guard=False) / "model.bin" for name in ("first", "second"))
    assert digest_file(first) == digest_file(second)

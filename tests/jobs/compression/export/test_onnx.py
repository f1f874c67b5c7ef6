from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from transformers import AutoModel

from cluster.session import JobError
from jobs.compression.export.onnx import SAMPLE, TOLERANCE, _quiet, export_onnx, largest_difference
from jobs.models.encoder import EncoderClassifier
from tests.tiny.models import CLASSES, POSITIONS, batch, config, encoder_classifier

SINGLE = ("input_ids", "attention_mask")
PAIR = (*SINGLE, "token_type_ids")


class Exported(NamedTuple):
    """A model and the file that was made of it."""

    model: EncoderClassifier
    inputs: tuple[str, ...]
    file: Path
    longest: int  # tokens that its positions allow
    session: onnxruntime.InferenceSession

    def answers(self, given: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Logits of the file and of the model."""
        feed = {name: tensor.numpy() for name, tensor in given.items()}
        with torch.inference_mode():
            return np.asarray(self.session.run(["logits"], feed)[0]), self.model(**given).numpy()

    def batch(self, rows: int, tokens: int) -> dict[str, torch.Tensor]:
        """Rows of random tokens, lengths and, where the model takes them, second texts."""
        given = batch(rows, tokens, seed=rows)
        types = {"token_type_ids": (torch.arange(tokens) >= tokens // 2).long().repeat(rows, 1)}
        return given | (types if "token_type_ids" in self.inputs else {})


@pytest.fixture(
    scope="module",
    params=[
        ("bert", "mean", PAIR, POSITIONS),
        ("roberta", "cls", SINGLE, POSITIONS - 2),
        ("distilbert", "mean", SINGLE, POSITIONS),
    ],
    ids=["bert, mean, pairs", "roberta, cls", "distilbert, mean"],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Made once: the exporter takes seconds for any model."""
    kind, pooling, inputs, longest = request.param
    model = encoder_classifier(kind, layers=1, pooling=pooling)
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(model, inputs, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return Exported(model, inputs, file, longest, session)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 2), (1, 33), (7, 9), (33, 12), SAMPLE])
def test_the_file_answers_like_the_model_at_any_batch_and_length_and_under_masks(
    exported: Exported, rows: int, tokens: int
):
    file_BC, model_BC = exported.answers(exported.batch(rows, tokens))
    assert file_BC.shape == (rows, CLASSES)
    np.testing.assert_allclose(file_BC, model_BC, atol=TOLERANCE)


def test_every_input_counts(exported: Exported):
    given = exported.batch(1, 9)
    whole_BC, _ = exported.answers(given)
    changed = {
        "input_ids": given["input_ids"].flip(1),
        "attention_mask": (torch.arange(9) < 4).long()[None],
        "token_type_ids": torch.zeros(1, 9, dtype=torch.int64),
    }
    for name in exported.inputs:
        other_BC, expected_BC = exported.answers(given | {name: changed[name]})
        np.testing.assert_allclose(other_BC, expected_BC, atol=TOLERANCE)
        assert np.abs(other_BC - whole_BC).max() > 10 * TOLERANCE


def test_inputs_and_output_have_their_names_types_and_free_sizes(exported: Exported):
    described = exported.session.get_inputs()
    assert sorted(each.name for each in described) == sorted(exported.inputs)
    assert {each.type for each in described} == {"tensor(int64)"}
    assert all(isinstance(size, str) for each in described for size in each.shape)
    assert [each.name for each in exported.session.get_outputs()] == ["logits"]


def test_the_longest_text_is_the_one_that_the_positions_allow(exported: Exported):
    file_BC, model_BC = exported.answers(exported.batch(2, exported.longest))
    np.testing.assert_allclose(file_BC, model_BC, atol=TOLERANCE)
    longer = {name: tensor.numpy() for name, tensor in exported.batch(2, exported.longest + 1).items()}
    with pytest.raises(Exception, match=r"(?i)invalid|fail|out of"):
        exported.session.run(["logits"], longer)


def test_the_file_is_valid_and_whole_in_itself(exported: Exported):
    assert [path.name for path in exported.file.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(onnx.load(exported.file))


def test_the_file_says_nothing_of_the_machine_it_was_made_on(exported: Exported):
    written = exported.file.read_bytes()
    assert b".py" not in written and b"stack_trace" not in written


def test_the_runtime_leaves_the_residuals_and_norms_of_a_layer_apart(exported: Exported, tmp_path: Path):
    """The runtime takes longer for the two in one than for each alone."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this machine alone
    onnxruntime.InferenceSession(str(exported.file), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node]
    assert kinds.count("LayerNormalization") >= 2  # of the one layer; those of the embeddings are another matter


@pytest.mark.parametrize(("tokens", "positions"), [(3, 40), (60, 4)], ids=["three tokens", "four positions"])
def test_a_model_of_few_tokens_or_few_positions_is_exported_and_compared(tmp_path: Path, tokens: int, positions: int):
    torch.manual_seed(0)
    small = config("bert", layers=1)
    small.vocab_size, small.max_position_embeddings = tokens, positions
    model = EncoderClassifier(AutoModel.from_config(small, dtype=torch.float32), "mean", CLASSES).eval()
    export_onnx(model, SINGLE, tmp_path / "model.onnx")
    assert largest_difference(model, SINGLE, tmp_path / "model.onnx") <= TOLERANCE


@pytest.mark.parametrize("wrong", [0.5, np.nan])
def test_a_file_that_answers_unlike_the_model_is_refused(
    exported: Exported, wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As if the exporter had translated one operation wrongly."""

    def tampering(model: torch.nn.Module, arguments: tuple[Any, ...], file: str, **options: Any) -> None:
        written = onnx.load(exported.file)
        head = next(each for each in written.graph.initializer if each.name.endswith("head.bias"))
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + np.float32(wrong), head.name))
        onnx.save(written, file)

    monkeypatch.setattr(torch.onnx, "export", tampering)
    with pytest.raises(JobError, match=r"differs from the model by (0\.5|nan) in a logit"):
        export_onnx(exported.model, exported.inputs, tmp_path / "model.onnx")


@pytest.mark.slow
def test_the_difference_of_large_logits_is_in_proportion_to_them(tmp_path: Path):
    """Those of a head of grades are squares: of grades up to 1,000 a rounding is more than a whole number."""
    model = encoder_classifier(layers=1)
    with torch.no_grad():
        for weight in model.head.parameters():
            weight.mul_(1e6)
    file = tmp_path / "model.onnx"
    export_onnx(model, SINGLE, file)
    written = onnx.load(file)
    head = next(each for each in written.graph.initializer if each.name.endswith("head.bias"))
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(1.1) + 1000, head.name))
    onnx.save(written, file)
    assert largest_difference(model, SINGLE, file) > TOLERANCE


def test_a_file_that_answers_like_the_model_is_not_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.onnx, "export", lambda model, _, file, **options: shutil.copy(exported.file, file))
    export_onnx(exported.model, exported.inputs, tmp_path / "model.onnx")


def test_the_exporter_is_kept_quiet_and_logging_is_left_as_it_was(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
):
    def chatter() -> None:
        with _quiet():
            print("[torch.onnx] Obtain model graph...")
            warnings.warn("this will change", FutureWarning, stacklevel=1)
            logging.getLogger("torch.onnx").warning("Exporting")
            raise KeyError("the exporter failed")

    before = logging.root.manager.disable
    with pytest.raises(KeyError):
        chatter()
    assert logging.root.manager.disable == before
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert not recwarn.list

"""A tiny random checkpoint of each family on the whole way: a step of training, layers of it, a bundle, a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from configs.loader import UsageError
from configs.schema.models import StudentSpec
from jobs.compression.export.ctranslate2 import try_export
from jobs.compression.export.onnx import export_onnx
from jobs.models import decoder, encoder
from jobs.models.student import check_student, decoder_student, encoder_student
from tests.jobs.compression.export.test_small import TAKEN
from tests.tiny.folders import DECODERS, ENCODERS, decoder_folder, encoder_folder

END = 77  # of a text; as good as any with random weights
FIRST = ("deberta-v2", "qwen3")  # of their like; the others are for the long run


def kinds(table: dict[str, Any]) -> list[Any]:
    return [pytest.param(kind, marks=() if kind in FIRST else pytest.mark.often) for kind in table]


def learn(model: torch.nn.Module, given: tuple[torch.Tensor, torch.Tensor]) -> None:
    """A step that moves every weight it reaches, the first layer's too."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    step = torch.optim.SGD(model.parameters(), lr=1.0)
    model(*given).square().sum().backward()
    step.step()
    moved = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    assert any(".0." in name for name in moved)


def reloaded(family: Any, model: torch.nn.Module, given: tuple[torch.Tensor, torch.Tensor], folder: Path) -> Any:
    """The model as it is saved and read again by `encoder` or `decoder`, after both gave the same."""
    folder.mkdir()
    family.save(model, folder)
    again = family.load(folder)
    with torch.inference_mode():
        torch.testing.assert_close(again(*given), model(*given))
    return again


def greedy(lm: Any, prompt: list[int], longest: int, least: int = 0) -> list[int]:
    """A completion by transformers, alone."""
    given = {"max_length": longest, "min_new_tokens": least, "do_sample": False}
    (text,) = lm.generate(torch.tensor([prompt]), **given, eos_token_id=END, pad_token_id=END)
    completed = text[len(prompt) :].tolist()
    return completed[: completed.index(END)] if END in completed else completed


@pytest.mark.parametrize("kind", kinds(ENCODERS))
def test_an_encoder_goes_the_whole_way(kind: str, tmp_path: Path):
    folder = encoder_folder(tmp_path / "model", kind, vocab_size=60)
    teacher = encoder.from_pretrained(str(folder), "mean", 3, 0.0)
    given = (torch.randint(5, 15, (2, 9)), torch.ones(2, 9, dtype=torch.long))
    learn(teacher, given)
    if kind == "albert":
        with pytest.raises(UsageError, match=r"^student\.layers: 'albert' has no list of layers to choose from"):
            check_student(teacher.encoder.config, StudentSpec(layers=2))
        student = teacher.eval()
    else:
        check_student(teacher.encoder.config, StudentSpec(layers=2))
        same = encoder_student(teacher, StudentSpec(layers=3)).eval()
        with torch.inference_mode():
            torch.testing.assert_close(same(*given), teacher.eval()(*given))
        student = encoder_student(teacher, StudentSpec(layers=2)).eval()
    again = reloaded(encoder, student, given, tmp_path / "student")
    export_onnx(again, encoder.graph_inputs(again, False), tmp_path / "model.onnx")  # raises where it differs


@pytest.mark.parametrize("kind", kinds(DECODERS))
def test_a_decoder_goes_the_whole_way(kind: str, tmp_path: Path):
    teacher = decoder.from_pretrained(str(decoder_folder(tmp_path / "model", kind)), 32)
    given = (torch.randint(5, 250, (2, 9)), torch.arange(9).expand(2, 9))
    learn(teacher, given)
    count = teacher.lm.config.num_hidden_layers
    check_student(teacher.lm.config, StudentSpec(layers=2))
    same = decoder_student(teacher, StudentSpec(layers=count)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(same(*given), teacher.eval()(*given))
    student = decoder_student(teacher, StudentSpec(layers=2)).eval()
    again = reloaded(decoder, student, given, tmp_path / "student")
    prompts = [[5, 6, 7], [8], list(range(20, 31)), [9, 4, 7, 5], [11, 12, 13]]
    expected = [greedy(again.lm, prompt, 12) for prompt in prompts]
    assert decoder.complete(again, prompts, 12, END) == expected == decoder.complete(student, prompts, 12, END)
    assert decoder.complete(again, prompts[:1], 8, END, least=5) == [greedy(again.lm, prompts[0], 8, least=5)]
    if kind in TAKEN:
        try_export(student.lm.config)

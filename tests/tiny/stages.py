"""What stages compute their results of: rows of made-up words, a student of each kind, and places to compress in."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from configs.folder import digest_json
from configs.schema.compression import StepSpec
from configs.schema.models import StudentSpec
from configs.schema.recipe import Recipe
from jobs.compression.step_context import StepContext
from jobs.data.prepared import Prepared
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.reference import read_reference, write_reference
from jobs.models.student import encoder_student
from tests.group import in_group
from tests.tiny import models as tiny_models
from tests.tiny import texts as tiny_texts
from tests.tiny import workplace as tiny_workplace
from tests.tiny.shop import SPECIAL, write_locally

WORDS = {"refund": "money back charged twice", "size": "large small fits tight", "track": "parcel where late courier"}
COMMON = "my the order is i please when again new old"
TEACHER = {"epochs": 1, "learning_rate": 5e-3, "head_learning_rate": 2e-2, "dropout": 0.0, "warmup": 0.2}
ROWS_OF = {"train": 30, "validation": 9, "unlabelled": 12}


def convolutional() -> EncoderClassifier:
    """A student whose norms have seen some rows."""
    torch.manual_seed(0)
    model = encoder_student(tiny_models.encoder_classifier(), StudentSpec(kind="conv", layers=2, hidden=16)).train()
    for seed in range(3):
        model(**tiny_models.batch(6, 12, seed))
    return model.eval()


def recipe_of(folder: Path, **sections: Any) -> Recipe:
    """Over made-up rows and a tokenizer of their words, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, words = np.random.default_rng(0), COMMON.split()
    for split, count in ROWS_OF.items():
        lines = []
        for row in range(count):
            label = [*WORDS][row % len(WORDS)]
            drawn = chance.choice([*words, *WORDS[label].split() * 3], 4 + row % 5).tolist()
            lines.append(json.dumps({"text": " ".join(drawn), "other": " ".join(reversed(drawn)), "label": label}))
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    data = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    given = {"teacher": {"model": str(folder / "model")}} | sections
    given["data"] = data | {"max_length": 10, "test": None} | sections.get("data", {})
    return Recipe.model_validate({"name": "tiny", "output": str(folder), **given})


def prepared(folder: Path, **sections: Any) -> Prepared:
    """The rows of `recipe_of`, prepared without Ray."""
    from tests.tiny.ways import prepare

    recipe = recipe_of(folder, **sections)
    write_model(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.data.tokenise.write_shards", write_locally)
        return prepare(recipe)


def write_model(folder: Path) -> None:
    """An encoder and a tokenizer that knows each word of the rows, as transformers saves them."""
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *COMMON.split(), *" ".join(WORDS.values()).split()]
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()  # pyright: ignore[reportAttributeAccessIssue]
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    made.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=made, **named).save_pretrained(folder)
    tiny_models.encoder_classifier(layers=2).encoder.save_pretrained(folder)


def of_texts(folder: Path, given: list[dict[str, Any]]) -> tuple[StepContext, list[StepSpec]]:
    """A place to compress in, of texts, and the steps."""
    rows = prepared(folder, compression=given)
    torch.manual_seed(0)
    student = encoder.from_pretrained(str(folder / "model"), "mean", len(WORDS), 0.0)
    write_reference(folder / "student", student, rows, "tiny", {}, {})
    (folder / "between").mkdir()
    recipe = recipe_of(folder, compression=given)
    return StepContext(recipe, folder / "student", read_reference(folder / "student", ""), folder / "between"), [
        *recipe.compression
    ]


def compressing(
    folder: Path, model: EncoderClassifier, given: list[dict[str, Any]]
) -> tuple[StepContext, list[StepSpec]]:
    """A place to compress in, of tokens, and the steps."""
    rows = tiny_workplace.labelled(tiny_workplace.examples(40), model)
    without = {"export": {"parity": 0}, "budget": {"min_retention": 0}, "engine": {"precision": "fp32"}}
    place = tiny_workplace.workplace(folder, model, rows, rows, compression=given, **without)
    chance = np.random.default_rng(0)
    tiny_texts.write_logits(folder / "teacher_outputs", 2 * chance.normal(size=(len(rows), tiny_models.CLASSES)))
    return place, [*place.recipe.compression]


def seeded_logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a student [8, 5], of a teacher, and labels."""
    chance = torch.Generator().manual_seed(0)
    student_BC, teacher_BC = 2 * torch.randn(2, 8, 5, generator=chance)
    return student_BC, teacher_BC, torch.arange(8) % 5


def digest_of(rows: Prepared) -> str:
    """Of the tokens, types and labels of prepared rows."""
    splits = [rows.examples(split) for split in ("train", "validation") if rows.manifest["rows"].get(split)]
    return digest_json(
        [[part.tolist() for part in (each.ids, each.types, each.offsets, each.labels)] for each in splits]
    )


def rounded(values: Any) -> Any:
    """Plain numbers of six digits, in one list."""
    if np.ndim(values) == 0:
        return float(f"{float(values):.6g}")
    return [float(f"{each:.6g}") for each in np.asarray(values, float).ravel().tolist()]


def said(model: nn.Module) -> list[float]:
    """Logits of six texts."""
    with torch.inference_mode():
        return rounded(model.eval()(**tiny_models.batch(6, 12)).numpy())


@functools.cache
def in_process(folder: Path) -> dict[str, dict[str, Any]]:
    """What a teacher and students of two kinds have learned, by the loop itself, in a process of its own."""
    return in_group(learn, {"folder": str(folder)}, 1, folder)


def learn(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Runs in that process."""
    from jobs.training.loop import train_loop

    folder, model = Path(told["folder"]), tiny_models.encoder_classifier(layers=3)
    rows = tiny_workplace.labelled(tiny_workplace.examples(120), model)
    place = tiny_workplace.workplace(folder, model, rows, rows)
    model.encoder.save_pretrained(folder / "model")
    chance = np.random.default_rng(0)
    tiny_texts.write_logits(folder / "teacher_outputs", 2 * chance.normal(size=(len(rows), tiny_models.CLASSES)))
    engine = {"precision": "fp32", "tokens_per_batch": 128, "max_failures": 0}
    teacher = TEACHER | {"model": str(folder / "model")}
    distillation = {name: TEACHER[name] for name in ("epochs", "learning_rate", "head_learning_rate", "warmup")}
    found: dict[str, dict[str, Any]] = {"teacher": {}, "student": {}}
    for role, name, student in (
        ("teacher", "after some steps", {}),
        ("student", "layers, after some steps", {"layers": 2}),
        ("student", "conv, after some steps", {"kind": "conv", "layers": 1, "hidden": 16}),
    ):
        given = {"name": "tiny", "output": str(folder), "engine": engine, "teacher": teacher, "student": student}
        target = folder / f"{role} {name}"
        fit = {
            "recipe": Recipe.model_validate(given | {"distillation": distillation}).model_dump(),
            "role": role,
            "prepared": str(place.prepared.folder),
            "teacher": str(place.student),
            "teacher_outputs": str(folder / "teacher_outputs") if role == "student" else None,
            "target": str(target),
            "work": str(folder / "work"),
            "key": "k",
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ray.train.report", lambda metrics: None)
            best = train_loop(fit)
        found[role] |= {name: said(encoder.load(target)), f"{name}: loss": rounded(best["train_loss"])}
    return found

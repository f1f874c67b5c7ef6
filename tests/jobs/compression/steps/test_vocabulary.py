from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.session import JobError
from configs.folder import commit
from configs.schema.compression import ExportStep, VocabularySpec
from configs.schema.data import PoolSpec
from configs.schema.models import StudentSpec
from jobs.compression.bundle import compress
from jobs.compression.checks.step_loss import StepLoss
from jobs.compression.step_context import StepContext
from jobs.compression.steps.vocabulary import prune_vocabulary, share_changed
from jobs.data import tokenise
from jobs.data.batches import collate
from jobs.data.prepared import MANIFEST, ROWS, Examples, rows_of
from jobs.data.source import rows
from jobs.measure.baselines import embedding_table
from jobs.measure.reference import load_reference
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier, from_config
from jobs.models.student import encoder_student
from serving.runtime import load_bundle
from tests.tiny.models import CLASSES, config
from tests.tiny.texts import LONGEST, workplace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StepContext:
    return workplace(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture
def place(made: StepContext, tmp_path: Path) -> StepContext:
    """With the tokenizer of the student."""
    return replace(made, folder=tmp_path, facts={})


def spec(**fields: Any) -> VocabularySpec:
    return VocabularySpec(step="vocabulary", **fields)


def logits(model: EncoderClassifier, examples: Examples) -> torch.Tensor:
    batch = collate(examples, np.arange(len(examples)), int(examples.lengths.max()))
    with torch.inference_mode():
        return model(batch["input_ids"], batch["attention_mask"])


@pytest.mark.parametrize("kind", ["layers", "conv"])
def test_covered_rows_get_the_same_answers_from_fewer_tokens(
    place: StepContext, kind: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tokenise, "ROWS_PER_CALL", 3)  # so that rows are of several calls
    model = encoder_student(encoder.load(place.student), StudentSpec(kind=kind, layers=1)).eval()
    before = {split: place.prepared.examples(split) for split in ("train", "validation")}
    smaller = prune_vocabulary(model, spec(), place)
    facts = place.facts["vocabulary"]
    assert facts["tokens"] == smaller.encoder.config.vocab_size == place.tokenizer.get_vocab_size()
    assert facts["of"] == model.encoder.config.vocab_size > facts["tokens"]
    assert torch.equal(logits(smaller, place.prepared.examples("train")), logits(model, before["train"]))
    changed = ~torch.isclose(
        logits(smaller, place.prepared.examples("validation")), logits(model, before["validation"])
    ).all(1)
    assert 0 < facts["validation_rows_changed"] == pytest.approx(changed.float().mean().item())


def test_a_model_of_fewer_tokens_is_judged_on_its_own_tokens(place: StepContext):
    place.judged = True
    model, asked = encoder.load(place.student), spec(max_loss=0.5)
    judge = StepLoss(model, [asked], place)
    judge.after(0, prune_vocabulary(model, asked, place))
    facts = place.facts["vocabulary"]
    assert facts["after"] == pytest.approx(facts["before"], abs=facts["validation_rows_changed"])


def test_rarer_tokens_go_too_and_all_rows_stay_encodable(place: StepContext):
    model = encoder.load(place.student)
    prune_vocabulary(model, spec(name="rare", min_count=3), place)
    examples = place.prepared.examples("train")
    assert place.facts["rare"]["validation_rows_changed"] > 0
    assert place.tokenizer.token_to_id("[UNK]") not in examples.ids
    assert examples.lengths.max() == LONGEST


def test_further_tokens_change_fewer_rows(place: StepContext):
    model = encoder.load(place.student)
    first = 300
    names = [place.tokenizer.id_to_token(index) or "" for index in range(first)]
    prune_vocabulary(model, spec(name="more", keep_first=first), place)
    assert all(place.tokenizer.token_to_id(name) is not None for name in names)
    place = replace(place)
    prune_vocabulary(model, spec(name="fewer"), place)
    assert place.facts["more"]["validation_rows_changed"] < place.facts["fewer"]["validation_rows_changed"]
    assert place.facts["more"]["tokens"] > place.facts["fewer"]["tokens"]


def test_tokens_of_the_pool_stay_too(place: StepContext, tmp_path: Path):
    output = tmp_path / "output"
    shutil.copytree(place.prepared.folder, output / "prepared")
    validation = rows_of(place.prepared.folder / ROWS, "validation")
    split = validation.schema.get_field_index("split")
    validation = validation.set_column(split, "split", pa.array(["train"] * len(validation)))

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        pq.write_table(validation, aside / ROWS / "0.parquet")
        return {"key": "pool"}

    commit(output / "pool", MANIFEST, fill)
    distillation = place.recipe.distillation.model_copy(update={"pool": PoolSpec(rows=1)})
    place.recipe = place.recipe.model_copy(update={"distillation": distillation, "output": str(output)})
    prune_vocabulary(encoder.load(place.student), spec(), place)
    assert place.facts["vocabulary"]["validation_rows_changed"] == 0


def test_the_given_model_stays_as_it_was_and_the_new_one_reloads(place: StepContext, tmp_path: Path):
    model = encoder.load(place.student)
    tokens, weights = model.encoder.config.vocab_size, {name: each.clone() for name, each in model.state_dict().items()}
    smaller = prune_vocabulary(model, spec(), place)
    assert model.encoder.config.vocab_size == tokens
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())
    (tmp_path / "again").mkdir()
    encoder.save(smaller, tmp_path / "again")
    given = place.prepared.examples("validation")
    assert torch.equal(logits(encoder.load(tmp_path / "again"), given), logits(smaller, given))


def test_the_embeddings_of_a_reloaded_model_are_found_by_their_number_of_tokens(place: StepContext, tmp_path: Path):
    smaller = prune_vocabulary(encoder.load(place.student), spec(), place)
    again = tmp_path / "again"
    again.mkdir()
    encoder.save(smaller, again)
    (again / "bundle.json").write_text((place.student / "bundle.json").read_text())
    assert embedding_table(again) == "encoder.embeddings.word_embeddings.weight"


def test_ids_that_a_config_names_follow_their_tokens_and_those_outside_are_left(place: StepContext):
    shape = config("bert", layers=1)
    known = place.tokenizer.get_vocab_size()
    shape.vocab_size = known + 8  # a table may have rows that are no token's
    shape.max_position_embeddings = LONGEST
    named = {"pad": 0, "bos": known - 1, "sep": known, "cls": known + 7, "eos": known + 8, "mask": -1, "unk": None}
    for name, index in named.items():
        setattr(shape, f"{name}_token_id", index)
    model, before = from_config(shape, "mean", CLASSES, 0.0).eval(), place.prepared.examples("train")
    last = place.tokenizer.id_to_token(known - 1)
    smaller, after = prune_vocabulary(model, spec(), place), place.prepared.examples("train")
    kept = place.facts["vocabulary"]["tokens"]
    assert kept == place.tokenizer.get_vocab_size() < known
    said = {name: getattr(smaller.encoder.config, f"{name}_token_id") for name in named}
    assert last is not None and said["bos"] == place.tokenizer.token_to_id(last) == kept - 1
    assert (said["pad"], said["eos"], said["mask"]) == (0, known + 8, -1)
    assert said["sep"] is said["cls"] is said["unk"] is None
    assert after.ids.min() >= 0 and after.ids.max() < kept
    assert torch.equal(logits(smaller, after), logits(model, before))


@pytest.mark.parametrize(("given", "share"), [([[5], [6, 7]], 0), ([[5], [6]], 0.5), ([[6], [7, 6]], 1)])
def test_a_row_has_changed_where_a_token_is_another_or_none(given: list[list[int]], share: float):
    def of(texts: list[list[int]]) -> Examples:
        ids = np.array([each for text in texts for each in text], np.int32)
        offsets = np.cumsum([0, *map(len, texts)])
        return Examples(ids, np.zeros(len(ids), np.int8), offsets, np.zeros(len(texts), np.int64))

    renumbered = np.array([-1, 5, 6, 7])
    assert share_changed(of([[1], [2, 3]]), of(given), renumbered) == share
    assert share_changed(of([[0], [0, 0]]), of(given), renumbered) == 1


@pytest.mark.parametrize("last", [False, True], ids=["id that stays", "id that moves"])
def test_positions_of_roberta_still_start_after_its_padding(place: StepContext, tmp_path: Path, last: bool):
    """Its padding token is told from others by its id."""
    shape = config("roberta", layers=1)
    shape.vocab_size = place.tokenizer.get_vocab_size()
    shape.pad_token_id = shape.vocab_size - 1 if last else 1
    shape.max_position_embeddings = shape.pad_token_id + 1 + LONGEST
    model, before = from_config(shape, "mean", CLASSES, 0.0).eval(), place.prepared.examples("train")
    smaller, after = prune_vocabulary(model, spec(), place), place.prepared.examples("train")
    assert smaller.encoder.config.pad_token_id == (smaller.encoder.config.vocab_size - 1 if last else 1)
    assert torch.equal(logits(smaller, after), logits(model, before))
    encoder.save(smaller, tmp_path)
    assert torch.equal(logits(encoder.load(tmp_path), after), logits(smaller, after))


def test_texts_that_changed_since_they_were_prepared_are_refused(place: StepContext, tmp_path: Path):
    lines = [json.loads(line) for line in Path(place.recipe.data.train).read_text().splitlines()]
    lines[0]["text"] += "!"
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = place.recipe.data.model_copy(update={"train": str(tmp_path / "train.jsonl")})
    place.recipe = place.recipe.model_copy(update={"data": data})
    with pytest.raises(JobError, match=r"data\.train: changed since .* was made"):
        prune_vocabulary(encoder.load(place.student), spec(), place)


@pytest.mark.slow
def test_a_bundle_of_fewer_tokens_answers_training_texts_like_the_student(made: StepContext, tmp_path: Path):
    steps = {"compression": [spec(), ExportStep(step="export")]}
    bundle = compress(made.recipe.model_copy(update=steps), made.student, tmp_path / "bundle", {})
    assert bundle.provenance["facts"]["vocabulary"]["tokens"] < bundle.provenance["facts"]["vocabulary"]["of"]
    texts = [row.text for row in rows(made.recipe.data, "train")]
    served, reference = load_bundle(tmp_path / "bundle"), load_reference(made.student)
    np.testing.assert_allclose(served.scores(texts), reference.scores(texts), atol=1e-5)
    size = sum(path.stat().st_size for path in made.student.iterdir())
    assert sum(each.size for each in bundle.files.values()) < 0.9 * size

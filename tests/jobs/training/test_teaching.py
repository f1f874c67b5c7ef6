"""Teachers asked part by part, without a cluster; tests/jobs/training/test_outputs.py asks one through Ray Data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from configs.folder import GOES_ON, FolderError, commit, name_again, no_room
from configs.schema.distillation import StoredOutputs
from configs.schema.engine import Precision
from jobs.data.batches import collate
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Examples, Prepared, rows_of
from jobs.models import decoder as decoders
from jobs.models import encoder
from jobs.models.encoder import INPUTS, EncoderClassifier
from jobs.models.hidden_states import look_inside
from jobs.models.reference import write_reference
from jobs.training import teaching
from jobs.training.loss import kl, sampled_kl
from jobs.training.outputs import Vectors, hidden_column, read_logits, relations_column
from jobs.training.teaching import PART, Teach, collect, mean_log_probs, part_name, sampled
from serving.bundle import CHAT_TEMPLATE
from tests.faults.full_disk import files_of_at_most
from tests.faults.marks import fault
from tests.tiny.models import POSITIONS, VOCABULARY, decoder, encoder_classifier

ROWS_IN_ALL = 20
WANTED = StoredOutputs(hidden_layers=[1, 3], relation_layer=3)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Rows of random tokens, 14 to learn from and 6 to validate, in two shards."""
    chance = np.random.default_rng(0)
    ids = [chance.integers(5, VOCABULARY, chance.integers(2, POSITIONS)).tolist() for _ in range(ROWS_IN_ALL)]
    table = pa.table(
        {
            "split": ["train"] * 14 + ["validation"] * 6,
            "row": [*range(14), *range(6)],
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "type_ids": pa.array([[0] * len(each) for each in ids], pa.list_(pa.int8())),
            "length": pa.array([len(each) for each in ids], pa.int32()),
            "label": pa.array([0] * ROWS_IN_ALL, pa.int32()),
        }
    )

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        pq.write_table(table.slice(0, 9), aside / ROWS / "0.parquet")
        pq.write_table(table.slice(9), aside / ROWS / "1.parquet")
        return {"key": "rows", "labels": ["a"], "rows": {"train": 14, "validation": 6}}

    commit(tmp_path / "prepared", MANIFEST, fill)
    return Prepared.open(tmp_path / "prepared")


@pytest.fixture
def teacher(tmp_path: Path) -> EncoderClassifier:
    return saved(tmp_path / "teacher", seed=0)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "ROWS_PER_PART", 8)
    monkeypatch.setattr(teaching, "TOKENS_PER_PASS", 3 * POSITIONS)


def saved(folder: Path, seed: int) -> EncoderClassifier:
    model = encoder_classifier(layers=3, seed=seed)
    folder.mkdir()
    encoder.save(model, folder)
    return model


def ask(
    prepared: Prepared,
    parts: Path,
    names: dict[str, float],
    wanted: StoredOutputs,
    numbers: list[int],
    precision: Precision = "fp32",
) -> None:
    given = [(str(parts.parent / name), weight) for name, weight in names.items()]
    Teach(str(prepared.folder), str(parts), given, wanted.model_dump(), precision, 1)({"id": np.array(numbers)})


def gathered(parts: Path, folder: Path) -> Path:
    """The parts as the folder that students read."""

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        for part in parts.iterdir():
            (aside / ROWS / f"{part.name}.parquet").write_bytes((part / PART).read_bytes())
        return {}

    commit(folder, MANIFEST, fill)
    return folder


def test_what_is_stored_of_every_row_is_what_the_teacher_computes(
    prepared: Prepared, teacher: EncoderClassifier, tmp_path: Path
):
    ask(prepared, tmp_path / "parts", {"teacher": 1.0}, WANTED, [0, 1, 2])
    folder = gathered(tmp_path / "parts", tmp_path / "outputs")
    for split in ("train", "validation"):
        examples = prepared.examples(split)
        logits_NC = read_logits(folder, split)
        names = [*map(hidden_column, (1, 3)), relations_column(3)]
        vectors = Vectors.read(folder, split, names)
        for row in range(len(examples)):
            batch = collate(examples, np.array([row]), int(examples.lengths[row]))
            with torch.inference_mode():
                seen = look_inside(teacher, {name: batch[name] for name in INPUTS}, [1, 3], 3)
            expected_C = (seen.logits_BC[0] - seen.logits_BC[0].max()).numpy()
            np.testing.assert_allclose(logits_NC[row], expected_C, rtol=2e-3, atol=2e-3)
            length = int(examples.lengths[row])
            if split == "validation":  # which is compared by its logits alone
                assert not any(len(stored.values_PD) for stored in vectors)
                continue
            for stored, expected in zip(vectors, [*seen.hidden, torch.cat(seen.relations, dim=-1)], strict=True):
                (made,) = stored.padded(np.array([row]), length + 2, 1)
                np.testing.assert_allclose(made[:length], expected[0].numpy(), rtol=2e-3, atol=4e-3)
                assert not made[length:].any()


@pytest.mark.parametrize("precision", ["bf16_autocast", "bf16"])
def test_answers_in_16_bits_are_as_near_to_those_in_float32_as_16_bits_are_and_none_are_of_validation_rows(
    prepared: Prepared, teacher: EncoderClassifier, tmp_path: Path, precision: Precision
):
    precisions: tuple[Precision, ...] = ("fp32", precision)
    stored, judged = [], []
    for computed in precisions:
        ask(prepared, tmp_path / computed, {"teacher": 1.0}, WANTED, [0, 1, 2], computed)
        folder = gathered(tmp_path / computed, tmp_path / f"{computed} outputs")
        (hidden,) = Vectors.read(folder, "train", [hidden_column(3)])
        stored.append((read_logits(folder, "train").astype(np.float32), hidden.values_PD.astype(np.float32)))
        judged.append(read_logits(folder, "validation"))
    for whole, half in zip(*stored, strict=True):
        np.testing.assert_allclose(half, whole, rtol=0, atol=0.03 * whole.std())
        assert (half != whole).any()
    np.testing.assert_array_equal(*judged)


def test_answers_of_far_away_grades_are_stored_as_finite_numbers_that_name_the_same_grade(
    prepared: Prepared, tmp_path: Path
):
    """Squares of distances of 1,000 are no float16; a KL divergence from them would be nan."""
    model = EncoderClassifier(encoder_classifier(layers=1).encoder, "mean", [0.0, 500.0, 1000.0, 5000.0])
    (tmp_path / "teacher").mkdir()
    encoder.save(model, tmp_path / "teacher")
    ask(prepared, tmp_path / "parts", {"teacher": 1.0}, StoredOutputs(), [0, 1, 2], "bf16_autocast")
    stored_NC = read_logits(gathered(tmp_path / "parts", tmp_path / "outputs"), "train").astype(np.float32)
    examples = prepared.examples("train")
    batch = collate(examples, np.arange(len(examples)), int(examples.lengths.max()))
    with torch.inference_mode():
        logits_NC = encoder.load(tmp_path / "teacher")(**{name: batch[name] for name in INPUTS})
    assert np.isfinite(stored_NC).all() and (logits_NC.min(1).values - logits_NC.max(1).values < -1e6).all()
    np.testing.assert_array_equal(stored_NC.argmax(1), logits_NC.argmax(1).numpy())


def test_parts_survive_a_kill_while_they_are_put_together(
    prepared: Prepared, teacher: EncoderClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Moved into the folder instead, they would go with it."""
    ask(prepared, tmp_path / "parts", {"teacher": 1.0}, StoredOutputs(), [0])
    part = tmp_path / "parts" / part_name(0) / PART
    name_again(part, tmp_path / "linked")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    name_again(part, tmp_path / "copied")
    assert part.read_bytes() == (tmp_path / "linked").read_bytes() == (tmp_path / "copied").read_bytes()


def refuse(*_: Any) -> None:
    raise OSError("no links here")


def test_logits_alone_are_stored_where_nothing_else_is_wanted(
    prepared: Prepared, teacher: EncoderClassifier, tmp_path: Path
):
    ask(prepared, tmp_path / "parts", {"teacher": 1.0}, StoredOutputs(), [0])
    assert pq.read_schema(tmp_path / "parts" / part_name(0) / PART).names == ["split", "row", "logits"]


def test_whole_parts_stay_and_damaged_ones_are_made_again(
    prepared: Prepared, teacher: EncoderClassifier, tmp_path: Path
):
    parts = tmp_path / "parts"
    ask(prepared, parts, {"teacher": 1.0}, StoredOutputs(), [0, 1])
    whole, damaged = (parts / part_name(number) / PART for number in (0, 1))
    before, content = whole.stat().st_mtime_ns, damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    ask(prepared, parts, {"teacher": 1.0}, StoredOutputs(), [0, 1, 2])
    assert whole.stat().st_mtime_ns == before
    assert damaged.read_bytes() == content
    rows = sum(pq.read_metadata(part / PART).num_rows for part in parts.iterdir())
    assert rows == ROWS_IN_ALL


@fault("disk full")
@pytest.mark.parametrize("aside", [True, False])
def test_a_part_that_finds_no_room_leaves_those_before_and_is_made_when_there_is(
    prepared: Prepared, teacher: EncoderClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: bool
):
    """Control: written in its place and never looked at, what is left of a part would be taken for a whole one."""
    parts = tmp_path / "parts"
    ask(prepared, parts, {"teacher": 1.0}, WANTED, [0])
    first = parts / part_name(0) / PART
    before, limit = first.stat().st_mtime_ns, first.stat().st_size // 2
    told = Teach(str(prepared.folder), str(parts), [(str(tmp_path / "teacher"), 1.0)], WANTED.model_dump(), "fp32", 1)
    with monkeypatch.context() as patch, files_of_at_most(limit):
        if not aside:
            patch.setattr(teaching, "commit", in_place)
        said = told({"id": np.array([0, 1, 2])})
    assert sorted(each.name for each in parts.iterdir()) == [part_name(0), *([] if aside else [part_name(1)])]
    (trouble,) = set(said["trouble"])
    assert f"{part_name(1)}: not written: File too large; make room and run the same command again" in trouble
    if not aside:
        monkeypatch.setattr(teaching, "verify", lambda folder, name: None if folder.exists() else in_place(folder))
    ask(prepared, parts, {"teacher": 1.0}, WANTED, [0, 1, 2])
    assert first.stat().st_mtime_ns == before
    if aside:
        assert sum(pq.read_metadata(part / PART).num_rows for part in parts.iterdir()) == ROWS_IN_ALL
    else:
        assert list((parts / part_name(1)).iterdir()) == []  # pyarrow removes what it could not end


def in_place(folder: Path, *given: Any) -> None:
    """Stands where `commit` stands."""
    if not given:
        raise FolderError("none yet")
    folder.mkdir()
    try:
        given[1](folder)
    except OSError as error:
        raise FolderError(f"{folder}: not written: {no_room(error, folder)}; {GOES_ON}") from error


def test_several_teachers_are_averaged_by_weight(prepared: Prepared, teacher: EncoderClassifier, tmp_path: Path):
    second = saved(tmp_path / "second", seed=1)
    ask(prepared, tmp_path / "parts", {"teacher": 1.0, "second": 3.0}, StoredOutputs(), [0, 1, 2])
    stored_NC = np.array(read_logits(gathered(tmp_path / "parts", tmp_path / "outputs"), "train"), dtype=np.float32)
    stored_NC -= np.log(np.exp(stored_NC).sum(1, keepdims=True))  # less the largest, as they are stored
    examples = prepared.examples("train")
    batch = collate(examples, np.arange(len(examples)), int(examples.lengths.max()))
    with torch.inference_mode():
        one, two = (torch.softmax(model(**{name: batch[name] for name in INPUTS}), -1) for model in (teacher, second))
    np.testing.assert_allclose(
        np.exp(stored_NC.astype(np.float32)), ((one + 3 * two) / 4).numpy(), rtol=5e-3, atol=1e-3
    )


def test_the_mean_of_equal_teachers_is_their_own_distribution():
    logits_BC = torch.randn(3, 4)
    every = torch.stack([logits_BC, logits_BC + 7])
    torch.testing.assert_close(mean_log_probs(every, torch.tensor([0.2, 0.9])), F.log_softmax(logits_BC, dim=-1))


def expected_weights(stored: int, draws: int, log_probs_PV: torch.Tensor, times: int) -> torch.Tensor:
    """What `sampled` gives each token, on average."""
    torch.manual_seed(0)
    total_PV = torch.zeros_like(log_probs_PV)
    for _ in range(times):
        ids_PK, kept_PK = sampled(log_probs_PV, stored, draws)
        total_PV.scatter_add_(1, ids_PK, kept_PK.exp())
    return total_PV / times


def test_draws_give_every_token_its_probability_on_average():
    log_probs_PV = F.log_softmax(torch.randn(3, 30, generator=torch.Generator().manual_seed(1)), dim=-1)
    mean_PV = expected_weights(4, 2, log_probs_PV, times=4000)
    torch.testing.assert_close(mean_PV, log_probs_PV.exp(), rtol=0, atol=0.01)
    alone_PV = expected_weights(4, 0, log_probs_PV, times=1)
    assert float((alone_PV - log_probs_PV.exp()).abs().max()) > 0.03  # what no number of repetitions mends


def test_draws_give_the_gradient_of_the_whole_divergence_on_average():
    chance = torch.Generator().manual_seed(2)
    teacher_PV = F.log_softmax(torch.randn(2, 30, generator=chance), dim=-1)
    student_PV = torch.randn(2, 30, generator=chance, requires_grad=True)
    torch.manual_seed(0)
    drawn = [sampled_kl(student_PV, *sampled(teacher_PV, 4, 2)).sum() for _ in range(4000)]
    (mean_PV,) = torch.autograd.grad(torch.stack(drawn).mean(), student_PV)
    whole = kl(teacher_PV, F.log_softmax(student_PV, dim=-1)).sum()
    (expected_PV,) = torch.autograd.grad(whole, student_PV)
    torch.testing.assert_close(mean_PV, expected_PV, rtol=0, atol=0.01)


def test_where_all_tokens_are_stored_none_is_drawn():
    ids_PK, _ = sampled(F.log_softmax(torch.randn(2, 6), dim=-1), 9, 3)
    assert sorted(ids_PK[0].tolist()) == list(range(6))


COMPLETED = [[5, 6, 9, 9, 3], [7, 8, 9, 3], [5, 9, 3]]


def completions(tmp_path: Path, **facts: Any) -> Prepared:
    """Two rows to learn from and one to validate, of prompts and their completions."""
    ids, types = COMPLETED, [[0, 0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1]]
    table = pa.table(
        {
            "split": ["train", "train", "validation"],
            "row": [0, 1, 0],
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "type_ids": pa.array(types, pa.list_(pa.int8())),
            "length": pa.array(list(map(len, ids)), pa.int32()),
            "label": pa.array([0, 0, 0], pa.int32()),
        }
    )

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        pq.write_table(table, aside / ROWS / "0.parquet")
        for name in (TOKENIZER, *facts.values()):
            (aside / name).write_text(name)
        told = {"task": "generate", "labels": [], "pairs": False, "end": 3, "max_length": 12}
        return {"key": "rows", "rows": {"train": 2, "validation": 1}, **told, **facts}

    commit(tmp_path / "prepared", MANIFEST, fill)
    return Prepared.open(tmp_path / "prepared")


def test_rows_to_learn_from_are_completed_by_the_teacher_and_validation_rows_stay(tmp_path: Path):
    teacher, ids = decoder("llama", seed=3), COMPLETED
    decoders.save(teacher, tmp_path / "teacher")
    prepared = completions(tmp_path)
    ask(prepared, tmp_path / "parts", {"teacher": 1.0}, StoredOutputs(completions=True), [0])
    made = Examples.from_table(rows_of(tmp_path / "parts" / part_name(0) / PART, "train"))
    for row, prompt in enumerate(([5, 6], [7, 8])):
        (written,) = decoders.complete(teacher, [prompt], 11, 3)
        expected = [*prompt, *written, 3][:12]
        places = slice(*made.offsets[row : row + 2])
        assert made.ids[places].tolist() == expected
        assert made.types[places].tolist() == [0, 0] + [1] * (len(expected) - 2)
    assert rows_of(tmp_path / "parts" / part_name(0) / PART, "validation")["input_ids"].to_pylist() == [ids[2]]


def test_completions_are_prepared_rows_with_the_chat_template_that_worded_them(tmp_path: Path):
    teacher = decoder("llama", seed=3)
    decoders.save(teacher, tmp_path / "teacher")
    prepared = completions(tmp_path, chat_template=CHAT_TEMPLATE)
    wanted = StoredOutputs(completions=True)
    ask(prepared, tmp_path / "parts", {"teacher": 1.0}, wanted, [0])
    collect(tmp_path / "parts", tmp_path / "completions", prepared, "made", wanted)
    again = Prepared.open(tmp_path / "completions")
    assert again.key == "made"
    assert (again.folder / CHAT_TEMPLATE).read_text() == CHAT_TEMPLATE
    write_reference(tmp_path / "student", teacher, again, "student", {}, {})
    assert (tmp_path / "student" / CHAT_TEMPLATE).read_text() == CHAT_TEMPLATE


@pytest.mark.parametrize("known", [VOCABULARY, 40, 12])
def test_a_teacher_says_nothing_of_rows_of_its_table_that_are_no_tokens(known: int, tmp_path: Path):
    decoders.save(decoder("llama", seed=3), tmp_path / "teacher")
    words = WordLevel({f"<{number}>": number for number in range(known)}, "<0>")
    Tokenizer(words).save(str(tmp_path / "teacher" / TOKENIZER))
    ask(completions(tmp_path), tmp_path / "parts", {"teacher": 1.0}, StoredOutputs(tokens=VOCABULARY), [0])
    stored = pq.read_table(tmp_path / "parts" / part_name(0) / PART)
    for ids, log_probs in zip(stored["ids"].to_pylist(), stored["log_probs"].to_pylist(), strict=True):
        for place, scores in zip(ids, log_probs, strict=True):
            assert sorted(place) == list(range(known))
            assert sum(np.exp(scores)) == pytest.approx(1.0, abs=1e-2)

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from cluster import session
from cluster.record import Cluster
from configs.folder import FolderError, commit
from configs.loader import load
from configs.schema.recipe import Recipe
from jobs.data.batches import NO_TARGET, collate, collate_packs
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Examples, Prepared, PreparedSplit
from jobs.data.tokenise import tokenise_completions, train_tokenizer
from jobs.models import decoder as decoders
from jobs.models import encoder
from jobs.models.reference import write_reference
from jobs.training.outputs import TokenOutputs, Vectors, read_logits
from jobs.training.teaching import PART, Teach
from tests.faults.marks import fault
from tests.tiny.models import POSITIONS, decoder
from tests.tiny.ways import prepare, teach

PROMPTS = [("red shoe", "a shoe in red"), ("blue hat", "hats, blue ones, for you"), ("tea", "tea")]
SPLITS: tuple[PreparedSplit, ...] = ("train", "validation")


class Taught:
    """Prepared rows, a teacher with a new head, and where its outputs lie."""

    def __init__(self, home: Path, shop: Path) -> None:
        self.recipe = load(Recipe, shop / "recipe.yaml", ["engine.precision=fp32"]).on_driver(home, shop)
        self.prepared: Prepared = prepare(self.recipe)
        self.home = Path(self.recipe.output or "")
        self.new_teacher(seed=0)

    def new_teacher(self, seed: int) -> None:
        torch.manual_seed(seed)
        spec = self.recipe.teacher.model_copy(update={"pooling": "mean"})
        model = encoder.pretrained(spec, self.prepared.labels)
        with torch.no_grad():
            model.encoder.get_parameter("embeddings.word_embeddings.weight").mul_(50)  # words weigh more than places
            model.head.weight.normal_()
        write_reference(self.home / "teacher", model, self.prepared, "tiny", {}, {})

    def teach(self) -> Path:
        return teach(self.recipe, self.prepared)

    def online(self, split: PreparedSplit) -> np.ndarray:
        """Logits without padding: rows of one length at a time."""
        model, examples = encoder.load(self.home / "teacher"), self.prepared.examples(split)
        names = ("input_ids", "attention_mask", "token_type_ids")
        logits = np.zeros((len(examples), len(self.prepared.labels)), dtype=np.float32)
        with torch.inference_mode():
            for length in np.unique(examples.lengths):
                (rows,) = np.nonzero(examples.lengths == length)
                batch = collate(examples, rows, int(length))
                logits[rows] = model(**{name: batch[name] for name in names}).numpy()
        return logits


@pytest.fixture(scope="module")
def taught(on_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, shop_folder: Path) -> Taught:
    session.connect()
    return Taught(tmp_path_factory.mktemp("outputs"), shop_folder)


@pytest.fixture(scope="module")
def folder(taught: Taught) -> Path:
    return taught.teach()


def assert_stored_equals_online(taught: Taught, folder: Path) -> None:
    for split in SPLITS:
        stored, online = read_logits(folder, split), taught.online(split)
        assert stored.dtype == np.float16
        np.testing.assert_allclose(stored, online - online.max(1, keepdims=True), rtol=2e-3, atol=2e-3)
        assert online.std(0).min() > 0.2  # rows differ, so that an order lost would show


def times(folder: Path) -> Iterator[tuple[Path, int]]:
    return ((path, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")))


def test_stored_outputs_are_those_of_the_teacher_in_the_order_of_the_rows(taught: Taught, folder: Path):
    assert_stored_equals_online(taught, folder)


def test_outputs_of_the_same_teacher_and_rows_are_found_not_made_again(taught: Taught, folder: Path):
    before = list(times(folder))
    assert taught.teach() == folder
    assert list(times(folder)) == before


class WithoutRoom(Teach):
    """Its process can write no file as large as a part."""

    def __init__(self, *told: Any) -> None:
        super().__init__(*told)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


@fault("disk full", slow=True)
def test_a_teacher_that_finds_no_room_is_one_line_and_the_same_again_goes_on(
    taught: Taught, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    before = list(times(folder))
    taught.new_teacher(seed=2)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.training.teaching.Teach", WithoutRoom)
        with pytest.raises(FolderError, match=r"^\S+part-00000: not written: File too large; make room .+$"):
            taught.teach()
    assert list(times(folder)) == before
    assert_stored_equals_online(taught, taught.teach())


class Asked(Exception):
    """The teacher was asked."""


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that says nothing: whoever asks it is stopped."""

    def ask(*_: Any, **__: Any) -> None:
        raise Asked

    monkeypatch.setattr("jobs.training.teaching.write_outputs", ask)


@pytest.mark.usefixtures("silent")
def test_damaged_outputs_are_made_again(taught: Taught, folder: Path, caplog: pytest.LogCaptureFixture):
    shard = next((folder / ROWS).glob("*.parquet"))
    content = shard.read_bytes()
    shard.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(Asked):
        taught.teach()
    shard.write_bytes(content)
    assert f"{shard.name}: SHA-256 differs" in caplog.text


@pytest.mark.usefixtures("silent")
def test_a_new_teacher_is_asked_anew(taught: Taught, folder: Path):
    assert taught.teach() == folder
    taught.new_teacher(seed=1)
    with pytest.raises(Asked):
        taught.teach()


def test_damaged_outputs_are_refused_by_name(taught: Taught, folder: Path):
    shard = next((folder / ROWS).glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(FolderError, match=rf"{shard.name}: \d+ bytes, the manifest says"):
        read_logits(folder, "train")


def test_outputs_without_a_manifest_do_not_exist(taught: Taught, folder: Path, tmp_path: Path):
    (tmp_path / ROWS).mkdir()
    with pytest.raises(FolderError, match=MANIFEST):
        read_logits(tmp_path, "train")


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer([text for prompt in PROMPTS for text in prompt], 300)


def completions(words: Tokenizer) -> pa.Table:
    prompts, texts = zip(*PROMPTS, strict=True)
    table = {"split": ["train"] * len(prompts), "row": range(len(prompts)), "text": prompts, "label": texts}
    table["pair"] = pa.nulls(len(prompts), pa.string())
    return tokenise_completions(pa.table(table), words.to_str(), end=0, max_length=POSITIONS)


@pytest.mark.parametrize("stored", [4, 1000])
def test_the_likeliest_tokens_of_a_decoder_are_stored_for_every_place(words: Tokenizer, stored: int, tmp_path: Path):
    table = completions(words)
    teacher = decoder("llama", vocabulary=words.get_vocab_size())
    decoders.save(teacher, tmp_path / "teacher")
    words.save(str(tmp_path / "teacher" / TOKENIZER))
    (tmp_path / "prepared" / ROWS).mkdir(parents=True)
    pq.write_table(table, tmp_path / "prepared" / ROWS / "0.parquet")
    told = Teach(str(tmp_path / "prepared"), "", [(str(tmp_path / "teacher"), 1.0)], {"tokens": stored}, "fp32", 1)

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        facts = told.fill(0, aside)
        (aside / PART).rename(aside / ROWS / "0.parquet")
        return facts

    commit(tmp_path / "outputs", MANIFEST, fill)
    outputs = TokenOutputs.read(tmp_path / "outputs", "train")
    examples = Examples.from_table(table)
    packs = [np.array([1, 0]), np.array([2])]
    batch = collate_packs(examples, packs, int(examples.lengths[:2].sum()))
    beside = outputs.beside(batch["target"], packs)
    wanted = batch["target"] != NO_TARGET
    with torch.inference_mode():
        logits_NV = teacher(batch["input_ids"], batch["position_ids"])[wanted]
    best = F.log_softmax(logits_NV, dim=-1).topk(min(stored, words.get_vocab_size()))
    assert beside["teacher_ids"].shape[-1] == best.indices.shape[-1]
    torch.testing.assert_close(beside["teacher_log_probs"][wanted], best.values, rtol=2e-3, atol=2e-3)
    if stored == 4:
        assert torch.equal(beside["teacher_ids"][wanted], best.indices)
    assert not beside["teacher_log_probs"][~wanted].any()


def test_the_first_and_the_last_token_stand_beside_their_place_in_any_order_of_rows():
    """Rows of two, none and one places, packed the other way round; blank rows get nothing."""
    last = 2**31 - 1
    ids = Vectors(np.array([[0, last], [last, 0], [7, 0]], np.int32), np.array([0, 2, 2, 3]))
    log_probs = Vectors(np.array([[-1, -2], [-3, -4], [-5, -6]], np.float16), ids.offsets)
    target_BL = torch.tensor([[5, NO_TARGET, 0, last], [NO_TARGET] * 4])
    beside = TokenOutputs(ids, log_probs).beside(target_BL, [np.array([2, 1, 0])])
    assert beside["teacher_ids"].tolist() == [[[7, 0], [0, 0], [0, last], [last, 0]], [[0, 0]] * 4]
    assert beside["teacher_log_probs"].tolist() == [[[-5, -6], [0, 0], [-1, -2], [-3, -4]], [[0, 0]] * 4]
    assert ids.padded(np.array([2, 1, 0]), 3, 4).tolist() == [
        [[7, 0], [0, 0], [0, 0]],
        [[0, 0], [0, 0], [0, 0]],
        [[0, last], [last, 0], [0, 0]],
        [[0, 0], [0, 0], [0, 0]],
    ]

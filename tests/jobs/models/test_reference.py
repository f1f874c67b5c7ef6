from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from configs.folder import FolderError
from configs.loader import UsageError
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.models.reference import check_fits, made_from, read_reference, write_reference
from jobs.preflight import check_given
from tests.tiny.models import CLASSES, encoder_classifier

LABELS = [f"intent {number}" for number in range(CLASSES)]


def rows(folder: Path, labels: list[str], words: str = "a b c", max_length: int = 16) -> Prepared:
    """A prepared folder as far as a reference bundle reads it."""
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words.split())}, "a"))
    tokenizer.enable_truncation(max_length)
    tokenizer.save(str(folder / TOKENIZER))
    return Prepared(
        folder, {"key": "k", "labels": labels, "pairs": False, "max_length": max_length, "task": "classify"}
    )


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """It learned from rows with `LABELS`."""
    learned = rows(tmp_path / "learned", LABELS)
    write_reference(tmp_path / "teacher", encoder_classifier(), learned, "tiny", {}, {})
    return tmp_path / "teacher"


@pytest.mark.parametrize("attributes", [True, False])
def test_a_bundle_knows_whether_its_texts_are_attributes(tmp_path: Path, attributes: bool):
    learned = rows(tmp_path / "learned", LABELS)
    learned.manifest["attributes"] = attributes
    made = write_reference(tmp_path / "teacher", encoder_classifier(), learned, "tiny", {}, {})
    assert made.attributes == attributes


def check(teacher: Path, prepared: Prepared) -> None:
    check_fits(teacher, read_reference(teacher, "nobody"), prepared)


def test_a_teacher_fits_rows_with_its_classes_and_tokens_at_any_length(teacher: Path, tmp_path: Path):
    check(teacher, rows(tmp_path / "same", LABELS))
    check(teacher, rows(tmp_path / "longer", LABELS, max_length=32))


@pytest.mark.parametrize("labels", [LABELS[::-1], LABELS[:-1], [*LABELS, "one more"]], ids=["order", "fewer", "more"])
def test_a_teacher_of_other_classes_is_refused(teacher: Path, tmp_path: Path, labels: list[str]):
    with pytest.raises(FolderError, match="learned other classes"):
        check(teacher, rows(tmp_path / "others", labels))


def test_a_teacher_of_another_tokenizer_is_refused(teacher: Path, tmp_path: Path):
    with pytest.raises(FolderError, match="has another tokenizer"):
        check(teacher, rows(tmp_path / "others", LABELS, words="b a c"))


def test_a_damaged_bundle_is_made_again_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    learned = rows(tmp_path / "learned", LABELS)
    write_reference(tmp_path / "teacher", encoder_classifier(), learned, "tiny", {}, {"key": "k"})
    assert made_from(tmp_path / "teacher", "k") and not made_from(tmp_path / "teacher", "other")
    weights = bytearray((tmp_path / "teacher" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "teacher" / "model.safetensors").write_bytes(weights)
    assert not made_from(tmp_path / "teacher", "k")
    assert "teacher is made again: " in caplog.text and "SHA-256 differs" in caplog.text


def test_a_folder_that_the_user_named_and_that_holds_no_bundle_is_named_by_its_field(teacher: Path, tmp_path: Path):
    check_given("bundle", None)
    check_given("bundle", str(teacher))
    check_given("bundle", "models:/x@champion", uri=True)
    for given, reason in ((tmp_path / "typo", "no such folder"), (tmp_path, "holds no bundle")):
        with pytest.raises(UsageError, match=rf"^teacher\.bundle: {given}: {reason}$"):
            check_given("teacher.bundle", str(given))
    with pytest.raises(UsageError, match="no such folder"):
        check_given("bundle", "models:/x@champion")

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.folder import FolderError
from serving.bundle import (
    CARD,
    MANIFEST,
    BundleError,
    bundle_bytes,
    bundle_digest,
    read_bundle,
    with_metrics,
    write_bundle,
)
from tests.faults.full_disk import files_of_at_most
from tests.faults.marks import fault
from tests.tiny.bundles import LABELS, write_tiny_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit_manifest(folder: Path, **fields: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **fields}))


def add_listed_file(folder: Path, name: str, content: bytes) -> None:
    """A bundle that holds `content` and states its digest: only its content can give it away."""
    fields = json.loads((folder / MANIFEST).read_text())
    files = {each: (folder / each).read_bytes() for each in fields.pop("files")} | {name: content}

    def fill(aside: Path) -> None:
        for each, kept in files.items():
            (aside / each).write_bytes(kept)

    write_bundle(folder, fields, fill)


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x")
    return buffer.getvalue()


def test_a_written_bundle_reads_back_equal(folder: Path):
    bundle = read_bundle(folder)
    assert (bundle.name, bundle.labels, bundle.max_length) == ("tiny", LABELS, 12)
    assert bundle_bytes(bundle) == sum(path.stat().st_size for path in folder.iterdir() if path.name != MANIFEST)


def test_metrics_are_added_to_a_bundle_whose_files_stay(folder: Path):
    before, digest = read_bundle(folder), bundle_digest(folder)
    after = with_metrics(folder, {"p95_ms": 0.4})
    assert after.metrics == {"accuracy": 0.9, "p95_ms": 0.4}
    assert after.files == before.files
    assert read_bundle(folder) == after
    assert bundle_digest(folder) != digest


def test_a_card_is_made_of_the_new_metrics_and_counts_for_nothing_in_the_size(folder: Path):
    before = read_bundle(folder)
    after = with_metrics(folder, {"p95_ms": 0.4}, lambda bundle: f"# {bundle.name}: {bundle.metrics['p95_ms']} ms\n")
    assert (folder / CARD).read_text(encoding="utf-8") == "# tiny: 0.4 ms\n"
    assert after.files.keys() == before.files.keys() | {CARD}
    assert read_bundle(folder) == after
    assert bundle_bytes(after) == bundle_bytes(before)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_damaged_bundle_is_given_no_new_digests(folder: Path):
    (folder / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"model\.onnx: 7 bytes"):
        with_metrics(folder, {"p95_ms": 0.4})


def test_metrics_that_are_no_numbers_leave_the_bundle_as_it_was(folder: Path):
    digest = bundle_digest(folder)
    with pytest.raises(BundleError, match=r"metrics\.p95_ms"):
        with_metrics(folder, {"p95_ms": float("nan")})
    assert bundle_digest(folder) == digest


def test_a_folder_that_was_never_written_whole_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match=r"bundle\.json: no such file"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:], lambda _: b""]
)
@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_damaged_file_is_refused_by_name(folder: Path, name: str, damage):
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(BundleError, match=name):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"format_version": 3}, "format version 3; this program reads 1 and 2"),
        ({"format_version": 2}, "format version 2 with kind None"),
        ({"labels": ["one"]}, "labels"),
        ({"labels": ["one", "one"]}, "labels repeat"),
        ({"inputs": ["pixels"]}, "pixels"),
        ({"surprise": 1}, "surprise"),
        ({"model": "../model.onnx"}, "leaves the folder"),
        ({"model": "other.onnx"}, "lists no digest"),
        ({"files": {"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, "leaves the folder"),
        ({"files": []}, "lists no files"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_in_one_line(folder: Path, fields: dict, reason: str):
    edit_manifest(folder, **fields)
    with pytest.raises(BundleError, match=reason) as refused:
        read_bundle(folder)
    assert MANIFEST in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_the_manifest_does_not_list_is_refused(folder: Path):
    (folder / "extra.txt").write_text("hello")
    with pytest.raises(BundleError, match=r"extra\.txt: not in the manifest"):
        read_bundle(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path):
    (folder / "model.onnx").rename(tmp_path / "model.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        read_bundle(folder)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_whatever_its_name(folder: Path, protocol: int):
    with pytest.raises(BundleError, match=rf"notes\.txt: starts as a pickle of protocol {protocol}"):
        add_listed_file(folder, "notes.txt", pickle.dumps({"a": 1}, protocol=protocol))


def test_a_zip_that_holds_a_pickle_is_refused(folder: Path):
    with pytest.raises(BundleError, match=r"weights\.bin: a zip archive that holds the pickle 'model/data\.pkl'"):
        add_listed_file(folder, "weights.bin", zipped("model/data.pkl"))


def test_a_pickle_listed_by_another_writer_is_refused_on_reading(folder: Path):
    from configs.folder import digest_file

    content = pickle.dumps([1])
    (folder / "x.bin").write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    stated = {"bytes": len(content), "sha256": digest_file(folder / "x.bin")}
    edit_manifest(folder, files={**files, "x.bin": stated})
    with pytest.raises(BundleError, match=r"x\.bin: starts as a pickle"):
        read_bundle(folder)


def test_safetensors_whose_header_length_looks_like_a_pickle_is_accepted(folder: Path):
    header = json.dumps({"__metadata__": {}}).encode().ljust(0x380)
    add_listed_file(folder, "model.safetensors", struct.pack("<Q", len(header)) + header)
    assert "model.safetensors" in read_bundle(folder).files


def test_a_bundle_that_names_a_model_nobody_wrote_does_not_come_to_be(tmp_path: Path):
    fields = {
        "name": "t",
        "task": "classify",
        "labels": LABELS,
        "runtime": "onnxruntime",
        "model": "m",
        "max_length": 8,
    }
    with pytest.raises(BundleError, match="not written, though the bundle names it"):
        write_bundle(tmp_path / "bundle", {**fields, "inputs": ["input_ids"]}, lambda aside: None)
    assert list(tmp_path.iterdir()) == []


@fault("disk full")
def test_a_bundle_that_finds_no_room_leaves_the_older_one_and_is_made_when_there_is(folder: Path):
    before = bundle_digest(folder)
    with files_of_at_most(600), pytest.raises(FolderError, match=r"bundle: not written: File too large; make room"):
        write_tiny_bundle(folder, seed=1)
    read_bundle(folder)
    assert bundle_digest(folder) == before and [each.name for each in folder.parent.iterdir()] == [folder.name]
    write_tiny_bundle(folder, seed=1)
    read_bundle(folder)
    assert bundle_digest(folder) != before


@fault("disk full")
def test_a_bundle_written_in_its_place_would_be_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def in_place(made: Path, manifest: str, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        return fill(made)

    monkeypatch.setattr("configs.folder.commit", in_place)
    with files_of_at_most(600), pytest.raises(Exception, match="File too large"):  # the tokenizer's own kind of error
        write_tiny_bundle(folder, seed=1)
    with pytest.raises(BundleError, match=r"damaged|bytes"):
        read_bundle(folder)

from pathlib import Path

import pytest

from configs.schema.recipe import absolute
from tests.configs.schema.recipes import recipe, refusal


def test_an_output_elsewhere_than_a_folder_is_refused():
    assert "mounted file system" in refusal(output="s3://bucket/output")


def test_paths_become_absolute_on_the_driver_outputs_under_home_and_sources_under_the_folder(tmp_path: Path):
    home, folder = tmp_path / "home", tmp_path / "submitted"
    made = recipe(
        data={"train": "data/train.csv", "validation": "/shared/val.parquet", "test": None, "unlabelled": "log.csv"},
        teacher={"model": "models/teacher/v1", "bundle": "old/bundle"},
        student={"kind": "pretrained", "model": "models/student/v1"},
        bundle="some/bundle",
    ).on_driver(home, folder)
    assert made.output == str(home / "intent")
    assert made.data.train == str(folder / "data/train.csv")
    assert made.data.validation == "/shared/val.parquet"
    assert made.data.test is None
    assert made.data.unlabelled == str(folder / "log.csv")
    assert made.teacher.model == str(folder / "models/teacher/v1")
    assert made.teacher.bundle == str(folder / "old/bundle")
    assert made.student.model == str(folder / "models/student/v1")
    assert made.bundle == str(folder / "some/bundle")


def test_an_output_of_its_own_stays_under_home_unless_it_is_absolute(tmp_path: Path):
    assert recipe(output="runs/a").on_driver(tmp_path, tmp_path).output == str(tmp_path / "runs/a")
    assert recipe(output="/shared/a").on_driver(tmp_path, tmp_path).output == "/shared/a"


def test_being_on_the_driver_twice_changes_nothing(tmp_path: Path):
    once = recipe(data={"train": "a.csv"}, output="b").on_driver(tmp_path / "home", tmp_path)
    assert once.on_driver(tmp_path / "elsewhere", tmp_path / "other") == once


@pytest.mark.parametrize(
    "source",
    [
        "embedded:shop",
        "https://example.org/train.csv",
        "s3://bucket/train.parquet",
        "package:module/folder",
        "models:/intent@champion",
        "owner/name",
        "owner/name@main",
        "bert-base-uncased",
    ],
)
def test_what_is_no_local_path_stays_as_it_is(tmp_path: Path, source: str):
    assert absolute(source, tmp_path) == source


@pytest.mark.parametrize("source", ["train.jsonl", "data/train.csv.gz", "./owner/name", "a/b/c", "~x/y", "../x"])
def test_what_looks_like_a_path_becomes_absolute(tmp_path: Path, source: str):
    assert absolute(source, tmp_path) == str(tmp_path / source)


def test_a_folder_that_exists_is_not_taken_for_a_hub_id(tmp_path: Path):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert absolute("owner/name", tmp_path) == str(tmp_path / "owner" / "name")


def test_a_bundle_is_never_a_hub_id(tmp_path: Path):
    assert absolute("owner/name", tmp_path, may_be_id=False) == str(tmp_path / "owner/name")

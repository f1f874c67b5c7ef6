from __future__ import annotations

import pytest

from configs.shown_urls import shown_urls, shown_urls_in

SIGNED = "https://host/rows.jsonl.gz?X-Amz-Signature=abc%2F&X-Amz-Date=2026-01-01T10:00:00Z"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (SIGNED, "https://host/rows.jsonl.gz?…"),
        ("https://user:secret@host:8443/rows.csv", "https://host:8443/rows.csv"),
        ("https://user:s@cret@host/rows.csv?token=x", "https://host/rows.csv?…"),
        ("s3://key:secret@bucket/rows.parquet", "s3://bucket/rows.parquet"),
        ("simplecache::https://user:secret@host/rows.csv", "simplecache::https://host/rows.csv"),
        ("zip://rows.csv::https://user:secret@host/rows.zip?sig=x", "zip://rows.csv::https://host/rows.zip?…"),
        ("https://host/rows.csv", "https://host/rows.csv"),
        ("/home/me@work/rows?.csv", "/home/me@work/rows?.csv"),
        ("owner/name@v1.0", "owner/name@v1.0"),
        ("embedded:shop", "embedded:shop"),
    ],
)
def test_an_address_is_shown_without_its_user_and_its_query(source: str, shown: str):
    assert shown_urls(source) == shown
    assert shown_urls(shown) == shown


def test_a_message_keeps_its_words_around_an_address():
    said = shown_urls(f"data.train: {SIGNED}: line 7: 403, url=URL('{SIGNED}'), was it https://host/rows.csv? No")
    expected = "https://host/rows.jsonl.gz?…"
    assert said == f"data.train: {expected}: line 7: 403, url=URL('{expected}'), was it https://host/rows.csv? No"


def test_of_a_recipe_every_text_is_shown_so():
    told = {"data": {"train": SIGNED, "test": None}, "urls": [SIGNED, 1]}
    assert shown_urls_in(told) == {"data": {"train": shown_urls(SIGNED), "test": None}, "urls": [shown_urls(SIGNED), 1]}

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.schema.recipe import Recipe
from tests.configs.schema.recipes import recipe, refusal

COLUMN = {"column": "response"}


def test_there_are_no_replies_unless_a_recipe_names_their_column():
    assert recipe().reply.column is None
    asked = recipe(reply=COLUMN | {"source": "auto", "decoder": "d", "fields": ["order"], "min_right": 0.9}).reply
    assert (asked.source, asked.fields, asked.min_right) == ("auto", ["order"], 0.9)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"fields": ["order"]}, "fields: column is none, so there are no replies"),
        (COLUMN | {"decoder": "d"}, "decoder: source='template' asks no decoder; set source=decoder or auto"),
        (COLUMN | {"messages": 3}, "messages: source='template' asks no decoder"),
        (COLUMN | {"source": "auto"}, "decoder: none: source='auto' needs the bundle of a decoder"),
        (COLUMN | {"fields": ["a", "a"]}, "fields: 'a': it is the column of the replies, or given twice"),
        (COLUMN | {"fields": ["response"]}, "fields: 'response': it is the column of the replies"),
        (COLUMN | {"fields": ["a}}"]}, "fields: 'a}}': cannot be the name of a placeholder"),
        ({"column": "label"}, "reply.column: 'label': is an input or the label"),
        (COLUMN | {"fields": ["text"]}, "reply.fields: 'text': is an input or the label"),
    ],
)
def test_replies_that_cannot_be_are_refused(reply: dict[str, Any], reason: str):
    assert refusal(reply=reply).startswith(reason)


def test_a_task_without_classes_has_no_replies():
    assert "reply.column: 'response': task 'generate' does not use it" in refusal(
        task="generate", reply=COLUMN, compression=[{"step": "export"}]
    )


def test_a_decoder_is_a_folder_below_the_submitted_one_or_a_model(tmp_path: Path):
    def decoder(given: str) -> str | None:
        asked: Recipe = recipe(reply=COLUMN | {"source": "decoder", "decoder": given})
        return asked.on_driver(tmp_path / "home", tmp_path).reply.decoder

    assert decoder("made/decoder") == str(tmp_path / "made/decoder")
    assert decoder("models:/writer@champion") == "models:/writer@champion"

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema.models import TAKES, StudentSpec, TeacherSpec

GIVEN: dict[str, Any] = {"hidden": 64, "heads": 4, "feed_forward": 100, "kernel": 5, "model": "a", "pooling": "cls"}


@pytest.mark.parametrize("kind", TAKES)
@pytest.mark.parametrize("name", GIVEN)
def test_a_kind_of_student_refuses_what_it_does_not_use(kind: str, name: str):
    fields = {"kind": kind, "model": "a"} if kind == "pretrained" else {"kind": kind}
    given = fields | {name: GIVEN[name]}
    if name in TAKES[kind]:
        assert getattr(StudentSpec.model_validate(given), name) == GIVEN[name]
    else:
        with pytest.raises(ValidationError, match=rf"{name}=.*: for kind \w+.*, this one is '{kind}'; leave it out"):
            StudentSpec.model_validate(given)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"kind": "conv", "layers": [0, 1]},
            "layers=[0, 1]: kind 'conv' takes no layers of the teacher; give a number",
        ),
        ({"kind": "new", "layers": [0]}, "layers=[0]: kind 'new' takes no layers of the teacher"),
        ({"kind": "conv", "kernel": 4}, "kernel=4: has no middle; give an odd number"),
        ({"hidden": 100, "heads": 3}, "hidden=100 / heads=3: a whole number is needed"),
        ({"kind": "pretrained"}, "kind='pretrained': which model? give student.model"),
        ({"adapter": {"rank": 4}, "share_layers": True}, "adapter with share_layers=true: one pair would stand in all"),
        ({"kind": "new", "adapter": {"rank": 4}}, "for kind layers or pretrained, this one is 'new'; leave it out"),
        ({"kind": "pretrained", "model": "a", "layers": 2}, "layers=2: for kind layers or new or conv, this one is"),
    ],
    ids=str,
)
def test_a_student_that_cannot_be_is_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValidationError) as refused:
        StudentSpec.model_validate(fields)
    assert said in refused.value.errors()[0]["msg"]


def test_a_student_survives_its_own_dump():
    for fields in ({"kind": "conv", "hidden": 8}, {"kind": "pretrained", "model": "a"}, {"hidden": 8, "heads": 2}):
        spec = StudentSpec.model_validate(fields)
        assert StudentSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({}, {"kind": "layers", "layers": 3, "share_layers": False}),
        ({"layers": [0, 2], "hidden": 64}, {"kind": "layers", "layers": [0, 2], "hidden": 64, "share_layers": False}),
        ({"kind": "conv", "layers": 1}, {"kind": "conv", "layers": 1, "kernel": 3}),
        ({"kind": "pretrained", "model": "a"}, {"kind": "pretrained", "model": "a", "pooling": "auto"}),
    ],
    ids=str,
)
def test_what_a_student_took_is_told_without_what_its_kind_does_not_use(fields: dict[str, Any], taken: dict[str, Any]):
    assert StudentSpec.model_validate(fields).taken() == taken


def test_new_weights_have_no_adapter():
    with pytest.raises(ValidationError, match=r"adapter: model='new:llama': its new weights would stay as they are"):
        TeacherSpec.model_validate({"model": "new:llama", "adapter": {"rank": 4}})


@pytest.mark.parametrize(
    "adapter", [{"rank": 0}, {"alpha": 0}, {"modules": []}, {"modules": [""]}, {"modules": "some"}]
)
def test_an_adapter_that_cannot_be_is_refused(adapter: dict[str, Any]):
    with pytest.raises(ValidationError, match=r"teacher|adapter"):
        TeacherSpec.model_validate({"model": "a", "adapter": adapter})

from __future__ import annotations

import pytest

from serving.labelling import LabelQuestion
from serving.questions import read_question
from serving.service import Refused

SECRET = "my-card-is-4111"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ('{"inputs": ["my-card-is-4111"], "scores": NaN}', "the body holds NaN or Infinity, which are no JSON"),
        ('{"inputs": [{"price": -Infinity}]}', "the body holds NaN or Infinity, which are no JSON"),
        ('{"inputs": [{"price": 1e999}]}', "the body holds a number too large for a double"),
        ('{"inputs": [{"price": 9223372036854775808}]}', "the body holds a whole number of more than 64 bits"),
        (f'{{"inputs": [{{"price": -{"9" * 5000}}}]}}', "the body holds a whole number of more than 64 bits"),
        ('{"inputs": ["a"], "inputs": ["my-card-is-4111"]}', "the body holds a key twice"),
        ('{"inputs": [{"my-card-is-4111": 1, "my-card-is-4111": 2}]}', "the body holds a key twice"),
        (f'{{"inputs": [{"[" * 30000}{"]" * 30000}]}}', "the body is not JSON in UTF-8: line 1 column"),
        ('{"inputs": ["\\ud800"]}', "the body is not JSON in UTF-8: line 1 column"),
        ('{"inputs": ["a"]', "the body is not JSON in UTF-8: line 1 column"),
    ],
)
def test_a_body_that_could_be_read_in_two_ways_is_refused_without_a_word_of_it(body: str, detail: str):
    with pytest.raises(Refused) as refused:
        read_question(body.encode(), LabelQuestion, 4)
    assert refused.value.status_code == 400 and refused.value.detail.startswith(detail)
    assert SECRET not in refused.value.detail


def test_usual_numbers_and_texts_pass():
    body = '{"inputs": [{"price": 9223372036854775807, "inch": 1.5e300}, "\\ud83d\\ude42"], "scores": true}'
    question = read_question(body.encode(), LabelQuestion, 4)
    assert question.inputs == [{"price": 2**63 - 1, "inch": 1.5e300}, "\U0001f642"] and question.scores

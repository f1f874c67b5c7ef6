from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from cluster.session import JobError
from jobs.models.items import ItemSizes, NextItems
from jobs.tasks.behave import graph
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.examples import collate, seen
from jobs.tasks.behave.graph import RankedItems, export_ranked
from jobs.tasks.behave.purchase_head import PurchaseHead
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.scoring import scorer, vectors
from jobs.tasks.behave.splits import Question

LETTERS = Catalogue("abcdefghijklmnop")
HISTORIES = [
    History("1", tuple("abca"), (1.0, 1.0, 2.0, 3.0)),
    History("2", ()),
    History("3", ("p",)),
    History("4", tuple("abcdefghijk")),
]
LISTED = 5
HEAD = PurchaseHead(np.linspace(-1, 1, 11), 0.25)


@pytest.fixture(scope="module")
def model() -> NextItems:
    torch.manual_seed(0)
    made = NextItems(ItemSizes(items=16, hidden=8, layers=2, heads=2, max_length=8, dropout=0.3))
    with torch.no_grad():
        made.age.normal_()
        made.bias.normal_()
    return made.eval()


@pytest.fixture(scope="module")
def file(model: NextItems, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_ranked(model, LISTED, made, HEAD)
    return made


@pytest.fixture(scope="module")
def session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


CLOCK = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def asked(
    session: onnxruntime.InferenceSession, histories: list[History], exclude: list[list[int]] | None = None
) -> Any:
    """What the graph says of histories; `exclude` are item numbers."""
    batch = collate([seen(each, LETTERS, 8) for each in histories])
    barred = np.zeros((len(histories), max(map(len, exclude or [[0]]))), dtype=np.int64)
    for row, numbers in enumerate(exclude or []):
        barred[row, : len(numbers)] = np.array(numbers, dtype=np.int64) + 1
    lengths = batch["ends"].int().argmax(1) + 1
    feed = {
        "input_ids": batch["input_ids"].numpy(),
        "position_ids": batch["position_ids"].numpy(),
        "lengths": lengths.numpy(),
        "exclude": barred,
        "clock": CLOCK[: len(histories)],
    }
    return session.run(["items", "probabilities", "purchase"], feed)


def test_a_graph_ranks_as_the_model(model: NextItems, session: onnxruntime.InferenceSession):
    items_BK, probabilities_BK, _ = asked(session, HISTORIES)
    logits_BI = torch.tensor(scorer(model, LETTERS)([Question("x", each, ("a",)) for each in HISTORIES]))
    expected = logits_BI.softmax(-1).topk(LISTED)
    assert items_BK.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(probabilities_BK, expected.values, atol=1e-6)


def test_a_history_is_answered_alone_as_among_others(session: onnxruntime.InferenceSession):
    together = asked(session, HISTORIES)
    for row, each in enumerate(HISTORIES):
        alone = asked(session, [each])
        assert alone[0][0].tolist() == together[0][row].tolist()
        np.testing.assert_allclose(alone[1][0], together[1][row], atol=1e-6)


def test_excluded_items_are_not_in_the_list_and_the_others_move_up(session: onnxruntime.InferenceSession):
    whole = asked(session, HISTORIES)[0]
    exclude = [[int(whole[0][0])], [], [int(each) for each in whole[2][:2]], []]
    items_BK, probabilities_BK, _ = asked(session, HISTORIES, exclude)
    assert items_BK[0][: LISTED - 1].tolist() == whole[0][1:].tolist()
    assert items_BK[1].tolist() == whole[1].tolist()
    assert items_BK[2][: LISTED - 2].tolist() == whole[2][2:].tolist()
    assert (probabilities_BK.sum(1) <= 1 + 1e-6).all()


def test_excluded_items_have_no_probability_where_a_list_would_end(session: onnxruntime.InferenceSession):
    items_BK, probabilities_BK, _ = asked(session, HISTORIES[:1], [list(range(1, 16))])
    assert items_BK[0][0] == 0
    assert probabilities_BK[0].tolist() == pytest.approx([1, 0, 0, 0, 0])


def test_a_purchase_is_told_as_the_head_tells_it(model: NextItems, session: onnxruntime.InferenceSession):
    expected = HEAD(np.concatenate([CLOCK, vectors(model, HISTORIES, LETTERS)], axis=1))
    np.testing.assert_allclose(asked(session, HISTORIES)[2], expected, atol=1e-6)


def test_a_small_catalogue_is_listed_whole(tmp_path: Path):
    export_ranked(NextItems(ItemSizes(3, 8, 1, 2, max_length=4)), LISTED, tmp_path / "small.onnx")
    small: Any = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    assert [each.name for each in small.get_outputs()] == ["items", "probabilities"]
    one = {"input_ids": [[0]], "position_ids": [[0]], "lengths": [1], "exclude": [[0]]}
    items_BK, probabilities_BK = small.run(None, {name: np.array(each) for name, each in one.items()})
    assert sorted(items_BK[0].tolist()) == [0, 1, 2]
    assert probabilities_BK.sum() == pytest.approx(1)


def test_a_file_that_answers_otherwise_is_refused(model: NextItems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph, "trace", lambda *_: None)
    monkeypatch.setattr(graph, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(JobError, match="differs from the model by nan in a probability; at most 1e-05"):
        export_ranked(model, LISTED, tmp_path / "model.onnx")


def test_a_difference_between_file_and_model_is_found(model: NextItems, file: Path):
    assert graph.largest_difference(RankedItems(model, LISTED, HEAD).eval(), file) < 1e-6
    torch.manual_seed(1)
    other = NextItems(model.sizes)
    assert graph.largest_difference(RankedItems(other, LISTED, HEAD).eval(), file) > 1e-3
    bolder = HEAD._replace(bias=1.0)
    assert graph.largest_difference(RankedItems(model, LISTED, bolder).eval(), file) > 1e-3

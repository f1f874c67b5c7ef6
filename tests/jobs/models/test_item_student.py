from __future__ import annotations

import pytest
import torch

from configs.loader import UsageError
from jobs.models.item_student import item_student
from jobs.models.items import ItemSizes, NextItems

SIZES = ItemSizes(items=9, hidden=8, layers=3, heads=2, max_length=12, dropout=0.0)
IDS = torch.tensor([[0, 4, 5, 4], [0, 1, 2, 3]])
ASKED = (IDS, torch.arange(4).expand(2, 4), torch.tensor([[True, False, False, True]] * 2))


@pytest.fixture
def teacher() -> NextItems:
    torch.manual_seed(0)
    model = NextItems(SIZES).eval()
    torch.nn.init.normal_(model.bias)
    return model


def test_a_student_of_all_layers_is_the_teacher(teacher: NextItems):
    torch.testing.assert_close(item_student(teacher, 3).eval()(*ASKED), teacher(*ASKED))


def test_a_student_has_the_chosen_layers(teacher: NextItems):
    student = item_student(teacher, [0, 2])
    assert student.sizes == SIZES._replace(layers=2)
    for mine, number in zip(student.layers, [0, 2], strict=True):
        for name, weight in mine.state_dict().items():
            assert torch.equal(weight, teacher.layers[number].state_dict()[name])
    assert torch.equal(student.items.weight, teacher.items.weight)
    student.items.weight.data.zero_()
    assert teacher.items.weight.abs().sum() > 0


def test_a_narrow_student_has_the_item_vectors_on_their_main_axes(teacher: NextItems):
    """Items that the teacher holds to be alike stay alike: here its vectors have two axes, which are kept whole."""
    with torch.no_grad():
        teacher.items.weight.copy_(torch.randn(10, 2) @ torch.randn(2, 8))
    student = item_student(teacher, 2, hidden=4)
    assert (student.sizes.hidden, student.sizes.layers) == (4, 2)
    whole, narrow = (torch.cdist(table, table) for table in (teacher.items.weight, student.items.weight))
    torch.testing.assert_close(narrow / narrow.max(), whole / whole.max(), atol=1e-4, rtol=1e-3)
    assert torch.equal(student.bias, teacher.bias)
    assert student.eval()(*ASKED).isfinite().all()


def test_a_student_that_the_teacher_cannot_have_is_refused(teacher: NextItems):
    with pytest.raises(UsageError, match=r"^student.hidden: 16: the teacher has 8; a student is no wider"):
        item_student(teacher, 2, hidden=16)
    with pytest.raises(UsageError, match=r"^student.hidden: 5: no multiple of the teacher's 2 heads"):
        item_student(teacher, 2, hidden=5)
    with pytest.raises(UsageError, match=r"^student.layers: 4"):
        item_student(teacher, 4)

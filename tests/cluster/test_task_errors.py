"""With real tasks of Ray Data: what its own wrappers would have lost."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from cluster import session
from cluster.record import Cluster
from cluster.session import JobError
from cluster.task_errors import Carried, TaskError, carried
from configs.folder import FolderError
from configs.given import given, reason, root_of
from configs.loader import UsageError

AT = "teacher.model: /models/ours"


class Odd(Exception):
    """Cannot be made again from its arguments, as errors of HTTP clients."""

    def __init__(self, *, answer: str) -> None:
        super().__init__(f"the answer was {answer}")


def refuses(batch: Any) -> Any:
    raise UsageError("data.label: no such column")


def is_damaged(batch: Any) -> Any:
    with given(AT):
        from tokenizers import Tokenizer

        Tokenizer.from_str('{"model": {"type": "Nobody"}}')


def is_odd(batch: Any) -> Any:
    raise Odd(answer="no")


def has_a_fault(batch: Any) -> Any:
    return {}["ours"]


class CannotStart:
    """As a teacher whose folder is damaged."""

    def __init__(self, folder: str) -> None:
        raise FolderError(f"{folder}: damaged")

    def __call__(self, batch: Any) -> Any:
        return batch


@pytest.mark.parametrize(
    ("task", "kind", "said"),
    [
        (refuses, UsageError, "data.label: no such column"),
        (is_damaged, UsageError, f"{AT}: cannot be read: "),
        (is_odd, RuntimeError, "Odd: the answer was no"),
        (has_a_fault, KeyError, "'ours'"),
    ],
)
def test_the_error_of_a_task_reaches_the_driver(
    on_cluster: Cluster,
    task: Callable[[Any], Any],
    kind: type[Exception],
    said: str,
    capfd: pytest.CaptureFixture[str],
):
    session.connect()
    import ray.data

    with pytest.raises(Exception) as met:  # noqa: PT011 - of a type that Ray makes
        ray.data.range(1).map_batches(carried(task)).take_all()
    root = root_of(met.value)
    assert type(root) is kind
    assert str(root).startswith(said)
    assert "Ray Data" not in str(root)
    assert "Traceback" not in capfd.readouterr().err
    assert task.__name__ in str(met.value)  # the stack of a fault of ours is not lost


def test_the_error_of_a_class_that_cannot_start_reaches_the_driver(on_cluster: Cluster):
    session.connect()
    import ray.data

    work = ray.data.range(1).map_batches(
        Carried, fn_constructor_args=[CannotStart, "/out"], compute=ray.data.ActorPoolStrategy(size=1)
    )
    with pytest.raises(Exception) as met:  # noqa: PT011 - of a type that Ray makes
        work.take_all()
    assert str(root_of(met.value)) == "/out: damaged"


@pytest.mark.parametrize("known", [UsageError("a"), JobError("b"), FolderError("c")])
def test_an_error_of_a_task_can_be_sent_and_told(known: Exception):
    def fail(batch: Any) -> Any:
        raise RuntimeError("around") from known

    with pytest.raises(TaskError) as met:
        carried(fail)({})
    met.value.args = (*met.value.args, "advice of Ray")
    again = pickle.loads(pickle.dumps(met.value))  # noqa: S301 - our own bytes
    assert (type(root_of(again)), reason(again)) == (type(known), str(known))


def test_what_a_task_returns_passes():
    assert carried(dict)({"a": 1}) == {"a": 1}
    assert Carried(lambda more: lambda batch: batch + more, 2)(1) == 3

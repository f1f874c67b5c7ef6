"""Who holds the cores that a job waits for: Ray queues what finds none, and says nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from configs.waiting import waiting

ASKED_SECONDS = 5  # for an answer of Ray about its state
UNITS = {"CPU": "core", "GPU": "GPU"}
VERB = re.compile(r"\bjobs\.\w+")
REPLICA = "ServeReplica:"  # in the class of an actor, before the name of its application

Amounts = Mapping[str, float]  # by kind: CPU, GPU, ...


class Claim(NamedTuple):
    """What a job has of the cluster, or waits for."""

    job: str  # Ray's id
    amounts: Amounts
    service: str = ""  # that holds it; none: training, trials, tasks


@contextmanager
def for_cores() -> Iterator[None]:
    """Say, while the block lasts, what the job waits for and who holds it; its driver says so for all its processes."""
    import ray

    is_driver = ray.is_initialized() and ray.get_runtime_context().get_actor_id() is None
    with waiting(waited_for) if is_driver else nullcontext():
        yield


def waited_for() -> str | None:
    """The line of a job that waits for what others hold; None where nothing of it waits, or Ray does not say."""
    import ray
    from ray.util import state

    try:
        if not (wanted := list(_claims(False, ray.get_runtime_context().get_job_id()))):
            return None
        names = {each.job_id: _name(each) for each in state.list_jobs(timeout=ASKED_SECONDS) if each.job_id}
        held, total = list(_claims(True)), ray.cluster_resources()
        return next(filter(None, (line(each, held, total, names) for each in wanted)), None)
    except Exception:  # noqa: BLE001 - a line less, and the job goes on
        return None


def line(wanted: Claim, held: Sequence[Claim], total: Amounts, names: Mapping[str, str]) -> str | None:
    """What one claim waits for and who holds it; None where only other work of its own job stands before it."""
    for kind, amount in wanted.amounts.items():
        if kind not in UNITS or not amount:
            continue
        unit = UNITS[kind] + ("" if amount == 1 else "s")
        others = [each for each in held if each.job != wanted.job and each.amounts.get(kind)]
        if amount > total.get(kind, 0):
            return f"waiting for {amount:g} {unit}: the cluster has {total.get(kind, 0):g}"
        if amount > total[kind] - sum(each.amounts[kind] for each in others):
            who = dict.fromkeys(each.service or names.get(each.job, f"job {each.job}") for each in others)
            return f"waiting for {amount:g} {unit}: {' and '.join(who)} {'hold' if len(who) > 1 else 'holds'} them"
    return None


def _claims(held: bool, job: str | None = None) -> Iterator[Claim]:
    """What jobs, or one, hold of the cluster, or what finds no place there."""
    from ray.util import state

    asked: Any = {"detail": True, "timeout": ASKED_SECONDS, "raise_on_missing_output": False}
    of_job = [] if job is None else [("job_id", "=", job)]
    groups: list[Any] = state.list_placement_groups(**asked, filters=[("state", "=", "CREATED" if held else "PENDING")])
    actors: list[Any] = state.list_actors(
        **asked, filters=[("state", "=", "ALIVE" if held else "PENDING_CREATION"), *of_job]
    )
    standing = ("state", "=", "RUNNING" if held else "PENDING_NODE_ASSIGNMENT")
    tasks: list[Any] = state.list_tasks(**asked, filters=[standing, ("type", "=", "NORMAL_TASK"), *of_job])
    for group in groups:
        amounts: Counter[str] = Counter()
        for bundle in group.bundles or []:
            amounts.update(bundle["unit_resources"])
        if job in (None, group.creator_job_id):
            yield Claim(group.creator_job_id, amounts)
    for each in (*actors, *tasks):
        if each.required_resources and not each.placement_group_id:  # what is in a group has its place
            yield Claim(each.job_id, each.required_resources, _service(getattr(each, "class_name", None) or ""))


def _service(actor: str) -> str:
    """The service that an actor of this class answers for; empty for others."""
    return f"service {actor.removeprefix(REPLICA).partition(':')[0]}" if actor.startswith(REPLICA) else ""


def _name(job: Any) -> str:
    """A job by its submission and verb; its arguments may hold what gives access to a source."""
    verb = VERB.search(job.entrypoint or "")
    told = f"job {job.submission_id or job.job_id}"
    return f"{told} ({verb[0]})" if verb else told

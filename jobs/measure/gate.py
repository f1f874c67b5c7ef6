"""What may come into service: what test rows say of a model, against the budget and against what it would replace."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import Field, ValidationError

from configs.loader import Spec
from configs.schema.search import BudgetSpec
from configs.schema.serving import Objection
from jobs.data.source import LONGEST_LABEL
from tuning.pareto import LIMITS, METRIC, PACE, SENT, broken, missed

TEST_TAG = "slimcart.test."  # begins the tags of a version that hold its evidence
MOST_LABELS = 3  # that are named

log = logging.getLogger(__name__)


class Tested(Spec):
    """The figures of one bundle on the test rows; all but `asked` and `rows` are measured."""

    asked: str = Field(description="digest of the rows: inputs and labels")
    rows: int = Field(description="how many")
    metric: str = Field(description="name of `value`, such as accuracy")
    value: float
    value_low: float | None = Field(default=None, description="of the 95 % interval")
    value_high: float | None = None
    retention: float | None = Field(default=None, description="value as a share of the teacher's on the same rows")
    retention_low: float | None = Field(default=None, description="of its 95 % interval over the same resampled rows")
    retention_high: float | None = None
    p95_ms: float
    ms_per_token: float | None = Field(default=None, description="of what writes, see budget.max_ms_per_token")
    megabytes: float
    held: float | None = Field(default=None, description="share of the texts that checks hold back")
    sent_slot_error_rate: float | None = Field(default=None, description="of the texts that go out")

    @property
    def plain(self) -> dict[str, float]:
        """The metric by its own name, and what a budget limits."""
        return {self.metric: self.value} | {
            name: value
            for name, value in self.limited(self.retention).items()
            if name != METRIC and not math.isnan(value)
        }

    def limited(self, retention: float | None) -> dict[str, float]:
        """What a budget limits, with this `retention`."""
        kept = math.nan if retention is None else retention
        found = {METRIC: self.value, "retention": kept, "p95_ms": self.p95_ms, "megabytes": self.megabytes}
        further = {name: getattr(self, name) for name in (PACE, *SENT)}
        return found | {name: value for name, value in further.items() if value is not None}


class Evidence(Tested):
    """What stands in the registry of a version: which bundle was tested, when, and in which MLflow run."""

    bundle: str = Field(description="SHA-256 of bundle.json")
    run: str
    at: str = Field(description="ISO 8601, UTC")

    def tag(self) -> tuple[str, str]:
        """(key, value): the newest of each metric on each file of test rows."""
        return f"{TEST_TAG}{self.metric}.{self.asked[:12]}", self.model_dump_json()


class Judgement(NamedTuple):
    """Whether test figures are inside the budget, whether the interval of retention says so too, and both in words."""

    inside: bool
    shown: bool
    words: str


class Objected(NamedTuple):
    """What speaks against a deployment, by the name under which `serving.accept` takes it."""

    kind: Objection
    words: str


@dataclass(frozen=True)
class Release:
    """A registered model as the gate sees it."""

    name: str
    version: str
    labels: Sequence[str] | None  # None where its bundle cannot be read any more
    tested: Sequence[Evidence] = ()  # by what the budget goes by; the newest last
    measured: Mapping[str, float] = field(default_factory=dict)  # on validation rows, as its manifest says
    served: bool = False  # it is, or was, the champion of its name
    served_here: bool = False  # it was the one of this very service

    @property
    def uri(self) -> str:
        """As users name it."""
        return f"models:/{self.name}/{self.version}"


def evidence(tags: Mapping[str, str], bundle: str, metric: str) -> list[Evidence]:
    """What the tags of a version say of the bundle with this digest, by this metric, the newest last."""
    found = []
    for key, text in tags.items():
        if key.startswith(TEST_TAG):
            try:
                found.append(Evidence.model_validate_json(text))
            except ValidationError:
                log.warning("tag %s: not read: no test evidence of this version of the program", key)
    its = (each for each in found if (each.bundle, each.metric) == (bundle, metric))
    return sorted(its, key=lambda each: each.at)


def judged(release: Release) -> Evidence | None:
    """The evidence that a budget is held against: the newest of those with a teacher; None where there is none."""
    return next((each for each in reversed(release.tested) if each.retention is not None), None)


def judge(tested: Tested, budget: BudgetSpec) -> Judgement:
    """Hold test figures against the limits; without retention they are outside every budget."""
    outside = broken(tested.limited(tested.retention), budget)
    other_end = tested.retention_high if outside else tested.retention_low
    shown = bool(broken(tested.limited(other_end), budget)) == bool(outside)
    parts = []
    for limit, name, _ in LIMITS:
        if limit in outside:
            by = f" by {outside[limit]:.1%}" if math.isfinite(outside[limit]) else ""
            parts.append(f"{_figure(tested, name)} misses {limit}={getattr(budget, limit):g}{by}")
        elif not outside and getattr(budget, limit) is not None:
            parts.append(f"{_figure(tested, name)} ({limit}={getattr(budget, limit):g})")
    side, reaches = ("outside", "ends above") if outside else ("inside", "begins below")
    words = f"{side} the budget on {tested.rows:,} test rows: {', '.join(parts)}"
    if not shown:
        reason = "there is no interval" if other_end is None else f"the interval {reaches} the limit"
        words += f"; not shown to be {side}, as {reason}"
    return Judgement(not outside, shown, words)


def objections(release: Release, champion: Release | None, budget: BudgetSpec) -> list[Objected]:
    """All that speaks against `release` in the place of `champion`, which is what the service runs, or ran last.

    Where no test rows were asked, the budget is held against what was measured on validation rows. What has served may
    come back: neither budget nor champion speak against it, and in its own service nothing does.
    """
    if release.served_here:
        return []
    found: list[Objected | None] = []
    if not release.served:
        found.append(_by_test_rows(release, budget))
        if judged(release) is None and (words := missed(release.measured, budget)):
            found.append(Objected("outside", f"{words} on validation rows; nan means that it was never measured"))
        found.append(_worse(release, champion, budget) if champion else None)
    if champion:
        found.append(_other_labels(release, champion))
        if release.name != champion.name:
            found.append(other_name(release.name, champion.name, champion.version))
    return [each for each in found if each is not None]


def other_name(name: str, runs: str, version: str) -> Objected:
    """Against a model `name` where `runs` is the running one."""
    return Objected("name", f"the model is {name}, and the service runs models:/{runs}/{version}")


def not_compared(release: Release, champion: Release) -> str | None:
    """Why `objections` cannot say whether `release` is worse than `champion`, or has its labels; None if it can."""
    reasons = []
    if _on_the_same_rows(release, champion) is None:
        command = f"python -m jobs.evaluate bundle={champion.uri} data.test=<the same file>"
        reasons.append(f"there is no test evidence of both on the same rows ({command} makes it)")
    if champion.labels is None:
        reasons.append("its bundle cannot be read, so its labels are not known")
    return f"{release.uri} is not compared with {champion.uri}: {'; '.join(reasons)}" if reasons else None


def figures(release: Release, budget: BudgetSpec) -> dict[str, float]:
    """What was measured on a release; `inside` is 1 where test rows say that it is inside the budget, else 0."""
    found = dict(release.measured)
    if (tested := judged(release)) and tested.retention is not None:
        found |= {f"test_{tested.metric}": tested.value, "test_retention": tested.retention}
        found["inside"] = float(judge(tested, budget).inside)
    return found


def shown(release: Release) -> dict[str, float]:
    """The test figures that a budget is held against, by their names; none where there are none."""
    tested = judged(release)
    if tested is None or tested.retention is None:
        return {}
    return {name: value for name, value in tested.plain.items() if math.isfinite(value)}


def listed(found: Sequence[Objected]) -> str:
    """Each with its name."""
    return "; ".join(f"{each.kind}: {each.words}" for each in found)


def refused(found: Sequence[Objected], accepted: Sequence[Objection]) -> str | None:
    """In words, what speaks against a deployment and was not accepted, and the remedy; None where nothing is left."""
    left = [each for each in found if each.kind not in accepted]
    if not left:
        return None
    kinds = dict.fromkeys([*accepted, *(each.kind for each in left)])
    return f"{'; '.join(each.words for each in left)}; serving.accept='[{', '.join(kinds)}]' deploys it all the same"


def _by_test_rows(release: Release, budget: BudgetSpec) -> Objected | None:
    if (tested := judged(release)) is None:
        command = f"python -m jobs.evaluate bundle={release.uri} data.test=<file>"
        return Objected("untested", f"no test rows were asked what it keeps of its teacher ({command} does)")
    judgement = judge(tested, budget)
    if not judgement.inside:
        return Objected("outside", judgement.words)
    if budget.gate == "interval" and not judgement.shown:
        return Objected("outside", f"{judgement.words}, and budget.gate is interval")
    return None


def _worse(release: Release, champion: Release, budget: BudgetSpec) -> Objected | None:
    """On the same rows: by the figures, or with `gate` interval where the whole interval lies below the champion's."""
    if (both := _on_the_same_rows(release, champion)) is None:
        return None
    ours, theirs = both
    worse = ours.value < theirs.value
    if budget.gate == "interval":
        worse = (ours.value_high or ours.value) < (theirs.value_low or theirs.value)
    if not worse:
        return None
    words = f"{_figure(ours, METRIC)} on {ours.rows:,} test rows, of which the champion {champion.uri} has"
    return Objected("worse", f"{words} {_figure(theirs, METRIC)}")


def _on_the_same_rows(release: Release, champion: Release) -> tuple[Evidence, Evidence] | None:
    """The newest evidence of the one, and that of the other on the same rows."""
    theirs = {each.asked: each for each in champion.tested}
    pairs = ((each, theirs.get(each.asked)) for each in reversed(release.tested))
    return next(((ours, other) for ours, other in pairs if other is not None), None)


def _other_labels(release: Release, champion: Release) -> Objected | None:
    if release.labels is None or champion.labels is None:
        return None
    gone = [each for each in champion.labels if each not in release.labels]
    new = [each for each in release.labels if each not in champion.labels]
    changes = [f"{len(some):,} {how} ({_named(some)})" for some, how in ((gone, "gone"), (new, "new")) if some]
    words = f"its {len(release.labels):,} labels are not the {len(champion.labels):,} of {champion.uri}"
    return Objected("labels", f"{words}: {', '.join(changes)}") if changes else None


def _named(labels: Sequence[str]) -> str:
    """The first few; of what may be a text only how long it is."""
    shown = [repr(each) if len(each) <= LONGEST_LABEL else f"{len(each)} characters" for each in labels[:MOST_LABELS]]
    return ", ".join([*shown, *["..."] * (len(labels) > MOST_LABELS)])


def _figure(tested: Tested, name: str) -> str:
    """A figure with its interval, as in `retention 0.843 (0.812 to 0.871)`."""
    title, field = (tested.metric, "value") if name == METRIC else (name, name)
    value, low, high = (getattr(tested, f"{field}{end}", None) for end in ("", "_low", "_high"))
    if value is None:
        return f"{title} not measured"
    return f"{title} {value:.4g}" + (f" ({low:.4g} to {high:.4g})" if low is not None and high is not None else "")

"""The recipe: all inputs of a job in one frozen value."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from configs.loader import Spec, assign, validate
from configs.places import absolute, check_places
from configs.schema.checks import ChecksSpec
from configs.schema.compression import APART, CascadeSpec, DistillStep, ExportSpec, ExportStep, QuantizeSpec, Step
from configs.schema.data import DataSpec
from configs.schema.distillation import DistillationSpec
from configs.schema.engine import EngineSpec, TrackingSpec
from configs.schema.evaluation import EvaluationSpec
from configs.schema.models import NEW, StudentSpec, TeacherSpec
from configs.schema.reply import ReplySpec
from configs.schema.runtimes import export_targets
from configs.schema.score import ScoreSpec
from configs.schema.search import BudgetSpec, SearchSpec
from configs.schema.serving import ServingSpec, service_name
from configs.schema.tasks import DEFAULT, TASKS, Task, TaskName

SEARCHABLE = ("student", "distillation", "compression")  # what a trial does; the rest is done once, before all trials

STORED = tuple(f"distillation.{name}" for name in ("targets", "stored_tokens", "stored_draws"))  # of the teacher

WHOLE = {  # how a model with running statistics can be trained that is known neither as layers nor to AutoTP
    "pipeline_stages": (1,),
    "tensor_parallel": (1,),
    "activation_checkpointing": (False,),
    "zero_stage": (0, 1, 2),
    "precision": ("fp32", "bf16_autocast"),
    "accumulation": (1,),  # its first micro-batch does not know the statistics of the whole batch
}

SHORTEST_PAIR = 8  # tokens: two texts and at most four around them, with room to spare


def _default_steps() -> list[Step]:
    return [ExportStep(step="export"), QuantizeSpec(step="quantize")]


class Recipe(Spec):
    """One YAML file, resolved."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=63, description="names the model, lower case")
    task: TaskName = Field(
        default=DEFAULT,
        description="classify: a text, or a pair of texts, into classes; generate: a text from a prompt or attributes",
    )
    output: str | None = Field(
        default=None, min_length=1, description="folder of results, under $SLIMCART_HOME; default: name"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of data order, dropout, new weights and the pool")
    data: DataSpec = Field(default_factory=DataSpec, description="rows")
    teacher: TeacherSpec = Field(default_factory=TeacherSpec, description="the model to imitate")
    student: StudentSpec = Field(default_factory=StudentSpec, description="what learns from it")
    engine: EngineSpec = Field(default_factory=EngineSpec, description="how training runs")
    distillation: DistillationSpec = Field(default_factory=DistillationSpec, description="how the student learns")
    compression: list[Step] = Field(default_factory=_default_steps, description="steps in order, one is export")
    export: ExportSpec = Field(default_factory=ExportSpec, description="the exported file")
    checks: ChecksSpec = Field(default_factory=ChecksSpec, description="what is asked of a written text")
    cascade: CascadeSpec = Field(default_factory=CascadeSpec, description="two bundles as one")
    reply: ReplySpec = Field(default_factory=ReplySpec, description="replies to messages by their class")
    search: SearchSpec = Field(default_factory=SearchSpec, description="trials")
    budget: BudgetSpec = Field(default_factory=BudgetSpec, description="hard limits")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="the final evaluation")
    score: ScoreSpec = Field(default_factory=ScoreSpec, description="rows of a file that a bundle answers")
    serving: ServingSpec = Field(default_factory=ServingSpec, description="the endpoint")
    tracking: TrackingSpec = Field(default_factory=TrackingSpec, description="the record")
    bundle: str | None = Field(
        default=None,
        min_length=1,
        description="compress: folder of a student, or baseline:tfidf, baseline:static; evaluate: folder of a bundle, "
        "or models:/<name>@<alias>; reply: a classifier's; score: as evaluate; deploy: models:/<name>@<alias>",
    )
    deploy: bool = Field(default=False, description="optimize: also deploy the winner")
    again: bool = Field(
        default=False,
        description="make the verb's own result although nothing changed; what it needs is still found",
    )
    remove: bool = Field(default=False, description="deploy: take the service away; its model keeps its aliases")
    status: bool = Field(default=False, description="deploy: say what the service runs, and how its rollout goes")
    rollback: bool = Field(
        default=False,
        description="deploy: end the rollout of the service; where there is none, bring the champion before back",
    )

    @field_validator("output")
    @classmethod
    def output_is_a_folder(cls, output: str | None) -> str | None:
        if output and "://" in output:
            raise ValueError(f"{output!r}: outputs lie on a mounted file system so far; give a folder")
        return output

    @model_validator(mode="after")
    def columns_are_those_of_the_task(self) -> Self:
        self.data.of_task(TASKS[self.task].labelled)
        self.reply.check_beside(self.data.text, self.data.text_pair, self.data.label)
        return self

    @model_validator(mode="after")
    def the_budgets_metric_is_one_of_the_task(self) -> Self:
        known = TASKS[self.task].metrics
        if (metric := self.budget.metric) is not None and metric not in known:
            raise ValueError(f"budget.metric: {metric!r}: task {self.task!r} is judged by {' or '.join(known)}")
        return self

    @model_validator(mode="after")
    def nothing_belongs_to_another_task(self) -> Self:
        task = TASKS[self.task]
        if not task.new_models and self.teacher.model.startswith(NEW):
            able = " or ".join(name for name, each in TASKS.items() if each.new_models)
            raise ValueError(f"teacher.model: {self.teacher.model!r} is for task {able}; {self.task} needs an encoder")
        for name, fields in task.unused.items():
            section = getattr(self, name)
            for field in fields:
                if (value := getattr(section, field)) != getattr(type(section)(), field):
                    raise ValueError(f"{name}.{field}: {value!r}: task {self.task!r} does not use it; leave it out")
        return self

    @model_validator(mode="after")
    def what_is_held_is_checked(self) -> Self:
        if (limit := self.budget.max_held) is not None and not self.checks.enabled:
            raise ValueError(
                f"budget.max_held: {limit:g}: no text is held back; set checks.enabled=true, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def answers_that_are_timed_have_room(self) -> Self:
        limit, most, shape = self.budget.max_ms_per_token, self.data.max_length, TASKS[self.task].shape
        if limit is not None and most < sum(shape[1:]):
            prompt, answer = shape[1:]
            raise ValueError(
                f"budget.max_ms_per_token: {limit:g}: prompts of {prompt} and answers of {answer} tokens are timed, "
                f"but data.max_length is {most}; raise it to {prompt + answer}, or give budget.max_p95_ms instead"
            )
        return self

    @model_validator(mode="after")
    def grades_are_not_smoothed(self) -> Self:
        for name in ("teacher", "distillation") if self.teacher.head == "grades" else ():
            if smoothing := getattr(self, name).label_smoothing:
                raise ValueError(
                    f"{name}.label_smoothing: {smoothing:g}: teacher.head=grades learns by a squared error, which has "
                    "none; use 0"
                )
        return self

    @model_validator(mode="after")
    def objectives_see_what_they_compare(self) -> Self:
        reasons = {
            f"task {self.task!r} compares logits alone": not TASKS[self.task].hidden_states,
            "a pipeline gives logits alone": self.engine.pipeline_stages > 1,
            "workers that split a layer hold a part of its vectors": self.engine.tensor_parallel > 1,
            "a student of kind 'conv' has no layers like the teacher's": self.student.kind == "conv",
        }
        for name, weight in self.distillation.hidden_objectives.items():
            if reason := next((reason for reason, holds in reasons.items() if holds), None):
                raise ValueError(f"distillation.weights.{name}: {weight:g}: {reason}; use 0 here")
        return self

    @model_validator(mode="after")
    def a_pool_is_learned_from(self) -> Self:
        if self.has_pool:
            rows, weights = self.distillation.pool.rows, self.distillation.weights
            field = f"distillation.pool.rows: {rows}" if rows else f"data.unlabelled: {self.data.unlabelled!r}"
            if not TASKS[self.task].pool:
                raise ValueError(
                    f"{field}: task {self.task!r} needs texts to write, unlabelled rows have none; leave it out"
                )
            if not any(weights.model_dump(exclude={"cross_entropy"}).values()):
                raise ValueError(
                    f"{field}: rows without labels teach by what the teacher says, and distillation.weights asks for "
                    "cross_entropy with the labels alone; raise kl, or leave the rows out"
                )
        return self

    @model_validator(mode="after")
    def student_can_be_built_and_trained(self) -> Self:
        kind = self.student.kind
        if kind not in (able := TASKS[self.task].student_kinds):
            raise ValueError(f"student.kind: {kind!r}: an encoder; task {self.task!r} takes {' or '.join(able)}")
        for name, possible in WHOLE.items() if kind == "conv" else ():
            if (value := getattr(self.engine, name)) not in possible:
                able = " or ".join(map(str, possible))
                raise ValueError(f"engine.{name}: {value!r}: a student of kind 'conv' cannot be trained so; use {able}")
        for name in ("pipeline_stages", "tensor_parallel") if self.student.share_layers else ():
            if (value := getattr(self.engine, name)) > 1:
                raise ValueError(f"engine.{name}: {value}: student.share_layers has one layer in all places; use 1")
        return self

    @model_validator(mode="after")
    def a_student_that_writes_is_whole(self) -> Self:
        if not (share := self.distillation.on_policy):
            return self
        for name, most in (("pipeline_stages", 1), ("tensor_parallel", 1), ("zero_stage", 2)):
            if (value := getattr(self.engine, name)) > most:
                raise ValueError(
                    f"engine.{name}: {value}: distillation.on_policy={share:g} has every worker write with a whole "
                    f"student; use {most}{' or less' if most > 1 else ''}, or on_policy=0"
                )
        return self

    @model_validator(mode="after")
    def adapters_are_on_whole_layers(self) -> Self:
        for name in ("pipeline_stages", "tensor_parallel"):
            for section in ("teacher", "student") if (parts := getattr(self.engine, name)) > 1 else ():
                if getattr(self, section).adapter is not None:
                    raise ValueError(
                        f"engine.{name}: {parts}: {section}.adapter stands beside whole layers of a whole model; use 1 "
                        "(zero_stage splits what learns)"
                    )
        return self

    @model_validator(mode="after")
    def steps_are_in_an_order_that_works(self) -> Self:
        kinds = [each.step for each in self.compression]
        if kinds.count("export") != 1:
            raise ValueError(f"compression: steps {kinds} hold {kinds.count('export')} export; exactly one is needed")
        export = kinds.index("export")
        for index, step in enumerate(self.compression):
            if step.step != "export" and step.after_export != (index > export):
                side = "after" if step.after_export else "before"
                raise ValueError(f"compression[{index}]: {step.step!r} works {side} export; move it {side} that item")
            if reason := next((APART[kind, step.step] for kind in kinds[:index] if (kind, step.step) in APART), None):
                raise ValueError(f"compression[{index}]: {step.step!r} after {kinds[:index]}: {reason}; leave one out")
            if step.step not in TASKS[self.task].steps:
                able = " or ".join(name for name, task in TASKS.items() if step.step in task.steps)
                raise ValueError(f"compression[{index}]: {step.step!r} is for task {able}; leave it out")
        if "shrink" in kinds and self.student.share_layers:
            raise ValueError(
                "student.share_layers: true: step 'shrink' cuts layers one by one, and they are one; use false"
            )
        if self.data.text_pair and (shortest := min(self.export.lengths)) < SHORTEST_PAIR:
            raise ValueError(
                f"export.lengths: {shortest}: a pair of texts with the tokens around them needs {SHORTEST_PAIR} or more"
            )
        if "shrink" in kinds and self.student.kind == "conv":
            raise ValueError(
                "student.kind: 'conv': step 'shrink' cuts heads and units of attention, and it has none; give "
                "student.hidden and student.layers, or leave the step out"
            )
        if "cluster" in kinds and "code" not in kinds:
            raise ValueError("compression: 'cluster' makes a file smaller only with 'code' after export; add that item")
        export_targets(self.export, self.task, self.compression)
        names = Counter(each.title for each in self.compression)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"compression: {twice[0]!r} stands for several items; give each a name of its own")
        return self

    @model_validator(mode="after")
    def further_training_is_possible(self) -> Self:
        for index, step in enumerate(self.compression):
            if not isinstance(step, DistillStep):
                continue
            if reason := step.refused_by(self.engine):
                raise ValueError(f"compression[{index}].{reason}")
            learned = {"calibration": "minmax", "per_channel": True, "reduce_range": False}
            rounded = [each for each in self.compression[index:] if isinstance(each, QuantizeSpec)]
            if step.quantize_aware and not any(each.model_dump(include=set(learned)) == learned for each in rounded):
                raise ValueError(
                    f"compression[{index}].quantize_aware=true: no step quantize with per_channel=true, reduce_range="
                    "false and calibration=minmax rounds what learned to be rounded; add one after export, or leave it "
                    "out"
                )
        return self

    @model_validator(mode="after")
    def baselines_are_those_of_the_task(self) -> Self:
        known, names = list(TASKS[self.task].baselines), self.evaluation.baselines or []
        for name, count in Counter(names).items():
            if name not in known:
                able = " and ".join(known)
                raise ValueError(f"evaluation.baselines: {name!r}: task {self.task!r} has {able}; [] for none")
            if count > 1:
                raise ValueError(f"evaluation.baselines: {name!r} stands there {count} times; give it once")
        return self

    @model_validator(mode="after")
    def a_baseline_that_is_made_a_bundle_can_be_one(self) -> Self:
        bundled = {name: task.bundled_baselines for name, task in TASKS.items()}
        if self.baseline is not None and self.baseline not in bundled[self.task]:
            able = "; ".join(
                f"{name} has baseline:{' and baseline:'.join(each)}" for name, each in bundled.items() if each
            )
            raise ValueError(f"bundle: {self.bundle}: task {self.task!r} makes no such baseline a bundle; {able}")
        return self

    @model_validator(mode="after")
    def service_has_a_name(self) -> Self:
        try:
            service_name(self.service)
        except ValueError as error:
            raise ValueError(f"name: {error}") from None
        return self

    @model_validator(mode="after")
    def a_service_is_asked_one_thing(self) -> Self:
        asked = [name for name in ("remove", "status", "rollback") if getattr(self, name)]
        if len(asked) > 1:
            raise ValueError(f"{asked[0]}: true and {asked[1]}: true are two things; give one of them")
        if asked and self.bundle is not None:
            raise ValueError(f"{asked[0]}: true is of a service, whatever its model; leave out bundle={self.bundle}")
        return self

    @model_validator(mode="after")
    def searched_fields_are_what_a_trial_does(self) -> Self:
        for key in self.search.space:
            if key.split(".")[0] not in SEARCHABLE:
                raise ValueError(f"search.space.{key}: not searched; keys start with {', '.join(SEARCHABLE)}")
            if key.startswith("distillation.pool"):
                raise ValueError(f"search.space.{key}: not searched; the pool is made once, before the trials")
            if key in STORED:
                raise ValueError(f"search.space.{key}: not searched; the teacher says it once, before the trials")
            if key == "student.model":
                raise ValueError(f"search.space.{key}: not searched; its rows are prepared once, before the trials")
        return self

    def at(self, values: dict[str, Any]) -> Recipe:
        """This recipe with the searched `values`, given by dotted key, and nothing left to search.

        Raises `UsageError`, one line, where the result is no recipe.
        """
        tree = self.model_dump()
        tree["search"]["space"] = {}
        for key, value in values.items():
            assign(tree, key, value)
        return validate(Recipe, tree, "searched")

    def on_driver(self, home: Path, folder: Path) -> Recipe:
        """This recipe with absolute paths: outputs below `home`, sources below `folder`.

        Ray workers run in folders of their own, so a relative path means something on the driver only. What the
        environment holds stays there, `env:NAME`; it is refused here where it is not set.
        """
        check_places(self)
        output = self.output or self.name
        sources = ("train", "validation", "test", "unlabelled")
        data = {name: absolute(getattr(self.data, name), folder) for name in sources}
        teacher = {
            "model": absolute(self.teacher.model, folder),
            "bundle": absolute(self.teacher.bundle, folder, may_be_id=False),
        }
        further = [
            each.model_copy(update={"bundle": absolute(each.bundle, folder, may_be_id=False)})
            for each in self.distillation.further_teachers
        ]
        parts = {name: absolute(getattr(self.cascade, name), folder, may_be_id=False) for name in ("first", "second")}
        scored = {"input": absolute(self.score.input, folder, may_be_id=False)}
        scored["output"] = self.score.output and str(home / self.score.output)
        keys = self.serving.keys and str(home / self.serving.keys)
        return self.model_copy(
            update={
                "output": str(home / output),
                "score": self.score.model_copy(update=scored),
                "serving": self.serving.model_copy(update={"keys": keys}),
                "cascade": self.cascade.model_copy(update=parts),
                "reply": self.reply.model_copy(
                    update={"decoder": absolute(self.reply.decoder, folder, may_be_id=False)}
                ),
                "distillation": self.distillation.model_copy(update={"further_teachers": further}),
                "data": self.data.model_copy(update=data),
                "teacher": self.teacher.model_copy(update=teacher),
                "student": self.student.model_copy(update={"model": absolute(self.student.model, folder)}),
                "bundle": absolute(self.bundle, folder, may_be_id=False),
            }
        )

    @property
    def baseline(self) -> str | None:
        """The name of the baseline that `bundle` names; None where it is something else."""
        kind, _, name = (self.bundle or "").partition(":")
        return name if kind == "baseline" else None

    @property
    def has_pool(self) -> bool:
        """Whether students also learn from rows without labels."""
        return self.distillation.pool.rows > 0 or self.data.unlabelled is not None

    @property
    def judged_by(self) -> Task:
        """The record of the recipe's task, with the budget's metric wherever a metric decides."""
        return TASKS[self.task].by(self.budget.metric)

    @property
    def service(self) -> str:
        """Path of the endpoint and name of the Serve application."""
        return self.serving.service or self.name

"""The tasks, one record each: all that verbs, steps and measurements ask about a task.

A new task is a folder in `jobs/tasks/` and a record here; docs/extending.md shows one. No other file compares a task's
name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from configs.schema.kinds import BY_LABEL, READ

DEFAULT = "classify"
BASIC = ("prepare", "finetune", "teach", "distill", "compress", "evaluate", "score")
VERBS = (*BASIC, "tune", "deploy", "optimize", "cascade", "reply")
BUDGET_SHAPE = (1, 32)  # rows and tokens of a call at which `budget.max_p95_ms` holds
OF_THE_ROWS = ("train_rows", "validation_rows", "pool_rows", "classes", "unknown_share", "cut_share")  # headlines
ANSWER_SHAPE = (*BUDGET_SHAPE, 32)  # the same of what writes: prompts of 32 tokens, answers of 32 tokens


class Summed(NamedTuple):
    """How a metric follows from sums over rows, as a bootstrap over rows needs it."""

    statistics: str  # (predictions, rows) -> statistics [N, S]
    value: str  # (their sums over rows [S]) -> the metric


class Baseline(NamedTuple):
    """A simple model that every model of a task must beat to be worth its training."""

    contender: str  # its name in tables and metrics
    make: str  # (jobs.measure.baselines.Source) -> parts of a bundle; where it is none, (data) -> a fitted predictor
    what: str  # in words, for readers
    is_bundle: bool = True  # whether it can be written as a bundle and served
    of_teacher: bool = False  # whether the teacher's token embeddings go into it
    of_attributes: bool = False  # whether it is made of attributes, so that rows of texts alone have none


class Shown(NamedTuple):
    """A line of the report's comparison."""

    title: str
    metric: str
    form: str  # a format
    compare: Literal["", "kept"] = ""
    further: tuple[str, ...] = ()  # metrics in the same cell


@dataclass(frozen=True)
class Task:
    """The record of a task; functions and classes are named "module:name" and imported when they are used."""

    name: str

    # What a recipe may ask for.
    verbs: tuple[str, ...]  # that take models of this task
    runtimes: tuple[str, ...]  # that a file may be exported for, the default first
    unexported: tuple[str, ...]  # runtimes of its other bundles: baselines, and models as they are trained
    steps: tuple[str, ...]  # of a compression
    baselines: Mapping[str, Baseline]  # by their name in a recipe
    unused: Mapping[str, tuple[str, ...]]  # by section of the recipe: fields without a meaning here
    model_kinds: tuple[str, ...]  # of given models, see `jobs.models.inspection.kind_of`
    student_kinds: tuple[str, ...]
    new_models: bool  # whether a teacher may begin with new weights
    hidden_states: bool  # whether objectives may compare more than logits
    pool: bool  # whether a student may learn from rows without labels

    # Its metrics.
    metric: str  # on validation and test rows: what budgets, retention and the choice of a winner go by
    metrics: Mapping[str, Summed]  # by the values that budget.metric, and so `metric`, may have
    further: Mapping[str, Summed]  # of which an evaluation also gives the intervals
    titles: Mapping[str, str]  # of metrics, as table heads
    shown: tuple[str, ...]  # further metrics of the comparison
    headlines: tuple[str, ...]  # further metrics of a RESULT line, see `headline`
    lines: tuple[Shown, ...]  # of the report
    score: str  # (predictions, rows) -> metrics by name
    sent: str | None  # (texts that go out, their rows) -> metrics that a budget limits

    # Rows and models.
    plan: str  # (recipe, training rows, validation rows) -> jobs.data.plan.Plan
    plan_of_student: str  # (recipe, prepared) -> Plan; None where the teacher's rows serve
    wording: str | None  # () -> a `see` of training rows and what they `teach` of a written text
    trainer: str  # the jobs.training.task.TrainingTask that workers make
    load: str  # (folder of a reference bundle) -> nn.Module
    save: str  # (nn.Module, folder)
    inputs: str  # (nn.Module, pairs) -> names of the exported graph's inputs
    wanted: str  # (recipe, config of a teacher that is not there yet, or None) -> StoredOutputs
    own_texts: str | None  # (prepared, recipe, teacher's bundle, device) -> batches that a student writes itself
    stored_answers: str  # (prepared, teacher outputs) -> what the teacher says of each validation row

    # What a compression is judged by.
    step_metric: str  # (step context, validation rows) -> jobs.compression.checks.metric.StepMetric
    agreement: str  # (model, step context) -> a check of files against it; None where no rows were prepared
    least_agreement: str  # (step context, is_float, competing) -> share of rows; None where another check is made

    # Answers and their measurement.
    labelled: bool  # whether an answer is a label with its probability
    open: str  # (folder of a bundle, threads) -> its predictor, without torch
    open_reference: str  # (folder of a reference bundle, ...) -> its predictor
    service: str  # (its name, release, serving, meter) -> serving.service.InService: what answers over HTTP
    forms: str  # (entry of GET /v1/models) -> serving.forms.Form by path: what that takes and gives
    answers: Mapping[str, str]  # what that says of an input, by name: the type of such a column
    further_answers: Mapping[str, Mapping[str, str]]  # what it says besides, by the field of a request that asks for it
    answering: str  # (predictor) -> jobs.measure.answers.LoadedContender
    smoke: str | None  # (uri, folder, bundle): one question before a deployment
    compare: str | None  # (recipe, rows, measured, figures) -> jobs.measure.comparison.Special
    words: str  # jobs.measure.card.Words: what a model card says of such models
    shape: tuple[int, ...]  # `BUDGET_SHAPE`, or `ANSWER_SHAPE` of what writes
    calls: int  # over which its latency, and that of rows as they come, is measured
    asked_twice: int  # most rows that are answered both alone and in a batch
    fields: str | None = None  # (folder of a bundle) -> columns of values that a request gives in `fields`
    uncompressed: bool = False  # whether a model that was not compressed is evaluated

    @property
    def bundles(self) -> tuple[str, ...]:
        """The runtimes of its bundles."""
        return (*self.runtimes, *self.unexported)

    @property
    def writes(self) -> bool:
        """Whether latency depends on how much a model writes, too."""
        return len(self.shape) > len(BUDGET_SHAPE)

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics of a RESULT line, those first that matter most: of test rows, or named after validation rows."""
        of_rows = (self.metric, f"validation_{self.metric}", "retention", "validation_retention", "inside")
        return (*of_rows, *self.headlines, "p95_ms", "megabytes", "served_p50_ms", *OF_THE_ROWS)

    @property
    def summed(self) -> Summed:
        """How `metric` follows from sums over rows."""
        return self.metrics[self.metric]

    def by(self, metric: str | None) -> Task:
        """The same task judged by `metric`; None: by its own."""
        if metric in (None, self.metric):
            return self
        shown = (self.metric, *(name for name in self.shown if name != metric))
        return replace(self, metric=metric, shown=shown)

    @property
    def bundled_baselines(self) -> list[str]:
        """Names of the baselines that can be written as bundles."""
        return [name for name, each in self.baselines.items() if each.is_bundle]

    def uses(self, section: str, name: str) -> bool:
        """Whether a field of the recipe has a meaning for this task."""
        return name not in self.unused.get(section, ())


HEAD = ("head_learning_rate", "class_weights")


def _with_interval(title: str, metric: str, form: str, compare: Literal["", "kept"] = "") -> tuple[Shown, Shown]:
    """The lines of a metric and of its interval."""
    ends = Shown(f"{title}, 95 % interval", f"{metric}_low", form, further=(f"{metric}_high",))
    return Shown(title, metric, form, compare), ends


CLASSIFY = Task(
    name="classify",
    verbs=VERBS,
    runtimes=("onnxruntime", "openvino"),
    unexported=("linear", "torch"),
    steps=("prune", "shrink", "distill", "vocabulary", "cluster", "fold", "export", "quantize", "code"),
    baselines={
        "tfidf": Baseline(
            "tfidf_svm",
            "jobs.tasks.classify.baselines:make_tfidf",
            "TF-IDF of words, of word pairs and, unless it is worse, of strings of characters under a linear SVM",
        ),
        "static": Baseline(
            "static_logreg",
            "jobs.tasks.classify.baselines:make_static",
            "the mean of the teacher's token embeddings under a logistic regression",
            of_teacher=True,
        ),
    },
    unused={
        "data": ("packing", "max_changed", "chat", "style", "lengths"),
        "checks": ("enabled",),
        "distillation": ("stored_tokens", "stored_draws", "targets", "on_policy"),
        "budget": ("max_ms_per_token", "max_held", "max_slot_errors"),
        "evaluation": ("examples",),
        "serving": ("max_tokens", "round_tokens", "max_waiting_texts"),
    },
    model_kinds=("encoder", "decoder"),
    student_kinds=("layers", "new", "conv", "pretrained"),
    new_models=False,
    hidden_states=True,
    pool=True,
    metric="accuracy",
    metrics={
        "accuracy": Summed("jobs.tasks.classify.metrics:right", "jobs.tasks.classify.metrics:accuracy"),
        "macro_f1": Summed("jobs.tasks.classify.metrics:confusions", "jobs.tasks.classify.metrics:macro_f1"),
    },
    further={},
    titles={"macro_f1": "macro-F1", "agreement": "as the teacher", "ece": "ECE"},
    shown=("macro_f1", "agreement", "ece"),
    headlines=(
        "speedup_batch1_tokens32",
        *("first_share", "handed_over", "answered_right", "validation_handed_over", "validation_answered_right"),
    ),
    lines=(
        *_with_interval("accuracy", "accuracy", ".4f", "kept"),
        *_with_interval("macro-F1", "macro_f1", ".4f", "kept"),
        Shown("answers as the teacher does", "agreement", ".2%"),
        Shown("calibration error (ECE)", "ece", ".4f"),
    ),
    score="jobs.tasks.classify.metrics:score",
    sent=None,
    plan="jobs.tasks.classify.rows:plan",
    plan_of_student="jobs.tasks.classify.rows:plan_of_student",
    wording=None,
    trainer="jobs.tasks.classify.training:Classify",
    load="jobs.models.encoder:load",
    save="jobs.models.encoder:save",
    inputs="jobs.models.encoder:graph_inputs",
    wanted="jobs.tasks.classify.teaching:wanted",
    own_texts=None,
    stored_answers="jobs.tasks.classify.teaching:stored_answers",
    step_metric="jobs.tasks.classify.judging:step_metric",
    agreement="jobs.tasks.classify.judging:agreement",
    least_agreement="jobs.tasks.classify.judging:least_agreement",
    labelled=True,
    open="serving.runtime:load_bundle",
    open_reference="jobs.measure.reference:load_reference",
    service="serving.labelling:put_in_service",
    forms="serving.labelling:forms",
    answers={"label": "string", "score": "double"},
    further_answers={"scores": {"scores": BY_LABEL}, "details": READ},
    answering="jobs.tasks.classify.evaluation:Labelling",
    smoke="jobs.tasks.classify.evaluation:smoke",
    compare="jobs.tasks.classify.evaluation:compare",
    words="jobs.tasks.classify.words:WORDS",
    shape=BUDGET_SHAPE,
    calls=300,
    asked_twice=10_000,
)

GENERATE = Task(
    name="generate",
    verbs=(*BASIC, "tune", "optimize", "deploy"),
    runtimes=("ctranslate2",),
    unexported=("torch",),
    steps=("prune", "shrink", "export", "quantize"),
    baselines={
        "nearest": Baseline(
            "nearest_row",
            "jobs.tasks.generate.baselines:fit_nearest",
            "the completion of the most similar training row",
            is_bundle=False,
        ),
        "template": Baseline(
            "template",
            "jobs.tasks.generate.baselines:fit_template",
            "the completion of the training row with the most similar attributes, with the values of the request in it",
            is_bundle=False,
            of_attributes=True,
        ),
    },
    unused={
        "data": ("slices",),
        "teacher": (*HEAD, "pooling", "dropout", "head"),
        "student": ("share_layers", "kernel", "pooling"),
        "distillation": (*HEAD, "hidden_layers", "relation_layer", "relation_heads", "further_teachers"),
        "evaluation": ("steps",),
        "export": ("lengths",),
        "reply": ("column",),
        "serving": ("batch_wait_ms",),
    },
    model_kinds=("decoder",),
    student_kinds=("layers", "pretrained"),
    new_models=True,
    hidden_states=False,
    pool=False,
    metric="bleu",
    metrics={
        "bleu": Summed("jobs.tasks.generate.metrics:statistics", "jobs.tasks.generate.metrics:value"),
        "rouge_l": Summed("jobs.tasks.generate.likeness:rouge_counts", "jobs.tasks.generate.likeness:share"),
        "chrf": Summed("jobs.tasks.generate.likeness:chrf_counts", "jobs.tasks.generate.likeness:chrf"),
        "slot_accuracy": Summed("jobs.tasks.generate.metrics:slot_counts", "jobs.tasks.generate.metrics:slot_accuracy"),
        "exact_match": Summed("jobs.tasks.generate.likeness:exact_counts", "jobs.tasks.generate.likeness:share"),
    },
    further={
        "slot_error_rate": Summed("jobs.tasks.generate.metrics:slot_counts", "jobs.tasks.generate.likeness:share"),
        "repetition_rate": Summed(
            "jobs.tasks.generate.likeness:repetition_counts", "jobs.tasks.generate.likeness:share"
        ),
        "length_ratio": Summed("jobs.tasks.generate.metrics:statistics", "jobs.tasks.generate.metrics:length_ratio"),
    },
    titles={
        "bleu": "BLEU",
        "rouge_l": "ROUGE-L",
        "chrf": "chrF",
        "slot_accuracy": "slot accuracy",
        "slot_error_rate": "slot error rate",
        "exact_match": "exact match",
        "repetition_rate": "repeated",
        "length_ratio": "length",
    },
    headlines=(
        *("speedup_batch1_tokens32_answer32", "ms_per_token", "held", "sent_slot_error_rate"),
        *("validation_perplexity", "winner_slot_error_rate", "validation_slot_error_rate"),
    ),
    shown=("rouge_l", "chrf", "slot_error_rate", "exact_match", "repetition_rate", "length_ratio"),
    lines=(
        *_with_interval("BLEU", "bleu", ".2f", "kept"),
        *_with_interval("ROUGE-L", "rouge_l", ".2f", "kept"),
        *_with_interval("chrF", "chrf", ".2f", "kept"),
        *_with_interval("slot error rate", "slot_error_rate", ".2%"),
        Shown("held back", "held", ".2%"),
        Shown("slot error rate of what goes out", "sent_slot_error_rate", ".2%"),
        *_with_interval("exact match", "exact_match", ".2%", "kept"),
        *_with_interval("repeated strings of four units", "repetition_rate", ".2%"),
        *_with_interval("length beside the nearest reference", "length_ratio", ".3f"),
    ),
    score="jobs.tasks.generate.metrics:score",
    sent="jobs.tasks.generate.metrics:sent",
    plan="jobs.tasks.generate.rows:plan",
    plan_of_student="jobs.tasks.generate.rows:plan_of_student",
    wording="jobs.tasks.generate.wording:Learner",
    trainer="jobs.tasks.generate.training:Generate",
    load="jobs.models.decoder:load",
    save="jobs.models.decoder:save",
    inputs="jobs.models.decoder:graph_inputs",
    wanted="jobs.tasks.generate.teaching:wanted",
    own_texts="jobs.tasks.generate.on_policy:OwnTexts",
    stored_answers="jobs.tasks.generate.teaching:stored_answers",
    step_metric="jobs.tasks.generate.judging:step_metric",
    agreement="jobs.tasks.generate.judging:agreement",
    least_agreement="jobs.tasks.generate.judging:least_agreement",
    labelled=False,
    open="serving.generator:load_generator",
    open_reference="jobs.measure.reference:load_decoder",
    service="serving.writing:put_in_service",
    forms="serving.writing:forms",
    answers={"text": "string", "finish_reason": "string", "held": "bool", "reason": "string"},
    further_answers={"details": READ},
    answering="jobs.tasks.generate.evaluation:Writing",
    smoke="jobs.tasks.generate.evaluation:smoke",
    compare="jobs.tasks.generate.evaluation:compare",
    words="jobs.tasks.generate.words:WORDS",
    shape=ANSWER_SHAPE,
    calls=100,
    asked_twice=200,
    uncompressed=True,
)

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFY, GENERATE)}
BASELINES = {name: each for task in TASKS.values() for name, each in task.baselines.items()}

if TYPE_CHECKING:  # to a type checker any text: what a recipe may say follows from the records
    TaskName = str
    ExportRuntime = str
else:
    TaskName = Literal[*TASKS]
    ExportRuntime = Literal[*dict.fromkeys(runtime for task in TASKS.values() for runtime in task.runtimes), "auto"]


def named(text: str) -> Any:
    """The object that `text`, "module:name", names."""
    module, _, name = text.partition(":")
    return getattr(importlib.import_module(module), name)

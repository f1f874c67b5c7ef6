"""The train loop on real workers: several runs share a worker group, and one is killed and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

import jobs.finetune
from cluster import checkpoint, engine, launch, session
from cluster.record import Cluster
from cluster.session import JobError
from configs.folder import commit
from configs.loader import load
from configs.schema.compression import DistillStep, PruneSpec
from configs.schema.engine import EngineSpec
from configs.schema.models import StudentSpec, TeacherSpec
from configs.schema.recipe import Recipe
from jobs.compression.steps.prune import zeroed
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Prepared, PreparedSplit
from jobs.layout import teacher_folder
from jobs.models import decoder, encoder
from jobs.models.decoder import Decoder
from jobs.models.reference import read_tokenizer, write_reference
from jobs.models.sparsity import multiplied, sparsity_facts
from jobs.models.student import encoder_student
from jobs.prepare import prepare, prepare_student
from jobs.training import loop
from jobs.training.fit import GoingOn, distill, finetune
from jobs.training.task import TrainingTask
from serving.bundle import read_bundle
from tests.faults import fault
from tests.full_disk import files_of_at_most
from tests.tiny_shop import write_encoder

EPOCHS = 3
STORED = 8  # tokens of a decoder's teacher at each place
SPLITS: tuple[PreparedSplit, ...] = ("train", "validation")
CALM = ["teacher.dropout=0", "engine.precision=fp32"]
FP32 = ["engine.precision=fp32"]
FP16 = ["engine.precision=fp16", "engine.loss_scale.initial_power=8"]  # a higher one leaves out some of the few steps
INSIDE = [  # relations first, then all that can be compared
    "distillation.stages=[{epochs: 1, weights: {relations: 1}}]",
    "distillation.final_temperature=2",
    "distillation.relation_heads=4",
    *(f"distillation.weights.{name}=1" for name in ("hidden", "cosine", "relations")),
]
OFTEN = ["engine.max_failures=1", "engine.checkpoint_seconds=1e-9"]  # a checkpoint after every step
INTERRUPTED_AT = 4  # step of the second epoch, where "interrupted" is in a name
FURTHER: dict[str, dict[str, Any]] = {  # students of which half the weights are zero, and what holds while they go on
    "pruned student": {"keep_zeros": True},
    "pruned student, forgotten": {"keep_zeros": False},
    "pruned student, rising": {"sparsity": 0.8, "rising": 0.6},
    "pruned student, rising, bf16 weights": {"sparsity": 0.8, "rising": 0.6},
    "pruned student, rising, interrupted": {"sparsity": 0.8, "rising": 0.6},
    "pruned student, rounded": {"quantize_aware": True},
}
# A name starts with what is trained: "encoder" and "decoder" are teachers.
ONE_WORKER = {
    "encoder": CALM,
    "encoder, accumulated": [*CALM, "engine.accumulation=2"],
    "encoder, bf16": ["teacher.dropout=0", "engine.precision=bf16_autocast"],
    "encoder, worse at last": CALM,
    "encoder, crash before a checkpoint": [*CALM, "engine.max_failures=1"],
    "encoder, never killed": ["engine.max_failures=1"],
    "encoder, interrupted": [*CALM, *OFTEN],
    "encoder, interrupted, checkpoints by epoch": [*CALM, "engine.max_failures=1"],
    "encoder, interrupted, drops out": OFTEN,
    "encoder, interrupted, drops out otherwise": OFTEN,
    "student": CALM,
    "student inside": [*CALM, *INSIDE],
    **dict.fromkeys(FURTHER, CALM),
    "pruned student, rising, interrupted": [*CALM, *OFTEN],
    "pruned student, rising, bf16 weights": ["engine.precision=bf16"],
    "conv student": FP32,
    "foreign student": FP32,
    "decoder": FP32,
    "decoder student": FP32,
    "encoder, bf16 weights": ["teacher.dropout=0", "engine.precision=bf16"],
    "encoder, fp16 weights": ["teacher.dropout=0", *FP16],
    "encoder, activations computed twice": [*CALM, "engine.activation_checkpointing=true"],
    "encoder, offloaded": [*CALM, "engine.zero_stage=3", "engine.offload=all"],
}
GPU = ["engine.use_gpu=true"]
ON_A_GPU = {  # each with how far its losses may be from those of one worker on a CPU in fp32
    "encoder, gpu": ([*CALM, *GPU], 1e-3),
    "encoder, gpu, balanced": ([*CALM, *GPU, "teacher.class_weights=balanced", "teacher.label_smoothing=0.1"], None),
    "encoder, gpu, offloaded": ([*CALM, *GPU, "engine.zero_stage=3", "engine.offload=all"], 1e-3),
    "encoder, gpu, bf16 autocast": (["teacher.dropout=0", *GPU, "engine.precision=bf16_autocast"], 0.05),
    "encoder, gpu, bf16": (["teacher.dropout=0", *GPU, "engine.precision=bf16"], 0.05),
    "encoder, gpu, fp16": (["teacher.dropout=0", *GPU, *FP16], 0.05),
    "student, gpu": ([*CALM, *GPU], 1e-3),
    "student, gpu, fp16": (["teacher.dropout=0", *GPU, *FP16], 0.05),
    "student inside, gpu": ([*CALM, *INSIDE, *GPU], 1e-3),
    "pruned student, rising, gpu": ([*CALM, *GPU], 0.05),  # where a weight is as small as another, others are zeroed
    "conv student, gpu": (["engine.precision=bf16_autocast", *GPU], 0.05),
    "decoder, gpu": ([*FP32, *GPU], 1e-3),
    "decoder, gpu, fp16": ([*GPU, *FP16], 0.05),
    "decoder student, gpu": ([*FP32, *GPU], 1e-3),
}
PIPELINE = ["engine.pipeline_stages=2", "engine.accumulation=2"]
TENSOR = ["engine.tensor_parallel=2"]
PAIR = ["engine.workers=2"]
TWO_WORKERS = {  # one for each mechanism; the two-worker modes of test_engine beside it
    **{f"encoder, zero {stage}": [*CALM, *PAIR, f"engine.zero_stage={stage}"] for stage in (2, 3)},
    "pruned student, rising": [*CALM, *PAIR, "engine.zero_stage=2"],
    "conv student": [*FP32, *PAIR],
    "student, pipeline": [*CALM, *PAIR, *PIPELINE],
    "decoder, pipeline": [*FP32, *PAIR, *PIPELINE],
    "decoder, tensor": [*FP32, *PAIR, *TENSOR],  # last: what DeepSpeed keeps of it no other mode can use
}
TWO_WORKERS_MORE = {  # in the order of `FOUR_WORKERS`
    **{f"encoder, zero {stage}": [*CALM, *PAIR, f"engine.zero_stage={stage}"] for stage in (0, 1)},
    "decoder, zero 3": [*FP32, *PAIR, "engine.zero_stage=3"],
    "encoder, zero 2 interrupted": [*CALM, *PAIR, *OFTEN, "engine.zero_stage=2"],
    "student inside, zero 3": [*CALM, *INSIDE, *PAIR, "engine.zero_stage=3", "engine.accumulation=2"],
    "encoder, pipeline": [*CALM, *PAIR, "engine.pipeline_stages=2", "engine.accumulation=4"],
    "encoder, pipeline interrupted": [*CALM, *PAIR, *OFTEN, *PIPELINE],
    "decoder student, pipeline": [*FP32, *PAIR, *PIPELINE],
    "encoder, tensor": [*CALM, *PAIR, *TENSOR],
    "decoder student, tensor": [*FP32, *PAIR, *TENSOR],
}
FOUR = ["engine.workers=4"]
FOUR_WORKERS = {  # whole models, then pipelines, then split layers: in one process DeepSpeed keeps some of it
    "encoder, zero 3 accumulated": [*CALM, *FOUR, "engine.zero_stage=3", "engine.accumulation=2"],
    "student, zero 3": [*CALM, *FOUR, "engine.zero_stage=3"],
    **{f"decoder, zero {stage}": [*FP32, *FOUR, f"engine.zero_stage={stage}"] for stage in range(4)},
    "decoder student, zero 3": [*FP32, *FOUR, "engine.zero_stage=3", "engine.accumulation=2"],
    "encoder, pipeline, activations computed twice": [
        *(*CALM, *FOUR, "engine.pipeline_stages=2", "engine.activation_checkpointing=true")
    ],
    "encoder, pipeline": [*CALM, *FOUR, *PIPELINE],
    "student, pipeline": [*CALM, *FOUR, *PIPELINE],
    "encoder, four stages": [*CALM, *FOUR, "engine.pipeline_stages=4", "engine.accumulation=4"],
    "decoder, pipeline": [*FP32, *FOUR, *PIPELINE],
    "decoder student, pipeline": [*FP32, *FOUR, *PIPELINE],
    "encoder, tensor": [*CALM, *FOUR, *TENSOR, "engine.zero_stage=1"],
    "student, tensor": [*CALM, *FOUR, *TENSOR, "engine.zero_stage=1"],
    "decoder, tensor": [*FP32, *FOUR, *TENSOR],
    "decoder student, tensor": [*FP32, *FOUR, *TENSOR],
}
ACCURACIES = {
    "encoder, worse at last": [0.5, 0.9, 0.2],
    "pruned student, rising": [0.9, 0.5, 0.2],
    "encoder, crash before a checkpoint": [0.5, 0.9, 0.2, 0.1],  # the second epoch, run again, goes otherwise
}
Facts = dict[str, Any]


def observe(config: dict[str, Any]) -> dict[str, Facts]:
    """Runs on every worker: one train loop after another."""
    return {name: observe_one(name, fit) for name, fit in config.items()}


def observe_one(name: str, config: dict[str, Any]) -> Facts:
    from deepspeed.accelerator import get_accelerator

    curve: list[float] = []
    heads: list[list[list[float]]] = []
    statistics: list[list[list[float]]] = []
    accuracies = list(ACCURACIES.get(name, []))
    steps = [0]  # begun in each epoch, those before and after an interruption together
    evaluate, save, train, load = loop.evaluate, checkpoint.save, engine.Engine.step, engine.Engine.load

    def watch(task: TrainingTask, model: torch.nn.Module, *rest: Any) -> dict[str, float]:
        heads.append(engine.gather(head(model)))
        running = [buffer.flatten() for buffer_name, buffer in model.named_buffers() if "running" in buffer_name]
        statistics.append(engine.gather(torch.cat(running).tolist() if running else []))
        steps.append(0)
        metrics = evaluate(task, model, *rest)
        return metrics | ({"validation_accuracy": accuracies.pop(0)} if accuracies else {})

    def save_or_crash(training: engine.Engine, folder: Path, epoch: int, *rest: Any) -> None:
        if name == "encoder, crash before a checkpoint" and len(heads) == 2:
            raise ConnectionError
        save(training, folder, epoch, *rest)

    def step_or_crash(training: engine.Engine, *arguments: Any) -> float:
        steps[-1] += 1
        if "interrupted" in name and (len(steps), steps[-1]) == (2, INTERRUPTED_AT):
            raise ConnectionError
        return train(training, *arguments)

    def load_otherwise(training: engine.Engine, folder: Path) -> dict[str, Any]:
        before = torch.get_rng_state()
        progress = load(training, folder)
        if "otherwise" in name:
            torch.set_rng_state(before)
        return progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.train.report", lambda metrics: None)  # it waits for Ray's next look, seconds later
        patch.setattr(loop, "evaluate", watch)
        patch.setattr(loop.checkpoint, "save", save_or_crash)
        patch.setattr(engine.Engine, "step", step_or_crash)
        patch.setattr(engine.Engine, "load", load_otherwise)
        if "fp16" in name:  # which torch computes on a CPU too, slowly
            patch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)
        patch.setattr(loop.Pace, "epoch_done", lambda self, epoch, metrics, _: curve.append(metrics["train_loss"]))
        try:
            best = loop.train_loop(config)
        except ConnectionError:
            best = loop.train_loop(config)
    return {"best": best, "curve": curve, "heads": heads, "statistics": statistics, "steps": steps[:-1]}


def train_and_be_killed_once(config: dict[str, Any]) -> dict[str, float]:
    """Runs on the worker, whose process ends when its second epoch begins."""
    return train_until(config, lambda: os.kill(os.getpid(), signal.SIGKILL))


def train_and_give_up_once(config: dict[str, Any]) -> dict[str, float]:
    """Runs on the worker; the whole run ends when its second epoch begins."""

    def give_up() -> None:
        raise JobError("gave up")

    return train_until(config, give_up)


def train_until(config: dict[str, Any], end: Callable[[], None]) -> dict[str, float]:
    """`end` when the second epoch begins for the first time; `epochs` notes those that were begun."""
    notes = Path(config["work"]).parent / "epochs"
    run_epoch = loop.run_epoch

    def note(training: loop.Training, epoch: int) -> float:
        begun = notes.read_text().count("\n") if notes.exists() else 0
        notes.parent.mkdir(parents=True, exist_ok=True)
        with notes.open("a") as file:
            file.write(f"{[len(batch) for batch in training.epochs[epoch]]}\n")
        if begun == 1:
            end()
        return run_epoch(training, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run_epoch", note)
        return loop.train_loop(config)


def train_and_be_killed(config: dict[str, Any]) -> dict[str, float]:
    """Runs on two workers, of which one dies at a step, once; `steps` notes those that the first one began."""
    place, rank = Path(config["work"]).parent, torch.distributed.get_rank()
    told, killed, train = json.loads((place / "kill").read_bytes()), place / "killed", engine.Engine.step
    left = told["step"]

    def step(self: engine.Engine, *arguments: Any) -> float:
        nonlocal left
        if rank == 0:
            with (place / "steps").open("a") as steps:
                steps.write(f"{left}\n")
        if rank == told["rank"] and not left and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return train(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Engine, "step", step)
        return loop.train_loop(config)


def head(model: torch.nn.Module) -> list[float]:
    """The weights of the last layer, of a decoder a part of them."""
    if isinstance(model, Decoder):
        return model.lm.get_output_embeddings().weight.detach()[:, 0].tolist()  # pyright: ignore[reportOptionalMemberAccess]
    weight: torch.Tensor = model.get_submodule("head").weight  # pyright: ignore[reportAssignmentType]
    return weight.detach().flatten().tolist()


class Shop:
    """Prepared rows, and recipes that each write to a folder of their own."""

    def __init__(self, folder: Path, rows: Path, teacher: Path) -> None:
        self.folder, self.rows = folder, rows
        self.calm = shutil.copytree(teacher, folder / "calm")
        path = self.calm / "config.json"
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        path.write_text(json.dumps(json.loads(path.read_text()) | still))
        self.foreign = write_encoder(folder / "foreign", layers=1, pieces=300)
        self.prepared: Prepared = prepare(self.recipe("prepared", []))
        self.completions: Prepared = prepare(self.recipe("decoder", []))
        self.give_teachers()

    def recipe(self, name: str, overrides: list[str]) -> Recipe:
        given = [
            f"output={folder_of(name)}",
            f"teacher.epochs={EPOCHS}",
            f"distillation.epochs={EPOCHS}",
            "engine.tokens_per_batch=512",
            "engine.max_failures=0",
            *overrides,
        ]
        if "teacher.dropout=0" in overrides:
            given += [f"teacher.model={self.calm}", "teacher.learning_rate=4e-3"]
        file = "completions.yaml" if name.startswith("decoder") else "recipe.yaml"
        return load(Recipe, self.rows / file, given).on_driver(self.folder, self.rows)

    def observe(self, workers: int, runs: dict[str, list[str]], gpu: bool = False) -> dict[str, Facts]:
        with pytest.MonkeyPatch.context() as patch:  # what `finetune` would tell the workers
            patch.setattr(launch, "fit", lambda train_loop, config, *rest: config)
            configs = {name: self.config(name, given) for name, given in runs.items()}
        spec = EngineSpec(workers=workers, cpus_per_worker=1, max_failures=0, use_gpu=gpu)
        return launch.fit(f"{__name__}:observe", configs, spec, self.folder / "ray")

    def config(self, name: str, given: list[str]) -> Any:
        prepared = self.completions if name.startswith("decoder") else self.prepared
        if "student" not in name:
            return finetune(self.recipe(name, given), prepared)
        of = "decoder" if name.startswith("decoder") else "encoder"
        kind = {
            "conv student": ["student.kind=conv", "student.hidden=16", "student.layers=2"],
            "foreign student": ["student.kind=pretrained", f"student.model={self.foreign}", "student.layers=3"],
        }.get(name.removesuffix(", gpu"), ["student.layers=2"])
        step = FURTHER.get(name.removesuffix(", gpu"))
        recipe = self.recipe(name, [*given, f"teacher.bundle={self.folder / of}-given", *kind])
        return distill(
            recipe,
            prepare_student(recipe, prepared),
            self.folder / f"{of}-outputs",
            Path(recipe.output or "", "student"),
            going_on=None if step is None else GoingOn(self.folder / "pruned", DistillStep(step="distill", **step)),
        )

    def give_teachers(self) -> None:
        """Of random weights whose outputs are random, for students to learn from."""
        torch.manual_seed(0)
        classes = len(self.prepared.labels)
        classifier = encoder.pretrained(TeacherSpec(model=str(self.calm)), self.prepared.labels)
        write_reference(self.folder / "encoder-given", classifier, self.prepared, "given", {}, {})
        pruned = zeroed(encoder_student(classifier, StudentSpec(layers=2)), PruneSpec(step="prune", sparsity=0.5), 0)
        write_reference(self.folder / "pruned", pruned, self.prepared, "given", {}, {})
        recipe = self.recipe("decoder", [])
        generator = decoder.pretrained(recipe.teacher, 400, recipe.data.max_length, self.completions.manifest["end"])
        write_reference(self.folder / "decoder-given", generator, self.completions, "given", {}, {})

        def logits(split: PreparedSplit) -> dict[str, Any]:
            rows = len(self.prepared.examples(split))
            logits_NC = 3 * torch.randn(rows, classes).numpy().astype(np.float16)
            logits = pa.FixedSizeListArray.from_arrays(pa.array(logits_NC.ravel(), pa.float16()), classes)
            offsets = pa.array(self.prepared.examples(split).offsets.astype(np.int32))
            inside = {
                name: pa.ListArray.from_arrays(offsets, noise(offsets[-1].as_py(), width))
                for name, width in (("hidden_3", 32), ("relations_3", 96))
            }
            return {"logits": logits, **inside}

        def noise(count: int, width: int) -> pa.FixedSizeListArray:
            numbers = torch.randn(count * width).numpy().astype(np.float16)
            return pa.FixedSizeListArray.from_arrays(pa.array(numbers, pa.float16()), width)

        def tokens(split: PreparedSplit) -> dict[str, Any]:
            places = self.completions.examples(split).targets
            ids = torch.stack([torch.randperm(300)[:STORED] for _ in range(places.sum())])
            log_probs = F.log_softmax(3 * torch.randn(len(ids), STORED + 1), dim=-1)[:, :STORED]
            offsets = pa.array(np.concatenate([[0], np.cumsum(places)]).astype(np.int32))
            columns = {"ids": pa.array(ids.flatten().numpy().astype(np.int32))}
            columns["log_probs"] = pa.array(log_probs.flatten().numpy().astype(np.float16), pa.float16())
            return {
                name: pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(column, STORED))
                for name, column in columns.items()
            }

        self.give_outputs("encoder-outputs", self.prepared, logits)
        self.give_outputs("decoder-outputs", self.completions, tokens)

    def give_outputs(self, name: str, prepared: Prepared, columns: Callable[[PreparedSplit], dict[str, Any]]) -> None:
        def fill(aside: Path) -> dict[str, Any]:
            (aside / ROWS).mkdir()
            for split in SPLITS:
                rows = len(prepared.examples(split))
                table = {"split": [split] * rows, "row": range(rows), **columns(split)}
                pq.write_table(pa.table(table), aside / ROWS / f"{split}.parquet")
            return {}

        commit(self.folder / name, MANIFEST, fill)

    def student(self, name: str) -> Path:
        return self.folder / folder_of(name) / "student"

    def teacher(self, name: str) -> Path:
        return self.folder / folder_of(name) / "teacher"


def folder_of(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def reference_of(name: str) -> str:
    name, *_ = name.split(", gpu")
    return name if name in ONE_WORKER else name.split(",")[0]


@pytest.fixture(scope="module")
def shop(on_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, shop_folder: Path, tiny_teacher: Path) -> Shop:
    session.connect()
    return Shop(tmp_path_factory.mktemp("loop"), shop_folder, tiny_teacher)


@pytest.fixture(scope="module")
def one(shop: Shop) -> dict[str, Facts]:
    return shop.observe(1, ONE_WORKER)


@pytest.fixture(scope="module")
def two(shop: Shop) -> dict[str, Facts]:
    return shop.observe(2, TWO_WORKERS)


@pytest.fixture(scope="module")
def two_more(shop: Shop) -> dict[str, Facts]:
    return shop.observe(2, TWO_WORKERS_MORE)


@pytest.fixture(scope="module")
def four(shop: Shop) -> dict[str, Facts]:
    return shop.observe(4, FOUR_WORKERS)


@pytest.fixture(scope="module")
def on_a_gpu(shop: Shop) -> dict[str, Facts]:
    return shop.observe(1, {name: given for name, (given, _) in ON_A_GPU.items()}, gpu=True)


@pytest.mark.parametrize(("name", "most"), [("decoder", 0.9), ("decoder student", 0.99)])  # of a teacher of noise
def test_a_decoder_learns(one: dict[str, Facts], name: str, most: float):
    first, *_, last = one[name]["curve"]
    assert last < most * first


@pytest.mark.parametrize("name", ["conv student", "foreign student"])
def test_a_student_unlike_its_teacher_learns(one: dict[str, Facts], name: str):
    first, *_, last = one[name]["curve"]
    assert last < 0.99 * first  # of a teacher of noise


def test_a_student_with_tokens_of_its_own_carries_its_tokenizer(one: dict[str, Facts], shop: Shop):
    assert one["foreign student"]["best"]["best_epoch"] > 0
    student = shop.folder / folder_of("foreign student") / "student"
    tokenizer = read_tokenizer(student / read_bundle(student).tokenizer)
    assert tokenizer.to_str() == encoder.load_tokenizer(str(shop.foreign)).to_str()
    assert tokenizer.get_vocab_size() < read_tokenizer(shop.prepared.folder / TOKENIZER).get_vocab_size()


def test_training_learns(one: dict[str, Facts]):
    first, *_, last = one["encoder"]["curve"]
    assert last < 0.8 * first
    assert one["encoder"]["best"]["validation_accuracy"] > 0.35  # of five classes, equally many rows


def test_a_student_of_what_its_teacher_holds_inside_is_kept_without_its_projections(shop: Shop, one: dict[str, Facts]):
    """The first epoch has relations alone, whose loss is another; the next two go down."""
    _, second, third = one["student inside"]["curve"]
    assert third < second
    folder = Path(shop.recipe("student inside", []).output or "", "student")
    assert [head(encoder.load(folder))] == one["student inside"]["heads"][
        one["student inside"]["best"]["best_epoch"] - 1
    ]


@pytest.mark.parametrize(
    ("name", "share"),
    [("pruned student", 0.5), ("pruned student, rising", 0.8), ("pruned student, rising, bf16 weights", 0.8)],
)
def test_a_student_goes_on_with_its_zeros(shop: Shop, one: dict[str, Facts], name: str, share: float):
    before, after = (encoder.load(folder) for folder in (shop.folder / "pruned", shop.student(name)))
    assert sparsity_facts(after)["sparsity"] == pytest.approx(share, abs=1e-3)
    for path, layer in multiplied(after).items():
        assert not layer.weight[before.get_submodule(path).weight == 0].any()
    assert one[name]["curve"][-1] < one[name]["curve"][0]


def test_a_student_that_forgets_its_zeros_has_none(shop: Shop, one: dict[str, Facts]):
    assert sparsity_facts(encoder.load(shop.student("pruned student, forgotten")))["sparsity"] < 0.01


def test_of_a_rising_sparsity_only_epochs_at_its_target_are_kept(one: dict[str, Facts]):
    """0.6 of the steps end in the second of three, and the first was better."""
    best = one["pruned student, rising"]["best"]
    assert (best["best_epoch"], best["validation_accuracy"]) == (2, 0.5)


def test_a_student_that_learns_rounded_is_judged_rounded_and_kept_whole(shop: Shop, one: dict[str, Facts]):
    assert one["pruned student, rounded"]["curve"] != one["pruned student"]["curve"]
    assert one["pruned student, rounded"]["curve"] == pytest.approx(one["pruned student"]["curve"], rel=0.05)
    weight = encoder.load(shop.student("pruned student, rounded")).head.weight
    assert len(weight[0].unique()) == len(weight[0])


@pytest.mark.parametrize("mode", ["accumulated", "activations computed twice", "offloaded"])
def test_how_a_step_is_computed_changes_nothing(one: dict[str, Facts], mode: str):
    assert one[f"encoder, {mode}"]["curve"] == pytest.approx(one["encoder"]["curve"], rel=1e-4)


@pytest.mark.parametrize("mode", TWO_WORKERS)
def test_two_workers_learn_what_one_does(one: dict[str, Facts], two: dict[str, Facts], mode: str):
    assert_alike(two[mode], one[reference_of(mode)])


@pytest.mark.parallel
@pytest.mark.parametrize("mode", TWO_WORKERS_MORE)
def test_two_workers_learn_what_one_does_in_more_modes(one: dict[str, Facts], two_more: dict[str, Facts], mode: str):
    assert_alike(two_more[mode], one[reference_of(mode)])


@pytest.mark.parallel
@pytest.mark.parametrize("mode", FOUR_WORKERS)
def test_four_workers_learn_what_one_does(one: dict[str, Facts], four: dict[str, Facts], mode: str):
    assert_alike(four[mode], one[reference_of(mode)])


def assert_alike(seen: Facts, reference: Facts) -> None:
    """Losses by epoch, the choice of the best, and of the models the heads and the running statistics of norms."""
    assert seen["curve"] == pytest.approx(reference["curve"], rel=1e-4)
    assert seen["best"]["best_epoch"] == reference["best"]["best_epoch"]
    (metric,) = seen["best"].keys() & {"validation_accuracy", "validation_log_likelihood"}
    assert seen["best"][metric] == pytest.approx(reference["best"][metric], rel=1e-4)
    for heads, (expected, *_) in zip(seen["heads"], reference["heads"], strict=True):
        assert heads[0] == pytest.approx(expected, rel=1e-2, abs=1e-3)
    for each, (expected, *_) in zip(seen["statistics"], reference["statistics"], strict=True):
        assert all(own == pytest.approx(expected, rel=1e-3, abs=1e-4) for own in each)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("mode", ON_A_GPU)
def test_a_gpu_learns_what_a_cpu_does(one: dict[str, Facts], on_a_gpu: dict[str, Facts], mode: str):
    seen, (_, tolerance) = on_a_gpu[mode], ON_A_GPU[mode]
    assert not seen["best"].get("overflows")
    if tolerance is None:
        assert seen["curve"][-1] < seen["curve"][0]
    else:
        assert seen["curve"] == pytest.approx(one[reference_of(mode)]["curve"], rel=tolerance)


@pytest.mark.parametrize("mode", TWO_WORKERS)
def test_two_workers_hold_the_same_weights_after_every_epoch(two: dict[str, Facts], mode: str):
    assert len(two[mode]["heads"]) == EPOCHS
    assert all(first == second for first, second in two[mode]["heads"])


@pytest.mark.parametrize("mode", ["bf16", "bf16 weights", "fp16 weights"])
def test_16_bits_learn_nearly_the_same(one: dict[str, Facts], mode: str):
    assert one[f"encoder, {mode}"]["curve"] != one["encoder"]["curve"]
    assert one[f"encoder, {mode}"]["curve"] == pytest.approx(one["encoder"]["curve"], rel=0.05)


def test_the_bundle_holds_the_best_epoch_not_the_last(shop: Shop, one: dict[str, Facts]):
    seen = one["encoder, worse at last"]
    assert (seen["best"]["best_epoch"], seen["best"]["validation_accuracy"]) == (2, 0.9)
    assert read_bundle(shop.teacher("encoder, worse at last")).metrics == seen["best"]
    assert [head(encoder.load(shop.teacher("encoder, worse at last")))] == seen["heads"][1]


@fault("disk full")
def test_a_best_epoch_that_finds_no_room_leaves_the_one_before(tmp_path: Path):
    loop._keep(torch.nn.Linear(2, 2), tmp_path, 1)
    with files_of_at_most(1000), pytest.raises(JobError, match=r"best-0002\.safetensors: not written: File too large"):
        loop._keep(torch.nn.Linear(100, 100), tmp_path, 2)
    assert [each.name for each in tmp_path.iterdir()] == ["best-0001.safetensors"]
    loop._keep(torch.nn.Linear(100, 100), tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_begins_again_keeps_its_own_best_and_not_that_of_the_run_before(tmp_path: Path):
    for epoch in (5, 6, 7, 1, 2, 3, 4):
        loop._keep(torch.nn.Linear(2, 2), tmp_path, epoch)
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"best-000{epoch}.safetensors" for epoch in (2, 3, 4)]


def test_after_a_crash_the_bundle_holds_the_epoch_whose_metrics_it_states(shop: Shop, one: dict[str, Facts]):
    """The second epoch was the best and was kept, but no checkpoint knew of it; run again, it was not."""
    seen = one["encoder, crash before a checkpoint"]
    assert len(seen["heads"]) == EPOCHS + 1
    assert (seen["best"]["best_epoch"], seen["best"]["validation_accuracy"]) == (1, 0.5)
    assert [head(encoder.load(shop.teacher("encoder, crash before a checkpoint")))] == seen["heads"][0]


INTERRUPTED = {
    "encoder, interrupted": "encoder",
    "encoder, interrupted, drops out": "encoder, never killed",
    "pruned student, rising, interrupted": "pruned student, rising",
}


@fault("worker killed")
@pytest.mark.parametrize("mode", INTERRUPTED)
def test_a_run_interrupted_inside_an_epoch_goes_on_there_to_the_same_model(one: dict[str, Facts], mode: str):
    seen, whole = one[mode], one[INTERRUPTED[mode]]
    assert seen["steps"] == [count + (epoch == 1) for epoch, count in enumerate(whole["steps"])]
    assert seen["curve"] == pytest.approx(whole["curve"], rel=1e-6)
    for heads, expected in zip(seen["heads"], whole["heads"], strict=True):
        assert heads[0] == pytest.approx(expected[0], rel=1e-6)


@fault("worker killed")
def test_without_checkpoints_inside_an_epoch_its_steps_are_done_again(one: dict[str, Facts]):
    first, second, third = one["encoder"]["steps"]
    assert one["encoder, interrupted, checkpoints by epoch"]["steps"] == [first, second + INTERRUPTED_AT, third]


@fault("worker killed")
def test_without_its_random_numbers_a_run_goes_on_to_another_model(one: dict[str, Facts]):
    seen, whole = (one[f"encoder, {name}"]["heads"] for name in ("interrupted, drops out otherwise", "never killed"))
    assert seen[0] == whole[0] and seen[1][0] != pytest.approx(whole[1][0], rel=1e-3)


def test_a_finished_run_leaves_no_work_behind(shop: Shop, one: dict[str, Facts]):
    assert not list(shop.folder.glob("*/.work/teacher-*"))


@fault("worker killed")
def test_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_model(
    shop: Shop, one: dict[str, Facts], monkeypatch: pytest.MonkeyPatch
):
    recipe = shop.recipe("killed", ["engine.max_failures=1"])
    monkeypatch.setattr(jobs.finetune, "TRAIN_LOOP", f"{__name__}:train_and_be_killed_once")
    metrics = finetune(recipe, shop.prepared)
    assert_the_second_epoch_was_begun_twice(recipe)
    whole = one["encoder, never killed"]["best"]
    assert metrics.keys() == whole.keys()
    for name in metrics.keys() - {"tokens_per_second"}:
        assert metrics[name] == pytest.approx(whole[name], rel=1e-5), name
    made, reference = (
        encoder.load(folder) for folder in (teacher_folder(recipe), shop.teacher("encoder, never killed"))
    )
    torch.testing.assert_close(made.state_dict(), reference.state_dict(), rtol=1e-4, atol=1e-5)


def assert_the_second_epoch_was_begun_twice(recipe: Recipe) -> None:
    begun = Path(recipe.output or "", ".work", "epochs").read_text().splitlines()
    assert len(begun) == EPOCHS + 1
    assert begun[1] == begun[2]
    assert begun[0] not in begun[1:]


@fault("checkpoint damaged", slow=True)
@pytest.mark.parametrize("named_anew", [True, False])
def test_garbage_in_rays_own_snapshot_is_not_read(shop: Shop, monkeypatch: pytest.MonkeyPatch, named_anew: bool):
    """Every attempt is a run of Ray with a new name; control: under the name of the one before it cannot begin."""
    recipe = shop.recipe(f"snapshot, {named_anew}", ["engine.max_failures=1"])
    monkeypatch.setattr(jobs.finetune, "TRAIN_LOOP", f"{__name__}:train_and_give_up_once")
    if not named_anew:
        monkeypatch.setattr(launch, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="a" * 32)))
    with pytest.raises(JobError, match=r"^gave up$"):
        finetune(recipe, shop.prepared)
    (run,) = Path(recipe.output or "", ".work", "ray").glob("train-*")
    (run / "checkpoint_manager_snapshot.json").write_bytes(b"\0garbage")
    if named_anew:
        finetune(recipe, shop.prepared)
        assert_the_second_epoch_was_begun_twice(recipe)
    else:
        with pytest.raises(JobError, match=r"^training failed: ActorDiedError: .*CheckpointManagerInitializationError"):
            finetune(recipe, shop.prepared)


@pytest.fixture(scope="module")
def unkilled(shop: Shop) -> tuple[dict[str, float], int]:
    """What two workers learn that nobody kills, and the steps that they take."""
    return trained_by_two(shop, "two, unkilled", 0, -1)


def trained_by_two(shop: Shop, name: str, rank: int, step: int, *given: str) -> tuple[dict[str, float], int]:
    recipe = shop.recipe(name, [*CALM, *PAIR, "engine.max_failures=1", *given])
    place = Path(recipe.output or "", ".work")
    place.mkdir(parents=True)
    (place / "kill").write_text(json.dumps({"rank": rank, "step": step}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.finetune, "TRAIN_LOOP", f"{__name__}:train_and_be_killed")
        metrics = finetune(recipe, shop.prepared)
    assert (place / "killed").exists() == (step >= 0)
    return metrics, len((place / "steps").read_text().splitlines())


@fault("one of two workers killed at a random step", runs=10, slow=True)
def test_a_worker_killed_at_any_step_costs_no_more_than_what_lies_between_checkpoints(
    shop: Shop, unkilled: tuple[dict[str, float], int], seed: int
):
    """Checkpoints after every epoch, or after every step: the one that was begun is done again, by the first worker."""
    whole, steps = unkilled
    step = int(np.random.default_rng(seed).integers(0, steps))
    often = seed // 2 % 2
    metrics, taken = trained_by_two(shop, f"two, killed {seed}", seed % 2, step, *(OFTEN if often else []))
    assert 0 <= taken - steps <= (1 if often else steps // EPOCHS + 1)
    assert metrics["validation_accuracy"] == pytest.approx(whole["validation_accuracy"], abs=0.005)

"""Training steps on DeepSpeed; no other module imports it.

One `step` in every mode: data parallel with ZeRO, pipeline, tensor parallel. The mathematics of a step does not
depend on the layout: the loss is the sum over examples divided by the size of the global batch.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from cluster.memory import peak_mb
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.engine import EngineSpec

Batch = dict[str, Tensor]
Loss = Callable[[Any, Batch], Tensor]
Named = Iterable[tuple[str, nn.Parameter]]
OptimizerFactory = Callable[[Named], torch.optim.Optimizer]
ScheduleFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
TAG = "state"
WEIGHT = "weight"  # of a batch, [B]: 1 for an example, 0 for a filler


@dataclass(frozen=True)
class Tied:
    """A pipeline's layer that shares its `weight` with another of the same `key`; their stages keep it equal."""

    key: str
    module: nn.Module
    forward: Callable[[nn.Module, Any], Any]
    multiplies: bool  # whether `forward` multiplies by the weight; else it looks rows up


Layers = Sequence[nn.Module | Tied]


class Engine:
    """A model under training on this worker; every worker makes the same calls."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[str],
        loss: Loss,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory,
        spec: EngineSpec,
        layers: Callable[[nn.Module], Layers] | None = None,
    ) -> None:
        """`model` takes the tensors `inputs` of a batch by name; `loss(outputs, batch)` gives one number a row, [B].

        `schedule` moves once per global batch. `layers(model)` is the model as the list that a pipeline is cut from;
        its first layer takes the tuple of `inputs`. Raises `UsageError` where this device or model cannot do `spec`.
        """
        self._inputs, self._loss, self._spec = tuple(inputs), loss, spec
        self._parts = spec.accumulation
        self._world = torch.distributed.get_world_size()
        self.device = torch.device("cuda", torch.cuda.current_device()) if spec.use_gpu else torch.device("cpu")
        deepspeed = _deepspeed()
        _check_precision(spec)
        self._names = {id(weight): name for name, weight in model.named_parameters()}
        self._some_stay = not all(weight.requires_grad for weight in model.parameters())
        # `whole` fills a copy where this worker holds a part of the model, or holds it in 16 bits.
        halved = spec.precision in ("bf16", "fp16")
        split = spec.pipeline_stages > 1 or spec.tensor_parallel > 1 or self._splits_weights
        self._whole = copy.deepcopy(model) if halved or split else None
        self._pipeline = spec.pipeline_stages > 1
        self._shape: list[torch.Size] = []
        self._labels: list[str] = []
        if self._pipeline:
            if layers is None:
                raise UsageError(f"engine.pipeline_stages: {spec.pipeline_stages}: this model is not known as layers")
            model = self._cut(layers(model))
        elif spec.activation_checkpointing:
            model.gradient_checkpointing_enable()  # pyright: ignore[reportCallIssue]
        adam = optimizer(self._named(model))
        if self._pipeline:
            _even_out(adam, model)
        self._engine, *_ = deepspeed.initialize(
            model=model.to(self.device),
            optimizer=adam,
            lr_scheduler=schedule(adam),
            config=_config(spec, self._world),
            dist_init_required=False,
        )
        if self._world == 1 and not _zero_stage(spec, 1):  # a copy to a flat buffer and back, to be added to nothing
            self._engine.enable_backward_allreduce = False
        self.data_size = self._engine.dp_world_size
        self.data_rank = torch.distributed.get_rank(self._engine.data_parallel_group)

    @property
    def module(self) -> nn.Module:
        """The model that this worker trains, or the part of it that lies here."""
        return self._engine.module

    def minimise(self, loss: Loss) -> None:
        """Go on with another loss; every worker calls it at the same step."""
        self._loss = loss

    @property
    def _splits_weights(self) -> bool:
        return _zero_stage(self._spec, self._world) == 3

    def step(self, parts: Sequence[Batch], size: float) -> float:
        """One optimizer step on this worker's `accumulation` micro-batches of a global batch of `size`.

        `size` is what the loss is divided by: examples, or target tokens. A batch has `weight` [B]: 1 for an example,
        0 for a filler. Returns this worker's share of the mean loss; the shares of all workers add up to it.
        Raises `JobError` on a loss that is not finite.
        """
        # DeepSpeed divides by the number of micro-batches and averages over the data-parallel workers: undone here.
        scale = self._parts * self.data_size / size
        if self._pipeline:
            return self._step_of_pipeline(parts, scale)
        total = 0.0
        for part in parts:
            batch = {name: tensor.to(self.device) for name, tensor in part.items()}
            outputs = self._engine(**{name: batch[name] for name in self._inputs})
            loss = (self._loss(outputs, batch) * batch[WEIGHT]).sum()
            total += _finite(loss.item())
            self._engine.backward(loss * scale)
            self._engine.step()
        return total / size * self.data_size / self._world  # workers that split a layer see the same loss

    def facts(self) -> dict[str, float]:
        """Metrics of the steps so far; all call it.

        The most memory (10^6 bytes) that a worker has had, on a GPU that of its tensors too; with fp16 the number of
        steps that an overflow left out.
        """
        taken = {"worker_peak_mb": peak_mb()}
        if self.device.type == "cuda":
            taken["gpu_peak_mb"] = torch.cuda.max_memory_allocated(self.device) / 1e6
        every = gather(taken)
        facts = {name: max(each[name] for each in every) for name in taken}
        return facts | ({"overflows": self._engine.skipped_steps} if self._spec.precision == "fp16" else {})

    def whole(self) -> nn.Module:
        """The model with its current weights, in float32 where it was built so, on every worker. All call it."""
        if self._whole is None:
            for buffer in self.module.buffers():  # the first worker's running statistics, as in DistributedDataParallel
                torch.distributed.broadcast(buffer, src=0)
            return self.module
        target = {name: weight for name, weight in self._whole.named_parameters() if weight.requires_grad}
        with torch.no_grad():
            for name, weight in self._weights():
                if name in target:  # not the second name of a weight that two layers share
                    target[name].copy_(weight)
            here = dict(self.module.named_buffers())
            for name, buffer in self._whole.named_buffers():
                if name in here:  # a stage numbers its layers otherwise
                    buffer.copy_(here[name])
        return self._whole.to(self.device).train(self.module.training)

    def first_says(self, answer: bool) -> bool:
        """The first worker's answer, on every worker. All call it."""
        if self._world == 1:
            return answer
        flag = torch.tensor([answer], dtype=torch.uint8, device=self.device)
        torch.distributed.broadcast(flag, src=0)
        return bool(flag.item())

    def save(self, folder: Path, progress: dict[str, Any]) -> None:
        """Everything a resumed run needs, from every worker into one folder. Holds pickles: private to the run."""
        state = {"progress": progress, "chance": gather(self._chance())}
        self._engine.save_checkpoint(
            str(folder), tag=TAG, client_state=state, save_latest=False, exclude_frozen_parameters=self._some_stay
        )

    def load(self, folder: Path) -> dict[str, Any]:
        """Load what `save` wrote, with the state of this worker's random numbers; returns its `progress`."""
        _, state = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=not self._some_stay)
        on_cpu, on_gpu = state["chance"][torch.distributed.get_rank()]
        torch.set_rng_state(on_cpu.cpu())
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu.cpu())
        return state["progress"]  # among entries of DeepSpeed's own, which the next `save` must not write again

    def _chance(self) -> tuple[Tensor, Tensor | None]:
        return torch.get_rng_state(), torch.cuda.get_rng_state() if self.device.type == "cuda" else None

    def _cut(self, layers: Layers) -> nn.Module:
        """This worker's pipeline stage; all stages multiply by about equally many parameters."""
        import deepspeed
        from deepspeed.pipe import PipelineModule, TiedLayerSpec

        class Given(TiedLayerSpec):
            """A tied layer that exists already: `build` returns it."""

            def __init__(self, layer: Tied) -> None:
                super().__init__(layer.key, nn.Module, forward_fn=layer.forward)
                self._module = layer.module

            def build(self, log: bool = False) -> nn.Module:
                return self._module

        class Balanced(PipelineModule):
            """Counts no embedding table, as DeepSpeed does: half of a small model, and next to no work."""

            def _count_layer_params(self) -> list[int]:
                return list(map(_multiplied, layers))

        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)  # takes the process group that is there
        stages = self._spec.pipeline_stages
        if stages > len(layers):
            raise UsageError(
                f"engine.pipeline_stages: {stages} stages, but the model has {len(layers)} layers to share"
            )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its seeds
            return Balanced(
                [Given(layer) if isinstance(layer, Tied) else layer for layer in layers],
                num_stages=stages,
                loss_fn=self._loss_of_last_stage,
                partition_method="parameters",
                activation_checkpoint_interval=int(self._spec.activation_checkpointing),
            )

    def _step_of_pipeline(self, parts: Sequence[Batch], scale: float) -> float:
        shape = [tensor.shape for tensor in parts[0].values()]
        if shape != self._shape:
            self._engine.reset_activation_shape()
            self._shape = shape
        self._labels = [name for name in parts[0] if name not in self._inputs]
        micro = [
            (tuple(part[name] for name in self._inputs), (*(part[name] for name in self._labels), torch.tensor(scale)))
            for part in parts
        ]
        mean = self._engine.train_batch(iter(micro))
        return _finite(mean.item()) / self._world

    def _loss_of_last_stage(self, outputs: Tensor, labels: tuple[Tensor, ...]) -> Tensor:
        *tensors, scale = labels
        batch = dict(zip(self._labels, tensors, strict=True))
        return (self._loss(outputs, batch) * batch[WEIGHT]).sum() * scale

    def _named(self, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
        """The weights that learn, under their names in the whole model."""
        learning = (weight for weight in model.parameters() if weight.requires_grad and id(weight) in self._names)
        return [(self._names[id(weight)], weight) for weight in learning]

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name in the whole model, its current tensor) of what learns, on every worker, one at a time. All call it."""
        if self._pipeline:
            yield from self._weights_of_stages()
            return
        from deepspeed.module_inject.layers import GatherReplacedLayerParams
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        for path, module in self.module.named_modules():
            own = [weight for weight in module.parameters(recurse=False) if weight.requires_grad]
            if not own:
                continue
            with contextlib.ExitStack() as gathered:
                gathered.enter_context(GatheredParameters(own, enabled=self._splits_weights))
                gathered.enter_context(GatherReplacedLayerParams(own, module, enabled=self._spec.tensor_parallel > 1))
                for name, weight in module.named_parameters(recurse=False):
                    if weight.requires_grad:
                        yield f"{path}.{name}".lstrip("."), weight.detach()

    def _weights_of_stages(self) -> Iterator[tuple[str, Tensor]]:
        mine = {name: weight.detach() for name, weight in self._named(self.module)}
        described = gather({name: (weight.shape, weight.dtype) for name, weight in mine.items()})
        owners = {name: rank for rank in reversed(range(self._world)) for name in described[rank]}
        for name, owner in sorted(owners.items()):
            if owner == torch.distributed.get_rank():
                weight = mine[name]
            else:
                shape, dtype = described[owner][name]
                weight = torch.empty(shape, dtype=dtype, device=self.device)
            torch.distributed.broadcast(weight, src=owner)
            yield name, weight


def gather(value: Any) -> list[Any]:
    """Each worker's `value`, in the order of ranks, on every worker."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _even_out(optimizer: torch.optim.Optimizer, stage: nn.Module) -> None:
    """Give every pipeline stage the same parameter groups; a group that it lacks holds a single zero.

    DeepSpeed's norm of the gradient waits for the other stages once for each group; a stage with one group more would
    wait for ever.
    """
    own = [_kind(group) for group in optimizer.param_groups]
    every = {repr(kind): kind for kinds in gather(own) for kind in kinds}
    for number, missing in enumerate(sorted(every.keys() - set(map(repr, own)))):
        filler = nn.Parameter(torch.zeros(1, device=next(stage.parameters()).device))
        filler.ds_pipe_replicated = False  # pyright: ignore[reportAttributeAccessIssue]
        stage.register_parameter(f"filler_{number}", filler)
        optimizer.add_param_group({**every[missing], "params": [filler]})
    optimizer.param_groups.sort(key=lambda group: repr(_kind(group)))


def _kind(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _multiplied(layer: nn.Module | Tied) -> int:
    """Parameters that a layer multiplies by; tables that are looked up are none."""
    if isinstance(layer, Tied):
        return sum(weight.numel() for weight in layer.module.parameters()) if layer.multiplies else 0
    computing = (module for module in layer.modules() if not isinstance(module, nn.Embedding))
    return sum(weight.numel() for module in computing for weight in module.parameters(recurse=False))


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise JobError(f"the loss became {loss}; lower the learning rate or look for broken rows")
    return loss


def _check_precision(spec: EngineSpec) -> None:
    from deepspeed.accelerator import get_accelerator

    device: Any = get_accelerator()
    if spec.precision == "fp16" and not device.is_fp16_supported():
        name = device.device_name()
        raise UsageError(f"engine.precision: 'fp16': this {name} device does not compute it; use bf16 or bf16_autocast")


def _zero_stage(spec: EngineSpec, world: int) -> int:
    # One worker has nothing to split; stage 1 would copy every gradient into a flat buffer (1.6x a MiniLM CPU step).
    stage = spec.zero_stage if world > 1 or spec.offload != "none" else 0
    # At stage 0 DeepSpeed adds up bfloat16 gradients as such, divides float16 ones by a scale by which it multiplied no
    # loss, and clips each pipeline stage by its own norm.
    return max(1, stage) if spec.precision in ("bf16", "fp16") or spec.pipeline_stages > 1 else stage


def _config(spec: EngineSpec, world: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": _zero_stage(spec, world)}
    if spec.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if spec.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # nominal: batches are counted in tokens and differ in rows
        "gradient_accumulation_steps": spec.accumulation,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # its Adam is compiled while the job waits; torch's is used
        "gradient_clipping": spec.gradient_clipping,
        "torch_autocast": {"enabled": spec.precision == "bf16_autocast", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if spec.precision == "bf16":
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    if spec.precision == "fp16":
        config["fp16"] = {
            "enabled": True,
            "initial_scale_power": spec.loss_scale.initial_power,
            "loss_scale_window": spec.loss_scale.window,
            "min_loss_scale": spec.loss_scale.minimum,
        }
    if spec.pipeline_stages > 1:
        config["pipeline"] = {"use_reentrant": False}  # the other kind wants a first input that needs a gradient
    if spec.tensor_parallel > 1:
        config["tensor_parallel"] = {"autotp_size": spec.tensor_parallel}
    return config


def _deepspeed() -> Any:
    import logging

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    import deepspeed.ops

    # On CPU DeepSpeed would compile a shared-memory collective with g++ while the job waits; gloo does the work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore[reportAttributeAccessIssue]
    return deepspeed

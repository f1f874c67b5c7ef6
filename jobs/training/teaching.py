"""Teachers at work: Ray Data runs them once over the prepared rows, part by part."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster import cores
from cluster.launch import WORKER_ENVIRONMENT
from configs.folder import FolderError, commit, name_again, verify
from configs.schema.distillation import StoredOutputs, WeightedTeacher
from configs.schema.engine import EngineSpec, Precision
from jobs.data.batches import NO_TARGET, collate, collate_packs
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Examples, Prepared
from jobs.training.outputs import hidden_column, relations_column
from serving.inputs import cut

if TYPE_CHECKING:
    import pyarrow
    import torch

    from jobs.models.decoder import Decoder

ROWS_PER_PART = 2048
TOKENS_PER_PASS = 4096  # padding included
PART = "rows.parquet"


def write_outputs(
    folder: Path,
    teachers: Sequence[WeightedTeacher],
    prepared: Prepared,
    key: str,
    wanted: StoredOutputs,
    engine: EngineSpec,
) -> None:
    """Run the teachers over all prepared rows, sorted by length so that little is padding, with Ray Data.

    Parts of `ROWS_PER_PART` rows are committed one by one beside `folder`: after an interruption the whole parts stay
    as they are. Hidden states are stored of the first teacher alone. Matrix products are in `engine.precision`, as in
    training (an encoder's answers in bfloat16 on intent_banking77 are at a KL divergence of 1e-5 from its answers in
    float32); products for validation rows, by which a teacher is judged, and for greedy completions are in float32.
    Raises `FolderError` where the disk has no room.
    """
    import ray.data

    from cluster.task_errors import Carried

    parts = folder.parent / ".work" / f"{folder.name}-{key[:16]}"
    count = _parts_of(prepared)
    arguments = [str(prepared.folder), str(parts), [tuple(each) for each in teachers], wanted.model_dump()]
    taught = ray.data.range(count, override_num_blocks=count).map_batches(
        Carried,
        batch_size=1,
        fn_constructor_args=[Teach, *arguments, engine.precision, engine.cpus_per_worker],
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0,  # holding cores, it could wait for ever for the tasks around it
        num_gpus=engine.of_each_worker.get("GPU", 0),
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )
    with cores.for_cores():
        said = taught.take_all()
    if trouble := next((each["trouble"] for each in said if each["trouble"]), None):
        raise FolderError(trouble)

    collect(parts, folder, prepared, key, wanted)
    shutil.rmtree(parts, ignore_errors=True)


def collect(parts: Path, folder: Path, prepared: Prepared, key: str, wanted: StoredOutputs) -> None:
    """Commit `folder` of the whole `parts`; one of completions is a folder of prepared rows, too."""

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        facts: dict[str, Any] = {"wanted": wanted.model_dump()}
        if wanted.completions:
            facts = prepared.manifest
            for name in prepared.tokenizer_files:
                shutil.copyfile(prepared.folder / name, aside / name)
        for number in range(_parts_of(prepared)):
            name_again(parts / part_name(number) / PART, aside / ROWS / f"{part_name(number)}.parquet")
        return {**facts, "key": key, "rows": prepared.manifest["rows"]}

    commit(folder, MANIFEST, fill)


def _parts_of(prepared: Prepared) -> int:
    return -(-sum(prepared.manifest["rows"].values()) // ROWS_PER_PART)


def part_name(number: int) -> str:
    """Name of a part of the rows, which are in the order of their lengths."""
    return f"part-{number:05d}"


class Teach:
    """Makes parts of the rows by their numbers; a Ray Data worker loads the teachers once."""

    def __init__(
        self,
        prepared: str,
        parts: str,
        teachers: Sequence[tuple[str, float]],
        wanted: dict[str, Any],
        precision: Precision,
        threads: int,
    ) -> None:
        import pyarrow.parquet
        import torch

        torch.set_num_threads(threads)
        self.parts, self.trouble = Path(parts), ""
        rows = pyarrow.parquet.read_table(Path(prepared) / ROWS)
        self.rows = rows.sort_by([("length", "ascending"), ("split", "ascending"), ("row", "ascending")])
        stored = StoredOutputs.model_validate(wanted)
        self.write: Write | None = None
        if stored.completions:
            self.say = _completions(teachers, Prepared.open(Path(prepared)))
        elif stored.tokens is not None:
            self.say, model = _tokens(teachers, stored, precision)
            if stored.answers:
                self.write = _writer(model, Prepared.open(Path(prepared)))
        else:
            self.say = _classes(teachers, stored, precision)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Commit each part that is not there whole; `trouble` is why no part is, from the first that failed."""
        for number in batch["id"].tolist():
            folder = self.parts / part_name(number)
            try:
                verify(folder, MANIFEST)
            except FolderError:  # no part, or a damaged one
                self.commit(folder, number)
        return {**batch, "trouble": np.array([self.trouble] * len(batch["id"]))}

    def commit(self, folder: Path, number: int) -> None:
        """Make one part, unless the disk had no room before."""
        if not self.trouble:
            try:
                commit(folder, MANIFEST, functools.partial(self.fill, number))
            except FolderError as error:
                self.trouble = str(error)

    def fill(self, number: int, aside: Path) -> dict[str, Any]:
        """Write one part."""
        import pyarrow
        import pyarrow.parquet
        import torch

        torch.manual_seed(number)
        part, said = self.rows.slice(number * ROWS_PER_PART, ROWS_PER_PART), []
        splits = np.array(part["split"].to_pylist())
        for split in np.unique(splits):
            rows = part.take(np.flatnonzero(splits == split))
            texts = self.write(rows) if self.write else None
            for chosen in cut(rows["length"].to_pylist(), TOKENS_PER_PASS):
                batch = rows.take(chosen)
                columns = {"split": batch["split"], "row": batch["row"], **self.say(batch)}
                if texts is not None:
                    columns["answer"] = pyarrow.array([texts[row] for row in chosen], pyarrow.list_(pyarrow.int32()))
                said.append(pyarrow.table(columns))
        pyarrow.parquet.write_table(pyarrow.concat_tables(said), aside / PART)
        return {"rows": len(part)}


Say = Callable[["pyarrow.Table"], "dict[str, pyarrow.Array]"]  # rows of one split -> teacher outputs by column
Write = Callable[["pyarrow.Table"], list[list[int]]]  # rows of one split -> token ids of the texts written for them


def _classes(teachers: Sequence[tuple[str, float]], wanted: StoredOutputs, precision: Precision) -> Say:
    """`logits` of one teacher, or the log of the mean probabilities of several, less the largest of each row.

    Softmax does not depend on that. Logits of far-away grades fit into float16, the farthest as its least.
    Vectors by token are stored of rows to learn from alone: validation looks at answers only.
    """
    import pyarrow
    import torch

    from jobs.models.encoder import INPUTS, load
    from jobs.models.hidden_states import HiddenStates, look_inside

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = [load(Path(folder)).to(device) for folder, _ in teachers]
    weights = torch.tensor([weight for _, weight in teachers], device=device)

    def say(rows: pyarrow.Table) -> dict[str, pyarrow.Array]:
        examples = Examples.from_table(rows)
        batch = collate(examples, np.arange(len(examples)), int(examples.lengths.max()))
        inputs = {name: batch[name].to(device) for name in INPUTS}
        with torch.inference_mode(), _computed(device, precision, rows):
            if wanted.hidden_layers or wanted.relation_layer is not None:
                seen = look_inside(models[0], inputs, wanted.hidden_layers, wanted.relation_layer)
            else:
                seen = HiddenStates(models[0](**inputs), [], [])
            logits_BC = seen.logits_BC
            if len(models) > 1:
                every = torch.stack([logits_BC, *(model(**inputs) for model in models[1:])])
                logits_BC = mean_log_probs(every, weights)
        logits_BC = (logits_BC - logits_BC.amax(1, keepdim=True)).clamp(min=torch.finfo(torch.float16).min)
        flat = pyarrow.array(logits_BC.cpu().to(torch.float16).numpy().ravel(), pyarrow.float16())
        columns: dict[str, pyarrow.Array] = {"logits": pyarrow.FixedSizeListArray.from_arrays(flat, logits_BC.shape[1])}
        stored_BL = batch["attention_mask"].bool() & _learned_from(rows)
        offsets = np.concatenate([[0], stored_BL.sum(1).cumsum(0).numpy()])
        for layer, hidden_BLH in zip(wanted.hidden_layers, seen.hidden, strict=True):
            columns[hidden_column(layer)] = _listed(hidden_BLH[stored_BL], offsets, torch.float16)
        if wanted.relation_layer is not None:
            vectors = torch.cat(seen.relations, dim=-1)[stored_BL]
            columns[relations_column(wanted.relation_layer)] = _listed(vectors, offsets, torch.float16)
        return columns

    return say


def _computed(device: torch.device, precision: Precision, rows: pyarrow.Table) -> AbstractContextManager[object]:
    """Context of a forward pass: 16-bit matrix products for rows to learn from, unless `precision` is fp32."""
    import torch

    half = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "fp32" and _learned_from(rows))


def _learned_from(rows: pyarrow.Table) -> bool:
    """Whether `rows`, all of one split, are to learn from."""
    return rows["split"][0].as_py() == "train"


def mean_log_probs(logits_TBC: torch.Tensor, weight_T: torch.Tensor) -> torch.Tensor:
    """Log of the weighted mean of the probabilities of T teachers, [B, C] (Hinton et al. 2015, section 3)."""
    import torch

    log_probs_TBC = torch.log_softmax(logits_TBC.float(), dim=-1)
    return torch.logsumexp(log_probs_TBC + (weight_T / weight_T.sum()).log()[:, None, None], dim=0)


def _tokens(teachers: Sequence[tuple[str, float]], stored: StoredOutputs, precision: Precision) -> tuple[Say, Decoder]:
    """`ids`, `log_probs` for each place: the likeliest tokens, likeliest first, then drawn ones; and the teacher."""
    import torch
    import torch.nn.functional as F

    from jobs.models.decoder import INPUTS, load
    from jobs.models.reference import read_tokenizer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(teachers[0][0])
    model = load(folder).to(device)
    assert stored.tokens is not None
    most = stored.tokens
    known = 1 + max(read_tokenizer(folder / TOKENIZER).get_vocab().values())  # a table may have rows for no token

    def say(rows: pyarrow.Table) -> dict[str, pyarrow.Array]:
        examples = Examples.from_table(rows)
        packs = [np.array([row]) for row in range(len(examples))]
        batch = collate_packs(examples, packs, int(examples.lengths.max()))
        wanted_BL = batch["target"] != NO_TARGET
        with torch.inference_mode(), _computed(device, precision, rows):
            logits_BLV = model(**{name: batch[name].to(device) for name in INPUTS})
            log_probs_PV = F.log_softmax(logits_BLV[wanted_BL.to(device)][:, :known].float(), dim=-1)
            ids_PK, log_probs_PK = sampled(log_probs_PV, most, stored.draws)
        offsets = np.concatenate([[0], wanted_BL.sum(1).cumsum(0).numpy()])
        log_probs = _listed(log_probs_PK, offsets, torch.float16)
        return {"ids": _listed(ids_PK, offsets, torch.int32), "log_probs": log_probs}

    return say, model


def _writer(model: Decoder, prepared: Prepared) -> Write:
    """Greedy completions of validation rows, by which a teacher is judged; nothing for rows to learn from."""
    from jobs.models.decoder import complete

    end, longest = prepared.manifest["end"], prepared.manifest["max_length"]

    def write(rows: pyarrow.Table) -> list[list[int]]:
        return [[]] * len(rows) if _learned_from(rows) else complete(model, _prompts(rows), longest, end)

    return write


def _completions(teachers: Sequence[tuple[str, float]], prepared: Prepared) -> Say:
    """Rows to learn from, with the teacher's greedy completions as theirs (Kim and Rush 2016, section 3.2)."""
    import pyarrow
    import torch

    from jobs.models.decoder import complete, load

    model = load(Path(teachers[0][0])).to("cuda" if torch.cuda.is_available() else "cpu")
    end, longest = prepared.manifest["end"], prepared.manifest["max_length"]

    def say(batch: pyarrow.Table) -> dict[str, pyarrow.Array]:
        ids, types = batch["input_ids"].to_pylist(), batch["type_ids"].to_pylist()
        learned = range(len(ids)) if _learned_from(batch) else ()
        prompts = _prompts(batch) if learned else []
        completed = complete(model, prompts, longest - 1, end)
        for row, before, after in zip(learned, prompts, completed, strict=True):
            ids[row] = [*before, *after, end][:longest]
            types[row] = ([0] * len(before) + [1] * (len(after) + 1))[:longest]
        return {
            "input_ids": pyarrow.array(ids, pyarrow.list_(pyarrow.int32())),
            "type_ids": pyarrow.array(types, pyarrow.list_(pyarrow.int8())),
            "length": pyarrow.array([len(each) for each in ids], pyarrow.int32()),
            "label": batch["label"].combine_chunks(),
        }

    return say


def _prompts(rows: pyarrow.Table) -> list[list[int]]:
    """Token ids of each row, up to where its completion starts."""
    return [
        [each for each, kind in zip(ids, types, strict=True) if not kind]
        for ids, types in zip(rows["input_ids"].to_pylist(), rows["type_ids"].to_pylist(), strict=True)
    ]


def sampled(log_probs_PV: torch.Tensor, stored: int, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and log-probabilities [P, K + M] of the K likeliest tokens and M drawn, with replacement, from the rest.

    A draw stands for its share of the rest's probability, so that a sum over the stored tokens has the expectation of
    the sum over all tokens; K tokens alone would teach too sharp a distribution (Anshumann et al. 2025, arXiv
    2503.16870). Draws follow torch's random state; there are none where K takes all tokens.
    """
    import torch

    best = log_probs_PV.topk(min(stored, log_probs_PV.shape[1]))
    if not draws or stored >= log_probs_PV.shape[1]:
        return best.indices, best.values
    others_PV = torch.ones_like(log_probs_PV).scatter(1, best.indices, 0.0)
    rest_PV = log_probs_PV.exp().clamp(min=1e-12) * others_PV  # there is something to draw, however sure the teacher is
    drawn_PM = torch.multinomial(rest_PV, draws, replacement=True)
    share_PM = (rest_PV.sum(1, keepdim=True) / draws).log().expand_as(drawn_PM)
    return torch.cat([best.indices, drawn_PM], dim=1), torch.cat([best.values, share_PM], dim=1)


def _listed(values_PD: torch.Tensor, offsets: np.ndarray, kind: torch.dtype) -> pyarrow.ListArray:
    import pyarrow

    flat = pyarrow.array(values_PD.cpu().to(kind).numpy().ravel())
    each = pyarrow.FixedSizeListArray.from_arrays(flat, values_PD.shape[1])
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets.astype(np.int32)), each)

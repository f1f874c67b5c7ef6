"""A decoder that learns other rows than its first ones: by all its weights, or by low-rank matrices beside them."""

from __future__ import annotations

import gzip
import itertools
import shutil
from pathlib import Path

from benchmarks._decoders import SET, STUDY, UNCHECKED, Decoders, named
from benchmarks._recorded import SEEDS
from benchmarks._runs import Runs, Study
from benchmarks._students import ONE_CORE
from configs.schema.models import NewModelSpec
from jobs.measure.comparison import TEACHER

FIRST, THEN = "laptop", "tv"
BASE = "4 layers of 192"  # of TEACHERS
ADAPTER = "teacher.adapter={rank: 16, alpha: 32}"
EPOCHS = "teacher.epochs=5"
RATES = ("1e-3", "4e-3")  # peaks, of which each side takes the one that is better on the validation rows
SIDES = {"an adapter": (ADAPTER,), "all weights": ("teacher.adapter=null",)}
LARGER = NewModelSpec(layers=12, hidden=512, heads=8)
LORA = Study("configs/description_lora.yaml", STUDY.metric, (ONE_CORE, *UNCHECKED), STUDY.rows)
ROWS = 64  # that the larger one reads, in batches of so many tokens
TOKENS = "engine.tokens_per_batch=512"


def adapted(decoders: Decoders) -> dict[str, float]:
    """Test BLEU of both sides, which learn the second rows after the first."""
    base = decoders.of(f"first {FIRST}", _rows(STUDY, FIRST, decoders.sizes(BASE)))
    scores = {THEN: base.known[TEACHER]["bleu"]}
    found = {
        side: max((_learned(decoders, base.teacher, side, rate) for rate in RATES), key=_validated) for side in SIDES
    }
    ours, peer = found.values()
    return {"ours": ours["bleu"], "peer": peer["bleu"], "first_rows": scores[THEN]} | {
        f"{name}_validation": each["validation_bleu"] for name, each in (("ours", ours), ("peer", peer))
    }


def _validated(figures: dict[str, float]) -> float:
    return figures["validation_bleu"]


def _learned(decoders: Decoders, base: Path, side: str, rate: str) -> dict[str, float]:
    told = (f"teacher.model={base}", f"teacher.learning_rate={rate}", EPOCHS, *SIDES[side])
    return decoders.of(f"{side} {rate}", _rows(LORA, THEN, told)).known[TEACHER]


def _rows(study: Study, domain: str, overrides: tuple[str, ...]) -> Study:
    assert study.rows
    return study._replace(rows={**study.rows, "domain": (domain,)}).with_overrides(overrides)


def memory(decoders: Decoders) -> dict[str, float]:
    """The most memory that a worker has in training, both sides."""
    model, data = _larger(decoders), _few(decoders)
    told = (f"teacher.model={model}", "teacher.epochs=1", TOKENS)
    taken: list[float] = []
    for side, own in SIDES.items():
        study = LORA._replace(rows=None).with_overrides((*told, *own))
        runs = Runs(decoders.state / named(f"memory {side}"), data, SET, study, SEEDS[0])
        taken.append(runs.verb("finetune", "again=true")["worker_peak_mb"])
    ours, peer = taken
    return {"ours": ours, "peer": peer, "parameters": _parameters(model)}


def _larger(decoders: Decoders) -> Path:
    """A folder of a decoder with new weights, with the tokenizer of the smaller one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    base, folder = decoders.of(f"first {FIRST}", _rows(STUDY, FIRST, decoders.sizes(BASE))), decoders.state / "larger"
    if not folder.exists():
        base.train()
        config = AutoConfig.from_pretrained(base.teacher)
        config.update(
            {
                "num_hidden_layers": LARGER.layers,
                "hidden_size": LARGER.hidden,
                "intermediate_size": 4 * LARGER.hidden,
                "num_attention_heads": LARGER.heads,
                "num_key_value_heads": LARGER.heads,
                "head_dim": LARGER.hidden // LARGER.heads,
            }
        )
        torch.manual_seed(SEEDS[0])
        partial = folder.with_suffix(".partial")
        AutoModelForCausalLM.from_config(config).save_pretrained(partial)
        for file in base.teacher.glob("*token*"):
            shutil.copy(file, partial)
        partial.rename(folder)
    return folder


def _parameters(model: Path) -> int:
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "numpy") as weights:
        return sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118 - it is no mapping


def _few(decoders: Decoders) -> Path:
    """A folder of data sets in which this one has a few rows."""
    folder = decoders.state / "few"
    for split in ("train", "validation", "test"):
        to = folder / SET / f"{split}.jsonl.gz"
        to.parent.mkdir(parents=True, exist_ok=True)
        with (
            gzip.open(decoders.rows_of(split), "rt", encoding="utf-8") as lines,
            gzip.open(to, "wt", encoding="utf-8") as some,
        ):
            some.writelines(itertools.islice((line for line in lines if '"attributes": []' not in line), ROWS))
    return folder

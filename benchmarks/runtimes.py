"""Runtimes: the one that `export.runtime: auto` takes against every other, over lengths and batches. One thread.

    SLIMCART_DATA=<folder> python -m benchmarks.runtimes

The packaged MiniLM as a classifier of intent_banking77, in each runtime and precision; the figure is rows per second of
the model alone, on rows of one length. Auto chooses at each shape by its own measurement, in a fresh process and with
the tokenizer; then its choice and the fastest of the others take turns.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from benchmarks._compare import compare, exit_code, missing, seconds
from benchmarks._process import one_thread
from configs.folder import commit
from configs.schema.models import TeacherSpec
from configs.schema.recipe import Recipe
from jobs.compression.bundle import compress
from jobs.compression.checks.selection import timed
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Prepared
from jobs.data.tokenise import checked, classes, tokenise_classes
from jobs.measure import flops, peak
from jobs.models import encoder, files, loading
from jobs.models.encoder import EncoderClassifier
from jobs.models.reference import write_reference
from serving.runtimes import open_bundle

SET, LONGEST = "intent_banking77", 128
LENGTHS, BATCHES = (16, 32, 64, 128), (1, 4, 16, 32)
FLOAT, INT8 = [{"step": "export"}], [{"step": "export"}, {"step": "quantize"}]
BUNDLES: dict[str, tuple[list[dict[str, str]], dict[str, str]]] = {  # steps and export
    "ONNX Runtime f32": (FLOAT, {}),
    "ONNX Runtime int8": (INT8, {}),
    "OpenVINO f32": (FLOAT, {"runtime": "openvino"}),
    "OpenVINO bf16": (FLOAT, {"runtime": "openvino", "precision": "bf16"}),
    "OpenVINO int8": (INT8, {"runtime": "openvino"}),
    "OpenVINO int8 and bf16": (INT8, {"runtime": "openvino", "precision": "bf16"}),
}
COMPETE = ("ONNX Runtime int8", "OpenVINO int8", "OpenVINO int8 and bf16")  # what auto times after `quantize`
OF_THE_BEST, OF_EAGER = 0.95, 4.5
CALIBRATION_ROWS = 256
CALL_SECONDS = 0.3  # of a side's turn, about
UNIT = "rows/s"

Call = Callable[[np.ndarray], Any]  # token ids [B, L], all of them of the text


def main() -> int:
    """Measure all rows."""
    one_thread("benchmarks.runtimes")
    folder = os.environ.get("SLIMCART_DATA")
    if not folder:
        missing("auto / the fastest other runtime", UNIT, "SLIMCART_DATA is not set", OF_THE_BEST)
        return exit_code()
    with tempfile.TemporaryDirectory(prefix="slimcart-runtimes-") as place:
        measure(Path(place), Path(folder, SET))
    return exit_code()


def measure(place: Path, data: Path) -> None:
    """All rows, over the files in `data`; what is made lies in `place`."""
    recipe = Recipe.model_validate(
        {
            "name": "runtimes",
            "output": str(place),
            "data": {split: str(data / f"{split}.jsonl.gz") for split in ("train", "validation")}
            | {"max_length": LONGEST},
            "export": {"parity": 0},  # weights of the head are random: labels are near ties
            "budget": {"min_retention": 0},
        }
    )
    prepared = prepared_of(recipe)
    model = encoder.pretrained(TeacherSpec(), prepared.labels).eval()
    student = place / "student"
    write_reference(student, model, prepared, "runtimes", {}, {})
    bundles = {name: place / name.replace(" ", "-") for name in BUNDLES}
    for name, (steps, export) in BUNDLES.items():
        tree = recipe.model_dump() | {"compression": steps, "export": {"parity": 0, **export}}
        compress(Recipe.model_validate(tree), student, bundles[name], {})
    calls = _torch(model) | {name: _bundle(folder) for name, folder in bundles.items()} | _ctranslate2(model, place)
    shapes = [(rows, tokens) for rows in BATCHES for tokens in LENGTHS]
    choices = timed({name: bundles[name] for name in COMPETE}, recipe, shapes)
    peaks = peak.ask()
    work = {tokens: flops.of_model(student / encoder.WEIGHTS, encoder.INPUTS[:2], tokens) for tokens in LENGTHS}
    for rows, tokens in shapes:
        ids_BL = np.resize(prepared.examples("train").ids, (rows, tokens)).astype(np.int64)
        sides = {name: functools.partial(_rate, call, ids_BL) for name, call in calls.items()}
        chosen = min(COMPETE, key=lambda name: choices[name][rows, tokens])
        for call in calls.values():
            call(ids_BL)
        rates = {name: statistics.median(side() for _ in range(3)) for name, side in sides.items()}
        best = max((name for name in sides if name != chosen), key=lambda name: rates[name])
        share = rates[chosen] * work[tokens] / (1e9 * peaks["int8"])
        shape = f"batch {rows}, {tokens} tokens"
        name = f"{shape}: auto ({chosen}, {share:.0%} of the int8 peak) / the fastest other ({best})"
        compare(name, UNIT, sides[chosen], sides[best], _version(best), OF_THE_BEST)
        if (rows, tokens) == (1, 32):
            compare(
                f"{shape}: auto ({chosen}) / eager", UNIT, sides[chosen], sides["eager"], _version("eager"), OF_EAGER
            )
        print({name: round(rate, 1) for name, rate in rates.items()}, file=sys.stderr, flush=True)


def _rate(call: Call, ids_BL: np.ndarray) -> float:
    """Rows per second over about `CALL_SECONDS`."""
    calls = max(1, int(CALL_SECONDS / seconds(lambda: call(ids_BL))))

    def work() -> None:
        for _ in range(calls):
            call(ids_BL)

    return calls * len(ids_BL) / seconds(work)


def _torch(model: EncoderClassifier) -> dict[str, Call]:
    compiled: Any = torch.compile(model, dynamic=True)

    def call(module: Any, ids_BL: np.ndarray) -> Any:
        ids = torch.from_numpy(ids_BL)
        with torch.inference_mode():
            return module(input_ids=ids, attention_mask=torch.ones_like(ids))

    return {"eager": functools.partial(call, model), "torch.compile": functools.partial(call, compiled)}


def _bundle(folder: Path) -> Call:
    model = open_bundle(folder, "classify", 1).model
    return lambda ids_BL: model.logits({"input_ids": ids_BL, "attention_mask": np.ones_like(ids_BL)})


def _ctranslate2(model: EncoderClassifier, place: Path) -> dict[str, Call]:
    """The encoder alone in CTranslate2, with its mean and the head in numpy: it has no such classifier."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    weight_CH, bias_C = model.head.weight.detach().numpy(), model.head.bias.detach().numpy()

    def call(encoder_: Any, ids_BL: np.ndarray) -> np.ndarray:
        lengths = ctranslate2.StorageView.from_array(np.full(len(ids_BL), ids_BL.shape[1], dtype=np.int32))
        ids = ctranslate2.StorageView.from_array(ids_BL.astype(np.int32))
        hidden_BLH = np.asarray(encoder_.forward_batch(ids, lengths).last_hidden_state)
        return hidden_BLH.mean(1) @ weight_CH.T + bias_C

    found: dict[str, Call] = {}
    for kind in ("float32", "int8"):
        folder = place / f"ctranslate2-{kind}"
        TransformersConverter(files.locate(TeacherSpec().model)).convert(str(folder), quantization=kind)
        opened = ctranslate2.Encoder(str(folder), compute_type="default", inter_threads=1, intra_threads=1)
        found[f"CTranslate2 {kind}"] = functools.partial(call, opened)
    return found


def prepared_of(recipe: Recipe) -> Prepared:
    """The rows as `jobs.prepare` leaves them, made without Ray."""
    tables = {split: checked(recipe.data, split)[0] for split in ("train", "validation")}
    labels = classes(tables["train"], {}, recipe.data)
    tokenizer = loading.load_tokenizer(recipe.teacher.model)
    tokenizer.enable_truncation(LONGEST)

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        tokenizer.save(str(aside / TOKENIZER), pretty=False)
        for split, table in tables.items():
            rows = tokenise_classes(table.slice(0, CALIBRATION_ROWS), tokenizer.to_str(), labels)
            pyarrow.parquet.write_table(rows, aside / ROWS / f"{split}.parquet")
        return {"key": "", "labels": labels, "pairs": False, "max_length": LONGEST, "task": "classify"}

    folder = Path(str(recipe.output), "prepared")
    commit(folder, MANIFEST, fill)
    return Prepared.open(folder)


def _version(name: str) -> str:
    packages = {"ONNX": "onnxruntime", "OpenVINO": "openvino", "CTranslate2": "ctranslate2"}
    package = packages.get(name.split()[0], "torch")
    return f"{name}, {package} {importlib.metadata.version(package)}"


if __name__ == "__main__":
    sys.exit(main())

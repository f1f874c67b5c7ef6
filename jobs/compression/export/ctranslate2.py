"""CTranslate2: decoders in its own form, in float or with weights in 8 or 4 bits."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from ctranslate2.specs.model_spec import visit_spec
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, PreTrainedConfig

from cluster.session import JobError
from configs.given import reason
from configs.schema.compression import QuantizeSpec
from jobs.compression import int4
from jobs.compression.checks.sensitivity import quantize_guarded
from jobs.compression.export.small import DIFFERENCE, small
from jobs.compression.step_context import StepContext
from jobs.models import decoder
from jobs.models.decoder import Decoder
from serving.runtimes.ctranslate2 import MODEL, open_generator

FLOATS = {"f32": "float32", "bf16": "bfloat16"}
SOURCE = "transformers"  # folder beside the exported ones that they are converted from
TOKENS = 12  # of the text that a small model is asked about
SCALE = "weight_scale"  # attribute of layers that the library can put in 8 bits


def export(model: Decoder, made: Path, context: StepContext) -> None:
    """Write the folder `made`: model.bin, config.json, vocabulary.json. Raises `JobError` for an unknown kind."""
    source = made.parent / SOURCE
    source.mkdir()
    decoder.save(model, source)
    _converter(source, context).write(made, _float(context))


def try_export(config: PreTrainedConfig) -> None:
    """Convert a small model of `config`. Raises where that fails, or where the converted one scores otherwise.

    A converter may leave out what it does not know, such as another scale of attention.
    """
    model = decoder.from_config(small(config)).eval()
    ids = [number % model.vocabulary for number in range(1, TOKENS + 1)]
    with tempfile.TemporaryDirectory() as folder:
        made = export_numbered(model, Path(folder))
        scores_1LV = np.array(open_generator(made, "f32", 1).forward_batch([[f"<{each}>" for each in ids]]))
    with torch.inference_mode():
        expected_1LV = model(torch.tensor([ids]), torch.arange(TOKENS)[None]).numpy()
    difference = np.abs(scores_1LV - expected_1LV).max() / np.abs(expected_1LV).max()
    if not difference <= DIFFERENCE:  # NaN is a difference
        raise JobError(f"CTranslate2 scores otherwise than the model, by {difference:.1%} of the largest score")


def export_numbered(model: Decoder, folder: Path) -> Path:
    """Export `model` in float below `folder`, its tokens named by their numbers: <0>, which ends a text, <1>, ..."""
    names = {f"<{number}>": number for number in range(model.vocabulary)}
    source, made = folder / SOURCE, folder / "made"
    source.mkdir()
    decoder.save(model, source)
    _Converter(source, Tokens(Tokenizer(WordLevel(names, "<0>")), model.vocabulary, 0)).write(made, FLOATS["f32"])
    return made


def quantize(file: Path, spec: QuantizeSpec, made: Path, context: StepContext) -> None:
    """Write `made`, the form of `file` with the matrices of its layers in 8 bits, one scale to a row, or in 4 bits.

    Embeddings and the output layer stay in float unless asked for: they decide between tokens that are nearly as
    likely. Raises `JobError` where the guard cannot keep the loss in its limit.
    """
    converter = _converter(file.parent / SOURCE, context, spec.tokens)

    def convert(chosen: Collection[str]) -> Path:
        shutil.rmtree(made, ignore_errors=True)
        if spec.bits == 8:
            converter.write(made, f"int8_{_float(context)}", chosen)
        else:
            converter.write(made, _float(context))
            int4.put(made / MODEL, [f"{layer}/weight" for layer in chosen], spec.group)
        return made

    quantize_guarded(file, converter.layers(), convert, spec, context)


def _float(context: StepContext) -> str:
    return FLOATS[context.recipe.export.precision or "f32"]


class Tokens:
    """The part of a tokenizer that the converter needs: names of tokens, and the token that ends a text."""

    def __init__(self, tokenizer: Tokenizer, rows: int, end: int) -> None:
        """`rows`: number of rows of the embedding table; rows without a token are named by their number."""
        names = {number: name for name, number in tokenizer.get_vocab().items()}
        self._vocabulary = {names.get(number, f"<unused {number}>"): number for number in range(rows)}
        self.bos_token = self.eos_token = self.unk_token = names[end]

    def get_vocab(self) -> dict[str, int]:
        """Numbers of all tokens by name."""
        return self._vocabulary


class _Converter(TransformersConverter):
    """Takes the tokens as they are: transformers would guess further ones for this kind of model."""

    def __init__(self, source: Path, tokens: Tokens, with_tokens: bool = False) -> None:
        """`with_tokens`: the token table and the output layer may be put in 8 bits, too."""
        super().__init__(str(source))
        self._tokens, self._with_tokens = tokens, with_tokens
        self._chosen: Collection[str] = ()

    def load_tokenizer(self, *_: Any, **__: Any) -> Tokens:
        return self._tokens

    def layers(self) -> list[str]:
        """Names of the layers that may be put in 8 bits."""
        return [name for name, _ in _scaled(self._whole)]

    def write(self, made: Path, kind: str, chosen: Collection[str] = ()) -> None:
        """Write the folder `made`, the `chosen` layers in the `kind` of number."""
        self._chosen = chosen
        try:
            self.convert(str(made), quantization=kind)
        except Exception as error:
            raise JobError(f"CTranslate2 cannot convert this decoder: {reason(error)}") from error

    @cached_property
    def _whole(self) -> Any:
        spec: Any = super()._load()
        config = AutoConfig.from_pretrained(self._model_name_or_path, trust_remote_code=False)
        size = getattr(config, "head_dim", None)
        if size is not None and size * config.num_attention_heads != config.hidden_size:
            for layer in spec.decoder.layer:  # Llama's loader leaves it out, and the specs take no new attribute
                vars(layer.self_attention)["head_dim"] = np.dtype("int32").type(size)
        for kept in () if self._with_tokens else (spec.decoder.embeddings, spec.decoder.projection):
            delattr(kept, SCALE)
        return spec

    def _load(self) -> Any:
        spec = copy.deepcopy(self._whole)  # converting changes it
        for name, layer in _scaled(spec):
            if name not in self._chosen:
                delattr(layer, SCALE)  # a layer without a scale stays in float
        return spec


def _scaled(spec: Any) -> list[tuple[str, Any]]:
    """Layers that have a place for a scale, by name."""
    scaled: list[tuple[str, Any]] = []

    def look(layer: Any, name: str, _: Any) -> None:
        if name.endswith(f"/{SCALE}"):
            scaled.append((name.removesuffix(f"/{SCALE}"), layer))

    visit_spec(spec, look)
    return scaled


def _converter(source: Path, context: StepContext, with_tokens: bool = False) -> _Converter:
    rows = AutoConfig.from_pretrained(source, trust_remote_code=False).vocab_size
    return _Converter(source, Tokens(context.tokenizer, rows, decoder.end_of(str(source))), with_tokens)

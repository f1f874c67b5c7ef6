"""CTranslate2: decoders in its own form, in float or with weights in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer
from transformers import AutoConfig

from cluster.session import JobError
from jobs.compression.spec import QuantizeSpec
from jobs.compression.workplace import Workplace
from jobs.models import decoder
from jobs.models.decoder import Decoder

FLOATS = {"f32": "float32", "bf16": "bfloat16"}
SOURCE = "transformers"  # folder beside the exported ones: what they are converted from


def export(model: Decoder, made: Path, workplace: Workplace) -> None:
    """Write the folder `made`: model.bin, config.json, vocabulary.json. Raises `JobError` for an unknown kind."""
    source = made.parent / SOURCE
    source.mkdir()
    decoder.save(model, source)
    _convert(source, made, _float(workplace), workplace)


def quantize(file: Path, spec: QuantizeSpec, made: Path, workplace: Workplace) -> None:
    """Write `made`, the form of `file` whose layers have their matrices in int8, one scale to a row.

    Embeddings and the output layer stay in float: they decide between tokens that are nearly as likely.
    """
    _convert(file.parent / SOURCE, made, f"int8_{_float(workplace)}", workplace)


def _float(workplace: Workplace) -> str:
    return FLOATS[workplace.recipe.export.precision or "f32"]


class Tokens:
    """What the converter asks of a tokenizer: names of tokens, of which one ends a text."""

    def __init__(self, tokenizer: Tokenizer, rows: int, end: int) -> None:
        """`rows`: of the embedding table; those that no token has are named by their number."""
        names = {number: name for name, number in tokenizer.get_vocab().items()}
        self._vocabulary = {names.get(number, f"<unused {number}>"): number for number in range(rows)}
        self.bos_token = self.eos_token = self.unk_token = names[end]

    def get_vocab(self) -> dict[str, int]:
        """Numbers of all tokens by name."""
        return self._vocabulary


class _Converter(TransformersConverter):
    """Takes the tokens as given: transformers would guess what else a tokenizer of this kind of model has."""

    def __init__(self, source: Path, tokens: Tokens) -> None:
        super().__init__(str(source))
        self._tokens = tokens

    def load_tokenizer(self, *_: Any, **__: Any) -> Tokens:
        return self._tokens

    def _load(self) -> Any:
        spec: Any = super()._load()
        for kept in (spec.decoder.embeddings, spec.decoder.projection):
            del kept.weight_scale  # what has no scale is not put in 8 bits
        return spec


def _convert(source: Path, made: Path, kind: str, workplace: Workplace) -> None:
    rows = AutoConfig.from_pretrained(source).vocab_size
    tokens = Tokens(workplace.tokenizer, rows, decoder.end_of(str(source)))
    try:
        _Converter(source, tokens).convert(str(made), quantization=kind)
    except (ValueError, NotImplementedError) as error:
        raise JobError(f"CTranslate2 cannot convert this decoder: {str(error).splitlines()[0]}") from None

"""Decoders small enough to build in a test: bytes in, bytes out, by random weights or by a script."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as token_models

from serving.bundle import Bundle, write_bundle

END = "<end>"
HIDDEN, LAYERS, HEADS = 32, 2, 2


def write_tiny_decoder(
    folder: Path,
    script: bytes | None = None,
    seed: int = 0,
    max_length: int = 64,
    beside: Callable[[Path], None] = lambda _: None,
    template: str | None = None,
    **fields: Any,
) -> Bundle:
    """A CTranslate2 bundle with one token for each byte.

    With a `script` the token at place p of prompt and text together is its byte p, whatever was asked, and the text
    ends behind it. Without, random weights (those of `seed`) choose, and texts rarely end by themselves. `beside`
    writes further files.
    """

    def fill(aside: Path) -> None:
        beside(aside)
        words = byte_tokenizer()
        words.save(str(aside / "tokenizer.json"))
        names = sorted(words.get_vocab(), key=lambda name: words.get_vocab()[name])
        spec = (
            _scripted(script, len(names), max_length) if script is not None else _random(seed, len(names), max_length)
        )
        spec.register_vocabulary(names)
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = END
        spec.validate()
        with tempfile.TemporaryDirectory() as made:
            spec.save(made)
            for name in ("model.bin", "config.json", "vocabulary.json"):
                (aside / name).write_bytes(Path(made, name).read_bytes())
        if template:
            (aside / "chat.jinja").write_text(template, encoding="utf-8")
        assert json.loads((aside / "vocabulary.json").read_bytes()) == names

    given: dict[str, Any] = {
        "name": "tiny",
        "task": "generate",
        "chat_template": "chat.jinja" if template else None,
        "runtime": "ctranslate2",
        "model": "model.bin",
        "inputs": ["input_ids"],
        "max_length": max_length,
    }
    return write_bundle(folder, {**given, **fields}, fill)


def byte_tokenizer() -> Tokenizer:
    """One token for each byte, in the order of its values, and one that ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte)
    made = Tokenizer(token_models.BPE({name: number for number, name in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    made.add_special_tokens([AddedToken(END, special=True)])
    return made


def _byte(name: str) -> int:
    """The byte that a token of the byte-level alphabet stands for (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [each for each in range(256) if each not in shown]
    return ord(name) if ord(name) in shown else hidden[ord(name) - 256]


def _random(seed: int, vocabulary: int, positions: int) -> Any:
    chance = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (0.4 * chance.normal(size=shape)).astype(np.float32)

    spec = _filled(LAYERS, HIDDEN, normal)
    spec.decoder.embeddings.weight = normal(vocabulary, HIDDEN)
    spec.decoder.position_encodings.encodings = normal(positions, HIDDEN)
    spec.decoder.projection.weight = normal(vocabulary, HIDDEN)
    return spec


def _scripted(script: bytes, vocabulary: int, positions: int) -> Any:
    """Places are told by one-hot position embeddings, and each names the next byte; all else is zero."""
    spec = _filled(1, positions, lambda *shape: np.zeros(shape, np.float32))
    spec.decoder.embeddings.weight = np.zeros((vocabulary, positions), np.float32)
    spec.decoder.position_encodings.encodings = np.eye(positions, dtype=np.float32)
    following = [*script[:positions], *[vocabulary - 1] * positions][1 : positions + 1]
    spec.decoder.projection.weight = np.eye(vocabulary, dtype=np.float32)[following].T.copy()
    return spec


def _filled(layers: int, width: int, make: Callable[..., np.ndarray]) -> Any:
    """GPT-2 with weights from `make(*shape)`, without embeddings and projection."""
    from ctranslate2.specs import common_spec, transformer_spec

    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        layers, HEADS, pre_norm=True, activation=common_spec.Activation.GELU
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    _set_norm(decoder.layer_norm, width)
    for layer in decoder.layer:
        attention, ffn = layer.self_attention, layer.ffn
        _set_norm(attention.layer_norm, width)
        _set_norm(ffn.layer_norm, width)
        shapes = ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))
        parts: tuple[Any, ...] = (attention.linear[0], attention.linear[1], ffn.linear_0, ffn.linear_1)
        for linear, shape in zip(parts, shapes, strict=True):
            linear.weight, linear.bias = make(*shape), np.zeros(shape[0], np.float32)
    return spec


def _set_norm(norm: Any, width: int) -> None:
    norm.gamma, norm.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

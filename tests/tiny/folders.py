"""Model folders as `transformers` saves them: random weights of many families, 32 wide, with a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = ["where", "is", "my", "order", "parcel", "refund", "late", "please", "money", "back"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
END = "<|end|>"
POSITIONS = 64
WIDE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
PLAIN = {**WIDE, "max_position_embeddings": POSITIONS}
COUNTED = {**WIDE, "max_position_embeddings": POSITIONS + 1, "pad_token_id": 0}  # positions after the padding id, 0
GPT = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": POSITIONS}
LLAMA = {**PLAIN, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": None}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": PLAIN,
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": POSITIONS},
    "roberta": COUNTED,
    "xlm-roberta": COUNTED,
    "camembert": COUNTED,
    "mpnet": {**COUNTED, "max_position_embeddings": POSITIONS + 2, "pad_token_id": 1},  # whatever the config says
    "electra": {**PLAIN, "embedding_size": 16},
    "albert": {**PLAIN, "embedding_size": 16},
    "convbert": {**PLAIN, "embedding_size": 32},
    "deberta": {**PLAIN, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deberta-v2": {
        **PLAIN,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    "modernbert": {
        **PLAIN,
        "global_attn_every_n_layers": 2,
        "local_attention": 16,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 8},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "max_position_embeddings": POSITIONS,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
    },
    "gpt_neox": PLAIN,
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 2},
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 1,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "pad_token_id": 0},
    "phi": PLAIN,
    "phi3": {**PLAIN, "num_key_value_heads": 2, "pad_token_id": 0},
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": {**LLAMA, "query_pre_attn_scalar": 16},
    "gemma3_text": {**LLAMA, "query_pre_attn_scalar": 16},
}
BOTH: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "max_position_embeddings": POSITIONS,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    },
}


def word_tokenizer(folder: Path, added: tuple[str, ...] = ()) -> int:
    """A BERT-like tokenizer of a few words; returns the number of its tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, token in enumerate([*SPECIAL, *WORDS])}
    made: Any = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    around: Any = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    made.add_tokens(list(added))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)
    return made.get_vocab_size()


def byte_tokenizer(folder: Path, added: tuple[str, ...] = ()) -> int:
    """Bytes, and a token that ends a text, with id 0; returns the number of its tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made: Any = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_tokens(list(added))
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END).save_pretrained(folder)
    return made.get_vocab_size()


def encoder_folder(folder: Path, kind: str = "bert", auto: str = "AutoModel", **entries: Any) -> Path:
    """A pretrained encoder; `entries` are of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    return _saved(folder, kind, auto, {"vocab_size": word_tokenizer(folder), **ENCODERS[kind], **entries})


def decoder_folder(folder: Path, kind: str = "gpt2", auto: str = "AutoModelForCausalLM", **entries: Any) -> Path:
    """A pretrained decoder whose token 0 ends a text; `entries` are of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    rows = byte_tokenizer(folder)
    return _saved(folder, kind, auto, {"vocab_size": rows, **ends, **DECODERS[kind], **entries})


def both_folder(folder: Path, kind: str) -> Path:
    """A pretrained encoder-decoder."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    return _saved(folder, kind, "AutoModel", {"vocab_size": word_tokenizer(folder), **ids, **BOTH[kind]})


def change_json(path: Path, **entries: Any) -> None:
    """Set entries of a JSON file."""
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(told | entries), encoding="utf-8")


def _saved(folder: Path, kind: str, auto: str, entries: dict[str, Any]) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **entries)
    getattr(transformers, auto).from_config(config).save_pretrained(folder)
    return folder

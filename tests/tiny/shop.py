"""Five intents of the embedded shop and an encoder that a test can train on them in seconds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from jobs.data.shop import INTENTS, messages

if TYPE_CHECKING:
    import pyarrow

CHOSEN = INTENTS[:5]
ROWS_PER_INTENT = {"train": 60, "validation": 16, "test": 16}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_rows(folder: Path) -> None:
    """train.jsonl, validation.jsonl and test.jsonl, each intent equally often."""
    for split, wanted in ROWS_PER_INTENT.items():
        taken: Counter[str] = Counter()
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for row in messages(split):  # type: ignore[arg-type]
                if row["label"] in CHOSEN and taken[row["label"]] < wanted:
                    taken[row["label"]] += 1
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_recipe(folder: Path, teacher: Path) -> Path:
    """recipe.yaml over the rows in `folder`, with absolute paths: a submitted job runs in a copy elsewhere."""
    recipe = {
        "name": "tiny-shop",
        "data": {split: str(folder / f"{split}.jsonl") for split in ROWS_PER_INTENT} | {"max_length": 48},
        "teacher": {"model": str(teacher), "epochs": 2, "learning_rate": 2e-3, "head_learning_rate": 1e-2},
        "student": {"layers": 1},
        "distillation": {"epochs": 2, "learning_rate": 2e-3, "head_learning_rate": 1e-2},
        "engine": {"cpus_per_worker": 1, "tokens_per_batch": 1024},
        "export": {"lengths": [16], "batches": [1, 4]},
        "budget": {"min_retention": 0.5},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def write_completions(folder: Path) -> Path:
    """completions.yaml: of the same rows, the text out of its intent's name, by a decoder of new weights."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": "tiny-completions", "task": "generate"}
    recipe["data"] |= {"text": "label", "label": "text", "max_length": 64}
    recipe["teacher"] = {
        "model": "new:llama",
        "new": {"layers": 3, "hidden": 32, "heads": 2, "vocabulary": 400},
        "epochs": 2,
        "learning_rate": 5e-3,
    }
    recipe["export"] = {"batches": [1, 4], "parity": 0}  # so short a training leaves tokens that are nearly as likely
    del recipe["distillation"]["head_learning_rate"]
    path = folder / "completions.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def write_encoder(folder: Path, layers: int = 3, pieces: int = 600) -> Path:
    """A BERT of random weights, 32 wide, and its tokenizer, as `transformers` saves them."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = tokenizer([row["text"] for row in messages("train")], pieces)
    saved = PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=128,
        **{name: f"[{name[:3].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")},
        mask_token="[MASK]",
    )
    saved.save_pretrained(folder)
    config = BertConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


def tokenizer(texts: list[str], pieces: int = 600):
    """WordPiece of at most so many pieces, with BERT's frame around one text or two."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()  # type: ignore[assignment]
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    made.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=pieces, special_tokens=SPECIAL))
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    return made


def write_locally(
    tables: Sequence[pyarrow.Table], folder: Path, tokenise: Callable[..., pyarrow.Table], at: str = "tokenizer"
) -> None:
    """`write_shards` in this process, without Ray Data."""
    import pyarrow.parquet

    folder.mkdir()
    for number, table in enumerate(tables):
        pyarrow.parquet.write_table(tokenise(table, at=at), folder / f"{number}.parquet")

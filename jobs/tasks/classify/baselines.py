"""Baselines of a classifier, as bundles: a linear SVM of TF-IDF, and the mean of the teacher's token embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from configs.loader import UsageError
from configs.schema.runtimes import VOCABULARY
from jobs.data.source import Row
from jobs.data.vocabulary import reduced
from jobs.measure.answers import input_of
from jobs.measure.baselines import Made, Source, embedding_table
from jobs.measure.grams import STRINGS, WORDS, Grams, fit_grams
from jobs.models.reference import read_reference, read_tokenizer
from serving import units
from serving.inputs import joined
from serving.runtimes.linear import CHARACTERS, WORD_PAIRS

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC
    from tokenizers import Tokenizer

ITERATIONS = 1000  # at most; scikit-learn's 100 end before they converge
OPSET, IR_VERSION = 17, 9


def make_tfidf(source: Source) -> Made:
    """TF-IDF of words, word pairs and strings of characters under a linear SVM.

    The strings are left out where words alone are better on the validation rows. All else is scikit-learn's default,
    but grams of a single row are left out, and characters are words where a script has no spaces (`serving.units`).
    Both texts of a pair are read as one.
    """
    texts, labels = [joined(input_of(row)) for row in source.train], [row.label for row in source.train]
    words, strings = (fit_grams(texts, options) for options in (WORDS, STRINGS))
    choices = [_fit_svm(parts, labels) for parts in ((words, strings), (words, None)) if any(parts)]
    fitted, classifier = max(choices, key=lambda choice: _value(choice, source))  # the one with both if they are equal
    weights_CG, intercept_C = _of_each_class(classifier)
    idf_G = np.concatenate([part.vectorizer.idf_ for part in fitted if part])
    rows_GK = np.concatenate([idf_G[:, None], weights_CG.T], axis=1)
    named_by = [part.vectorizer.get_feature_names_out().tolist() if part else [] for part in fitted]
    alone, pairs = ([place for place, gram in enumerate(named_by[0]) if (" " in gram) == two] for two in (False, True))
    strings = range(len(named_by[0]), len(rows_GK))
    ends_1K = np.append(0.0, intercept_C)[None]
    rows_GK = np.concatenate([rows_GK[[*alone, *pairs, *strings]], ends_1K]).astype(np.float32)
    known_words, word_pairs = ([named_by[0][place] for place in places] for places in (alone, pairs))

    def fill(aside: Path) -> None:
        _of_words(known_words).save(str(aside / "tokenizer.json"), pretty=False)
        known = {WORD_PAIRS: word_pairs, CHARACTERS: named_by[1]}
        text = json.dumps(known, ensure_ascii=False, separators=(",", ":"))
        (aside / VOCABULARY).write_text(text, encoding="utf-8")
        np.save(aside / "model.npy", rows_GK, allow_pickle=False)

    fields = {"runtime": "linear", "model": "model.npy", "inputs": [], "labels": classifier.classes_.tolist()}
    return Made(fields, fill)


class OfGrams(NamedTuple):
    """A linear SVM of the features of grams, side by side; None for grams left out, or that no text has."""

    parts: Sequence[Grams | None]
    classifier: LinearSVC


def _fit_svm(parts: Sequence[Grams | None], labels: Sequence[str]) -> OfGrams:
    from scipy.sparse import hstack
    from sklearn.svm import LinearSVC

    features_NG = hstack([part.features_NG for part in parts if part]).tocsr()
    return OfGrams(parts, LinearSVC(random_state=0).fit(features_NG, labels))


def _value(fitted: OfGrams, source: Source) -> float:
    from scipy.sparse import hstack

    texts = [joined(input_of(row)) for row in source.validation]
    features_NG = hstack([part.vectorizer.transform(texts) for part in fitted.parts if part]).tocsr()
    return source.value(np.asarray(fitted.classifier.predict(features_NG)).tolist())


def _of_words(words: Sequence[str]) -> Tokenizer:
    """A tokenizer that counts a text by the words of the runtime, which looks up its words in there."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    number = {word: index for index, word in enumerate([*words, "[UNK]"])}
    tokenizer = Tokenizer(models.WordLevel(number, unk_token="[UNK]"))  # noqa: S106 - no password
    counted = r"\w\w+" if words else r"\S+"  # without known words, all that stands between spaces
    if any(map(units.has_characters, words)):
        counted = rf"{units.CHARACTER}|(?:(?!{units.CHARACTER})\w){{2,}}"
    tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(counted), "removed", invert=True)  # type: ignore[assignment]
    return tokenizer


def _of_each_class(classifier: Any) -> tuple[np.ndarray, np.ndarray]:
    """(weights [C, F], intercepts [C]); scikit-learn's for two classes are of the second against the first."""
    weights_CF, intercept_C = classifier.coef_, classifier.intercept_
    if len(weights_CF) == 1:
        weights_CF = np.concatenate([np.zeros_like(weights_CF), weights_CF])
        intercept_C = np.append(0.0, intercept_C)
    return weights_CF, intercept_C


def make_static(source: Source) -> Made:
    """The mean of a text's token embeddings under a logistic regression of standardised features.

    The embeddings are the input table of the teacher, unchanged: a static model in the manner of
    github.com/MinishLab/model2vec. The file holds the tokens of the training rows, or all tokens where that is better
    on the validation rows, because words that no training row has then count, too. Weights by frequency (Arora et al.
    2017) made it worse on banking77. A pair of means u, v becomes [|u - v|, u * v] (Tai et al. 2015, arXiv 1503.00075,
    section 4.2). For single texts the file holds what each token adds to every class, where that is smaller than its
    vector: the mean is linear.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    used, whole = _tables(source)
    scaler, classifier = StandardScaler(), LogisticRegression(max_iter=ITERATIONS)
    classifier.fit(scaler.fit_transform(_features(used, source.train)), [row.label for row in source.train])
    weights_CF, bias_C = _of_each_class(classifier)
    weights_CF = weights_CF / np.asarray(scaler.scale_)
    bias_C = bias_C - weights_CF @ np.asarray(scaler.mean_)

    def value(table: Table) -> float:
        best_N = (_features(table, source.validation) @ weights_CF.T + bias_C).argmax(axis=1)
        return source.value(classifier.classes_[best_N].tolist())

    table_VH, tokenizer = max((used, whole), key=value)  # the smaller one if they are equal

    def fill(aside: Path) -> None:
        import onnx
        from tokenizers import processors

        onnx.save(_graph(table_VH, weights_CF, bias_C, source.pairs), str(aside / "model.onnx"))
        alone = processors.TemplateProcessing(single="$A", pair="$A:0 $B:1", special_tokens=[])
        tokenizer.post_processor = alone  # type: ignore[assignment] - no tokens around a text
        tokenizer.enable_padding(pad_id=len(table_VH) - 1, pad_token="[PAD]")  # noqa: S106 - no password
        tokenizer.save(str(aside / "tokenizer.json"), pretty=False)

    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if source.pairs else [])]
    fields = {"runtime": "onnxruntime", "model": "model.onnx", "inputs": inputs, "labels": classifier.classes_.tolist()}
    return Made(fields, fill)


def _texts(row: Row) -> tuple[str, ...]:
    return (row.text,) if row.pair is None else (row.text, row.pair)


class Table(NamedTuple):
    """Vectors of tokens, with a last one of 0 for padding, and the tokenizer that cuts texts into them."""

    vectors_VH: np.ndarray
    tokenizer: Tokenizer


def _tables(source: Source) -> tuple[Table, Table]:
    """The teacher's table cut to the tokens of the training rows, and the whole table; both cut these rows alike."""
    from safetensors import safe_open

    assert source.teacher is not None
    bundle, name = read_reference(source.teacher, "python -m jobs.finetune"), embedding_table(source.teacher)
    assert name is not None
    with safe_open(source.teacher / bundle.model, framework="numpy") as file:
        table_VH: np.ndarray = file.get_tensor(name).astype(np.float32)
    whole = read_tokenizer(source.teacher / bundle.tokenizer)
    whole.no_padding()
    texts = [text for row in source.train for text in _texts(row)]
    used = {index for each in whole.encode_batch(texts, add_special_tokens=False) for index in each.ids}
    tokenizer, kept = _cut(whole, used)
    padding_1H = np.zeros_like(table_VH[:1])
    cut_VH, whole_VH = (np.concatenate([vectors_VH, padding_1H]) for vectors_VH in (table_VH[kept], table_VH))
    return Table(cut_VH, tokenizer), Table(whole_VH, whole)


def _cut(tokenizer: Tokenizer, used: set[int]) -> tuple[Tokenizer, list[int]]:
    """`reduced` as far as this kind of tokenizer allows."""
    for characters in ("seen", "all"):
        try:
            return reduced(tokenizer, used, characters)
        except UsageError:
            continue
    return tokenizer, list(range(tokenizer.get_vocab_size()))


def _features(table: Table, rows: Sequence[Row]) -> np.ndarray:
    """The mean vector of each row's text [N, H]; for pairs the difference and the product of both means [N, 2 H]."""
    means = [_means(table, texts) for texts in zip(*map(_texts, rows), strict=True)]
    return means[0] if len(means) == 1 else np.concatenate([abs(means[0] - means[1]), means[0] * means[1]], axis=1)


def _means(table: Table, texts: Sequence[str]) -> np.ndarray:
    """The mean vector [N, H] of the tokens of each text; 0 for a text without tokens."""
    mean_NH = np.zeros((len(texts), table.vectors_VH.shape[1]), dtype=np.float32)
    for row, encoding in enumerate(table.tokenizer.encode_batch(list(texts), add_special_tokens=False)):
        if encoding.ids:
            mean_NH[row] = table.vectors_VH[encoding.ids].mean(axis=0)
    return mean_NH


def _graph(table_VH: np.ndarray, weights_CF: np.ndarray, bias_C: np.ndarray, pairs: bool) -> Any:
    """The ONNX graph of `make_static`: int64 inputs [batch, length], `logits` [batch, C]."""
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node
    constants: dict[str, np.ndarray] = {"bias": bias_C, "weights": weights_CF.T}
    if fold := not pairs and len(weights_CF) <= table_VH.shape[1]:
        table_VH = table_VH @ weights_CF.T
    constants["table"] = table_VH
    nodes = [
        node("Gather", ["table", "input_ids"], ["tokens"]),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
    ]
    if not pairs:
        nodes += [*_mean("mask", "mean"), node("Identity", ["mean"], ["features"])]
    else:
        nodes += [
            node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
            node("Mul", ["mask", "types"], ["second"]),
            node("Sub", ["mask", "second"], ["first"]),
            *_mean("first", "u"),
            *_mean("second", "v"),
            node("Sub", ["u", "v"], ["less"]),
            node("Abs", ["less"], ["apart"]),
            node("Mul", ["u", "v"], ["alike"]),
            node("Concat", ["apart", "alike"], ["features"], axis=1),
        ]
    if fold:
        del constants["weights"]
        nodes.append(node("Add", ["features", "bias"], ["logits"]))
    else:
        nodes.append(node("Gemm", ["features", "weights", "bias"], ["logits"]))
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if pairs else [])]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    tensors += [
        numpy_helper.from_array(np.array([1]), "length"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
    ]
    graph = helper.make_graph(
        nodes,
        "static",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(bias_C)])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _mean(mask: str, name: str) -> list[Any]:
    """Nodes of the mean [B, H] of the `tokens` [B, L, H] that `mask` [B, L] counts; 0 where it counts none."""
    from onnx import helper

    return [
        helper.make_node("ReduceSum", [mask, "length"], [f"{name}_sum"], keepdims=1),
        helper.make_node("Max", [f"{name}_sum", "one"], [f"{name}_count"]),
        helper.make_node("Div", [mask, f"{name}_count"], [f"{name}_share"]),
        helper.make_node("Unsqueeze", [f"{name}_share", "length"], [f"{name}_row"]),
        helper.make_node("MatMul", [f"{name}_row", "tokens"], [f"{name}_product"]),
        helper.make_node("Squeeze", [f"{name}_product", "length"], [name]),
    ]

import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from serving import runtime
from serving.bundle import BundleError
from serving.generator import load_generator
from serving.inputs import cut, unknown_id
from serving.runtime import load_bundle
from tests.tiny import bundles
from tests.tiny.bundles import LABELS, WORDS, reference_weights, write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["where is my order", "refund", "please cancel it now please", "", "unheard words", "is it my refund"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "bundle"
    write_tiny_bundle(path)
    return path


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "pairs"
    write_tiny_bundle(path, pairs=True)
    return path


def reference_scores(text: str) -> np.ndarray:
    weights = reference_weights(seed=0)
    ids = [2, *(WORDS.index(word) if word in WORDS else 1 for word in text.split()), 3]
    logits_C = weights["embedding"][ids].mean(axis=0) @ weights["linear"]
    return np.exp(logits_C) / np.exp(logits_C).sum()


def run(*arguments: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "serving.runtime", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, timeout=60, check=False)


def test_scores_are_those_of_the_formula_in_the_order_of_the_inputs(folder: Path):
    scores_NC = load_bundle(folder).scores(TEXTS)
    assert scores_NC.dtype == np.float32
    np.testing.assert_allclose(scores_NC, [reference_scores(text) for text in TEXTS], atol=1e-6)


@pytest.mark.parametrize("tokens_per_batch", [1, 7, 16, 2048])
def test_scores_do_not_depend_on_how_batches_are_cut(folder: Path, tokens_per_batch: int):
    whole = load_bundle(folder).scores(TEXTS)
    np.testing.assert_allclose(load_bundle(folder, tokens_per_batch=tokens_per_batch).scores(TEXTS), whole, atol=1e-6)


def test_batches_hold_each_input_once_within_the_budget_padding_included():
    lengths = np.random.default_rng(0).integers(1, 60, size=200).tolist()
    batches = list(cut(lengths, 128))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    assert all(len(batch) * max(lengths[index] for index in batch) <= 128 for batch in batches)
    assert len(batches) < 80


@pytest.mark.parametrize("padding", [0, 8, 64])
def test_an_input_that_makes_others_too_much_longer_begins_a_batch_of_its_own(padding: int):
    lengths = np.random.default_rng(0).integers(1, 60, size=200).tolist()
    batches = [[lengths[index] for index in batch] for batch in cut(lengths, 128, padding)]
    assert sorted(length for batch in batches for length in batch) == sorted(lengths)
    for batch in batches:
        for taken, (before, length) in enumerate(itertools.pairwise(batch), start=1):
            assert taken * (length - before) <= padding
    added = [
        len(one) * (two[0] - one[-1]) for one, two in itertools.pairwise(batches) if (len(one) + 1) * two[0] <= 128
    ]
    assert all(each > padding for each in added)


def test_an_input_above_the_budget_is_a_batch_of_its_own():
    assert list(cut([300, 2, 3], 128)) == [[1, 2], [0]]


def test_no_inputs_give_no_scores(folder: Path):
    assert load_bundle(folder).scores([]).shape == (0, 3)


def test_predictions_hold_the_best_label_and_on_request_all_scores(folder: Path):
    classifier = load_bundle(folder)
    (plain,), (full,) = classifier.predict(["refund"]), classifier.predict(["refund"], all_scores=True)
    expected = dict(zip(LABELS, reference_scores("refund"), strict=True))
    assert plain == {
        "label": max(expected, key=lambda label: expected[label]),
        "score": pytest.approx(max(expected.values())),
    }
    assert full.get("scores") == pytest.approx(expected)


def test_texts_are_cut_at_the_maximum_length(folder: Path):
    classifier = load_bundle(folder)
    ten_words = "my " * 9 + "order"
    np.testing.assert_array_equal(classifier.scores([ten_words]), classifier.scores([ten_words + " now" * 50]))


def test_pairs_are_taken_as_objects_or_tuples_and_their_order_matters(pair_folder: Path):
    classifier = load_bundle(pair_folder)
    scores_NC = classifier.scores([{"text": "order", "text_pair": "now"}, ("order", "now"), ("now", "order")])
    np.testing.assert_array_equal(scores_NC[0], scores_NC[1])
    assert np.abs(scores_NC[1] - scores_NC[2]).max() > 1e-3


@pytest.mark.parametrize("wrong", [7, None, ("secret", "x"), {"text": "secret"}, "secret \ud800"])
def test_a_wrong_input_is_named_by_its_index_and_not_repeated(folder: Path, wrong: object):
    with pytest.raises(ValueError, match="input 1 ") as refused:
        load_bundle(folder).scores(["fine", wrong])  # type: ignore[list-item]
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        *("secret", ("secret",), {"text": "secret"}, {"text": "secret", "text_pair": 1}),
        {"text": "a", "text_pair": "b", "secret": 1},
    ],
)
def test_a_wrong_pair_is_named_by_its_index_and_not_repeated(pair_folder: Path, wrong: object):
    with pytest.raises(ValueError, match="input 0 is not an object with the texts text and text_pair") as refused:
        load_bundle(pair_folder).scores([wrong])  # type: ignore[list-item]
    assert "secret" not in str(refused.value)


def test_a_torch_bundle_is_refused_with_the_command_that_exports_it(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle", runtime="torch")
    with pytest.raises(BundleError, match=r"python -m jobs\.compress"):
        load_bundle(tmp_path / "bundle")


def test_a_model_that_answers_nan_is_refused_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = reference_weights(seed=0)
    monkeypatch.setattr(bundles, "reference_weights", lambda seed: {**weights, "linear": weights["linear"] * np.nan})
    write_tiny_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="answered NaN or infinity"):
        load_bundle(tmp_path / "bundle")


def test_a_model_with_fewer_outputs_than_labels_is_refused_when_it_is_loaded(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle", labels=[*LABELS, "other"])
    with pytest.raises(BundleError, match=r"model\.onnx: cannot answer"):
        load_bundle(tmp_path / "bundle")


def test_the_command_answers_each_line_with_one_json_line(folder: Path):
    done = run(str(folder), "--scores", stdin=b"refund\nwhere is my order\n")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        [[each["scores"][label] for label in LABELS] for each in answers],
        [reference_scores("refund"), reference_scores("where is my order")],
        atol=1e-6,
    )


def test_the_command_says_on_request_what_the_model_could_not_read(folder: Path):
    done = run(str(folder), "--details", stdin="refund\n返金 refund now x\n".encode())
    assert [json.loads(line)["unknown"] for line in done.stdout.splitlines()] == [0, 0.5]


@pytest.mark.parametrize(
    ("model", "known"),
    [
        (models.WordPiece({"a": 0, "[UNK]": 7}, unk_token="[UNK]"), 7),
        (models.WordLevel({"a": 0, "?": 3}, "?"), 3),
        (models.BPE({"a": 0, "<unk>": 2}, [], unk_token="<unk>"), 2),
        (models.Unigram([("a", -1.0), ("<unk>", 0.0)], unk_id=1), 1),
        (models.BPE({"a": 0}, []), None),
    ],
)
def test_the_unknown_token_is_that_of_the_tokenizer_whatever_its_kind(model: models.Model, known: int | None):
    assert unknown_id(Tokenizer(model)) == known


def test_the_command_answers_a_line_before_the_next_one_comes(folder: Path):
    command = [sys.executable, "-m", "serving.runtime", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"refund\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["label"] in LABELS
        process.stdin.close()
        assert process.wait(timeout=20) == 0


def test_the_command_reads_pairs_as_json_objects(pair_folder: Path):
    done = run(str(pair_folder), stdin=b'{"text": "order", "text_pair": "now"}\n')
    assert json.loads(done.stdout)["label"] in LABELS


def test_the_command_reads_attributes_as_json_or_as_their_text(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle", attributes=True)
    lines = [b'{"order": "refund", "now": 7}', b'[["order", "refund"], ["now", 7]]', b"order: refund; now: 7"]
    done = run(str(tmp_path / "bundle"), stdin=b"\n".join(lines) + b"\n{order\n")
    assert len(set(done.stdout.splitlines())) == 1 and len(done.stdout.splitlines()) == 3
    refused = b"line 4: not JSON; write an object with the attributes"
    assert done.stderr.strip() == refused
    deep = b"refund\n" * 3 + b"[" * 100_000 + b"\n"
    done = run(str(tmp_path / "bundle"), stdin=deep)
    assert (done.returncode, done.stderr.strip()) == (2, refused)


def test_the_command_reads_a_file_with_a_byte_order_mark(folder: Path, pair_folder: Path):
    plain, marked = (run(str(folder), "--scores", stdin=mark + b"refund\n") for mark in (b"", b"\xef\xbb\xbf"))
    assert plain.returncode == 0 and plain.stdout == marked.stdout
    pair = b'\xef\xbb\xbf{"text": "order", "text_pair": "now"}\n'
    assert json.loads(run(str(pair_folder), stdin=pair).stdout)["label"] in LABELS


@pytest.mark.parametrize(("stdin", "reason"), [(b"fine\n\xff\n", b"line 2: byte 0 is not UTF-8")])
def test_the_command_refuses_a_line_by_its_number(folder: Path, stdin: bytes, reason: bytes):
    done = run(str(folder), stdin=stdin)
    assert (done.returncode, done.stderr.strip()) == (2, reason)


def test_the_command_refuses_a_folder_that_is_no_bundle_in_one_line(tmp_path: Path):
    done = run(str(tmp_path), stdin=b"")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_runtime_needs_neither_ray_nor_torch_nor_fastapi(folder: Path):
    code = (
        "import sys; from serving.runtime import load_bundle; load_bundle(sys.argv[1]).predict(['refund']);"
        "print([each for each in ('ray', 'torch', 'fastapi', 'transformers', 'yaml') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == b"[]"


def test_the_command_writes_the_texts_of_a_decoder_and_ends_well(tmp_path: Path):
    write_tiny_decoder(tmp_path / "bundle", 'a\n\nsays: "ja", 订单 🙂\n\\ done'.encode())
    for _ in range(3):  # a process that ends before its model is aborted in two of three runs
        done = run(str(tmp_path / "bundle"), stdin=b"a\nabcde\n")
        assert (done.returncode, done.stderr) == (0, b"")
        first, second = map(json.loads, done.stdout.splitlines())
        assert first == {"text": '\nsays: "ja", 订单 🙂\n\\ done'}
        assert second == {"text": first["text"][4:]}


class Shown(io.StringIO):
    """Notes what a reader has seen at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def flush(self) -> None:
        self.seen.append(self.getvalue())


def test_the_command_shows_a_text_before_it_is_whole(tmp_path: Path):
    write_tiny_decoder(tmp_path / "bundle", b"a\nabc")
    out = Shown()
    runtime._write(load_generator(tmp_path / "bundle").write, out, "a")
    assert out.seen == ['{"text": "a', '{"text": "ab', '{"text": "abc', '{"text": "abc', '{"text": "abc"}\n']


def test_the_command_refuses_labels_of_a_decoder(tmp_path: Path):
    write_tiny_decoder(tmp_path / "bundle", b"a")
    done = run(str(tmp_path / "bundle"), "--scores", stdin=b"a\n")
    assert done.returncode == 2 and b"has no labels to score" in done.stderr

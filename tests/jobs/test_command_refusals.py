"""What a user may get wrong, each with the one line that says what would work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.schema.search_recipe import SearchRecipe
from tests.jobs.commands import Refusal, command

pytestmark = pytest.mark.usefixtures("home")

BOMB = "name: a\nx0: &x0 [a]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 10))
RECIPES: dict[str, tuple[str | bytes, list[str]]] = {
    "misspelt section": ("name: a\nengin: {workers: 1}", ["engin: unknown key (value {'workers': 1})", "'engine'?"]),
    "misspelt field": ("name: a\nengine: {worker: 1}", ["engine.worker: unknown key", "did you mean 'workers'?"]),
    "field that is like no other": ("name: a\ndata: {zzz: 1}", ["data.zzz: unknown key", "known here: chat, label, "]),
    "text for a number": ("name: a\nengine: {workers: many}", ["engine.workers: got 'many'", "valid integer"]),
    "part of a number": ("name: a\nengine: {workers: 1.5}", ["engine.workers: got 1.5", "valid integer"]),
    "bool for a number": ("name: a\nengine: {workers: true}", ["engine.workers: got True", "a number is expected"]),
    "bool among numbers": ("name: a\nexport: {lengths: [16, true]}", ["export.lengths: got [16, True]", "a number"]),
    "number for a bool": ("name: a\nengine: {use_gpu: 1}", ["engine.use_gpu: got 1", "write true or false"]),
    "number for a text": ("name: a\ndata: {train: 5}", ["data.train: got 5", "text is expected; in quotes"]),
    "date for a text": ("name: 2026-01-01", ["name: got", "text is expected; in quotes"]),
    "too small": ("name: a\nengine: {workers: 0}", ["engine.workers: got 0", "greater than or equal to 1"]),
    "too large": ("name: a\nserving: {port: 70000}", ["serving.port: got 70000", "less than or equal to 65535"]),
    "seed beyond every generator": ("name: a\nseed: 99999999999", ["seed: got 99999999999", "less than"]),
    "NaN": ("name: a\nteacher: {learning_rate: .nan}", ["teacher.learning_rate: got nan", "finite"]),
    "NaN as text": ("name: a\nteacher: {learning_rate: nan}", ["teacher.learning_rate: got 'nan'", "finite"]),
    "infinity": ("name: a\nbudget: {max_p95_ms: .inf}", ["budget.max_p95_ms: got inf", "finite"]),
    "infinite domain": (
        "name: a\nsearch: {space: {distillation.temperature: {uniform: [1, .inf]}}}",
        ["search.space.distillation.temperature.uniform[1]: got inf", "finite"],
    ),
    "list for a mapping": ("name: a\nengine: [1]", ["engine: got [1]", "a mapping of fields is expected"]),
    "blank for a mapping": ("name: a\nengine:\n", ["engine: got None", "a mapping of fields is expected"]),
    "mapping for a list": ("name: a\ncompression: {step: export}", ["compression: got {'step': 'export'}", "list"]),
    "choice that is none": ("name: a\nengine: {precision: fp8}", ["engine.precision: got 'fp8'", "'bf16_autocast'"]),
    "stages that workers do not fill": (
        "name: a\nengine: {workers: 3, pipeline_stages: 2}",
        ["engine: workers=3 / pipeline_stages=2 = 1.5 data-parallel copies", "use workers=2 or 4"],
    ),
    "ways that workers do not fill": (
        "name: a\nengine: {tensor_parallel: 2}",
        ["engine: workers=1 / tensor_parallel=2 = 0.5 data-parallel copies", "use workers=2"],
    ),
    "pipeline with split gradients": (
        "name: a\nengine: {workers: 2, pipeline_stages: 2, zero_stage: 3}",
        ["engine: zero_stage=3 with pipeline_stages=2", "use zero_stage 0 or 1"],
    ),
    "shared GPU of two workers": (
        "name: a\nengine: {workers: 2, use_gpu: true, gpus_per_worker: 0.5}",
        ["engine: gpus_per_worker=0.5 with workers=2", "use 1"],
    ),
    "share of no GPU": ("name: a\nengine: {gpus_per_worker: 0.5}", ["gpus_per_worker=0.5 with use_gpu=false"]),
    "scale of a loss that is not scaled": (
        "name: a\nengine: {precision: bf16, loss_scale: {window: 10}}",
        ["engine: loss_scale.window=10 with precision=bf16", "leave it out"],
    ),
    "pipeline of split layers": (
        "name: a\nengine: {workers: 4, pipeline_stages: 2, tensor_parallel: 2}",
        ["engine: pipeline_stages=2 with tensor_parallel=2", "set one of them to 1"],
    ),
    "offload of what is not split off": (
        "name: a\nengine: {offload: all}",
        ["engine: offload=all needs zero_stage 3 or more, got 1"],
    ),
    "unknown task": ("name: a\ntask: generat", ["task: got 'generat'", "'classify'"]),
    "field of another task": (
        "name: a\ntask: generate\nteacher: {pooling: mean}",
        ["teacher.pooling: 'mean'", "task 'generate' does not use it"],
    ),
    "slices of generated texts": (
        "name: a\ntask: generate\ndata: {slices: [channel]}",
        ["data.slices: ['channel']", "task 'generate' does not use it"],
    ),
    "decoder for classes": (
        "name: a\nteacher: {model: new:llama}",
        ["teacher.model: 'new:llama' is for task generate"],
    ),
    "new model of no kind": (
        "name: a\ntask: generate\nteacher: {model: new:bert}",
        ["teacher: model='new:bert': no new model 'bert'", "one of gpt2, llama, qwen2"],
    ),
    "sizes of what has its own": (
        "name: a\ntask: generate\nteacher: {model: folder, new: {layers: 2}}",
        ["teacher: new: model='folder' has sizes of its own", "leave out new"],
    ),
    "heads that do not share": (
        "name: a\ntask: generate\nteacher: {model: new:gpt2, new: {hidden: 30, heads: 4}}",
        ["teacher.new: hidden=30 / heads=4", "an even whole number is needed"],
    ),
    "no name": ("seed: 1", ["name: missing", "give a value"]),
    "name in capitals": ("name: Intent", ["name: got 'Intent'", "match pattern"]),
    "two lines in a value": ('name: "a\\nb"', ["name: got 'a\\nb'", "match pattern"]),
    "unknown step": (
        "name: a\ncompression: [{step: melt}]",
        ["compression[0]: got", "'melt'", "'prune', "],
    ),
    "item without step": ("name: a\ncompression: [{sparsity: 0.1}]", ["compression[0]: got", "with the key 'step'"]),
    "misspelt field of a step": (
        "name: a\ncompression: [{step: prune, sparcity: 0.1}, {step: export}]",
        ["compression[0].sparcity: unknown key (value 0.1)", "did you mean 'sparsity'?"],
    ),
    "all weights pruned": (
        "name: a\ncompression: [{step: prune, sparsity: 1}, {step: export}]",
        ["compression[0].sparsity: got 1", "less than 1"],
    ),
    "two exports": (
        "name: a\ncompression: [{step: export}, {step: export, name: b}]",
        ["compression: steps ['export', 'export'] hold 2 export", "exactly one is needed"],
    ),
    "no export": ("name: a\ncompression: [{step: prune}]", ["compression: steps ['prune']", "exactly one is needed"]),
    "quantize before export": (
        "name: a\ncompression: [{step: quantize}, {step: export}]",
        ["compression[0]: 'quantize' works after export", "move it"],
    ),
    "prune after export": (
        "name: a\ncompression: [{step: export}, {step: prune}]",
        ["compression[1]: 'prune' works before export", "move it"],
    ),
    "two steps of one name": (
        "name: a\ncompression: [{step: prune}, {step: prune}, {step: export}]",
        ["compression: 'prune' stands for several items", "give each a name"],
    ),
    "search of what is done once": (
        "name: a\nsearch: {space: {engine.workers: {choice: [1]}}}",
        ["search.space.engine.workers: not searched", "keys start with student"],
    ),
    "domain of two kinds": (
        "name: a\nsearch: {space: {student.layers: {choice: [1], randint: [1, 2]}}}",
        ["search.space.student.layers: give exactly one of choice", "got ['choice', 'randint']"],
    ),
    "domain that is empty": (
        "name: a\nsearch: {space: {distillation.temperature: {uniform: [4, 1]}}}",
        ["search.space.distillation.temperature: uniform: [4.0, 1.0] is empty", "the low end comes first"],
    ),
    "reserved service": (
        "name: models",
        ["'models' is taken by a route of all services", "choose another service name"],
    ),
    "reserved service of its own": (
        "name: a\nserving: {service: catalogue}",
        ["serving.service: 'catalogue' is taken", "choose another"],
    ),
    "open host": ("name: a\nserving: {host: 0.0.0.0}", ["serving.host: '0.0.0.0' is not a loopback", "keep 127.0.0.1"]),
    "batch that never fills": (
        "name: a\nserving: {max_batch_size: 500}",
        ["serving: max_ongoing_requests=128 is less than max_batch_size=500", "raise it to 500"],
    ),
    "nothing to learn": (
        "name: a\ndistillation: {weights: {kl: 0, cross_entropy: 0}}",
        ["distillation.weights: kl, reverse_kl,", "are all 0", "raise one"],
    ),
    "output in a bucket": ("name: a\noutput: s3://bucket/x", ["output: 's3://bucket/x'", "give a folder"]),
    "key given twice": ("name: a\nname: b", ["line 2: the key 'name' is given twice", "keep one"]),
    "deep key given twice": ("name: a\nengine:\n  workers: 1\n  workers: 2", ["line 4: the key 'workers'", "keep one"]),
    "key that is a number": ("name: a\n3: x", ["line 2: the key 3 is no text", "put it in quotes"]),
    "key that is a list": ("name: a\n? [x]\n: y", ["line 2: the key ['x'] is no text"]),
    "merge key": ("name: a\n<<: {b: 1}", ["line 2: the key '<<' is not understood", "use extends"]),
    "value that holds itself": ("name: a\nengine: &e {workers: *e}", ["line 2: ", "recursive"]),
    "alias bomb": (BOMB, ["more than 32 aliases"]),
    "Python object": ("name: !!python/object/apply:os.getcwd []", ["line 1: could not determine a constructor"]),
    "YAML that does not parse": ("name: [a", ["line 1", "expected ',' or ']'", "write it as YAML"]),
    "tab": ("name: a\nengine:\n\tworkers: 1", ["line 3: ", "'\\t'", "write it as YAML"]),
    "two documents": ("name: a\n---\nname: b", ["line 2: expected a single document"]),
    "deep nesting": ("name: " + "[" * 1000, ["not YAML"]),
    "number of 5000 digits": ("name: a\nseed: 1" + "0" * 5000, ["not YAML"]),
    "not UTF-8": ("name: café".encode("latin-1"), ["byte 9 is not UTF-8", "save the recipe as UTF-8"]),
    "UTF-16": ("name: a".encode("utf-16"), ["byte 0 is not UTF-8", "save the recipe as UTF-8"]),
    "NUL": (b"name: a\0", ["special characters are not allowed"]),
    "empty file": ("", ["the file is empty", "'name: my-recipe'"]),
    "comments alone": ("# name: a\n", ["the file is empty", "'name: my-recipe'"]),
    "list at the top": ("- name: a", ["the top is a list", "'name: my-recipe'"]),
    "text at the top": ("intent", ["the top is a text", "'name: my-recipe'"]),
    "2 MB": ("name: a\n#" + "x" * (2 << 20), ["larger than 1048576 bytes"]),
    "recipe that extends itself": (
        "extends: recipe.yaml",
        ["extends: recipe.yaml -> recipe.yaml: a recipe cannot extend itself", "remove"],
    ),
    "extends a list": ("extends: [base.yaml]", ["extends: ['base.yaml'] is a list", "give the path of one recipe"]),
    "extends a folder": ("extends: .", ["Is a directory", "(extended by "]),
}
SPACES = {
    "student.depth: {choice: [1]}": ["search.space.student.depth: cannot be 1", "no such field"],
    "compression.quantize.max_loss: {uniform: [0, 2]}": [
        "search.space.compression.quantize.max_loss: cannot be 2.0",
        "less than or equal to 1",
    ],
}


@pytest.mark.parametrize("space", SPACES)
def test_a_space_that_cannot_be_searched_is_refused_by_verbs_that_search(
    tmp_path: Path, refused: Refusal, capsys: pytest.CaptureFixture[str], space: str
):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: a\nsearch: {{space: {{{space}}}}}")
    line = refused("--config", str(path), kind=SearchRecipe)
    assert line.startswith(f"error: {path}: ")
    for part in SPACES[space]:
        assert part in line
    assert command(capsys, "--config", str(path), "--print-config")[0] == 0


@pytest.mark.parametrize("text", RECIPES)
def test_a_broken_recipe_is_refused_in_one_line(tmp_path: Path, refused: Refusal, text: str):
    content, said = RECIPES[text]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused("--config", str(path))
    assert line.startswith(f"error: {path if text != 'extends a folder' else tmp_path}: ")
    for part in said:
        assert part in line


COMMAND_LINES: dict[str, tuple[list[str], list[str]]] = {
    "override without value": (["engine.workers"], ["'engine.workers' is not of the form section.field=value"]),
    "override without key": (["=1"], ["'=1' is not of the form section.field=value"]),
    "override that is no YAML": (["engine.workers=[1"], ["engine.workers: line 1", "write it as YAML"]),
    "override with a key twice": (["engine={workers: 1, workers: 2}"], ["the key 'workers' is given twice"]),
    "override of an unknown section": (["engin.workers=1"], ["engin: unknown key", "did you mean 'engine'?"]),
    "override of an unknown field": (["engine.worker=1"], ["engine.worker: unknown key", "did you mean 'workers'?"]),
    "override out of range": (["engine.workers=0"], ["engine.workers: got 0", "greater than or equal to 1"]),
    "override with two lines": (["engine.workers=a\n\nb"], ["engine.workers: got 'a\\nb'", "valid integer"]),
    "override of a list": (["compression=3"], ["compression: got 3", "list"]),
    "override of a whole item": (["compression.export=3"], ["compression.export: compression is a list; "]),
    "override of an unknown item": (
        ["compression.melt.x=3"],
        ["'melt' matches no item", "export, quantize"],
    ),
    "override of an item by number": (
        ["compression.0.sparsity=0.1"],
        ["'0' matches no item", "export, quantize"],
    ),
    "override of an item out of range": (["compression.quantize.max_loss=2"], ["compression[1].max_loss: got 2"]),
    "override without layers": (
        ["student.layers=[]"],
        ["student.layers: got []", "valid integer, or List should have"],
    ),
    "override below a number": (["seed.deep=1"], ["seed.deep: seed is 7 and has no fields"]),
    "override of extends": (["extends=base.yaml"], ["extends: unknown key", "known here: "]),
    "override that the rest does not go with": (["engine.offload=all"], ["engine: offload=all needs zero_stage 3"]),
    "override by a name that is taken": (["name=models"], ["name: 'models' is taken by a route of all services"]),
    "unknown option": (["--dry-run"], ["unrecognized arguments: --dry-run", "see --help"]),
    "shortened option": (["--print"], ["unrecognized arguments: --print", "see --help"]),
    "option without its value": (["--config"], ["--config: expected one argument", "see --help"]),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_broken_command_line_is_refused_in_one_line(tmp_path: Path, refused: Refusal, name: str):
    (tmp_path / "recipe.yaml").write_text("name: a\nseed: 7\n")
    arguments, said = COMMAND_LINES[name]
    line = refused("--config", str(tmp_path / "recipe.yaml"), *arguments)
    assert line.startswith("error: command line: ")
    for part in said:
        assert part in line


def test_without_config_the_shipped_recipes_are_named(refused: Refusal):
    line = refused("engine.workers=2")
    assert line.startswith("error: command line: --config: missing; give a recipe, for example one of: ")
    assert "configs/base.yaml" in line


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path: Path, refused: Refusal):
    (tmp_path / "intent.yaml").write_text("name: a\n")
    line = refused("--config", str(tmp_path / "intnet.yaml"))
    assert line == f"error: {tmp_path}/intnet.yaml: no such file; did you mean {tmp_path}/intent.yaml?\n"


def test_a_folder_and_a_path_through_a_file_are_refused(tmp_path: Path, refused: Refusal):
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    assert "Is a directory" in refused("--config", str(tmp_path))
    assert "Not a directory" in refused("--config", str(tmp_path / "recipe.yaml" / "deeper"))
    assert "File name too long" in refused("--config", str(tmp_path / ("x" * 300)))


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path, refused: Refusal):
    (tmp_path / "one.yaml").write_text("extends: two.yaml\n")
    (tmp_path / "two.yaml").write_text("extends: one.yaml\n")
    assert "one.yaml -> two.yaml -> one.yaml" in refused("--config", str(tmp_path / "one.yaml"))


def test_a_fault_in_an_extended_recipe_names_that_file(tmp_path: Path, refused: Refusal):
    (tmp_path / "base.yaml").write_text("engine: {workers: 0}\n")
    (tmp_path / "recipe.yaml").write_text("extends: base.yaml\nname: a\n")
    assert refused("--config", str(tmp_path / "recipe.yaml")).startswith(
        f"error: {tmp_path}/base.yaml: engine.workers: "
    )


def test_an_unreadable_file_is_refused(tmp_path: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch):
    def deny(*_: Any, **__: Any) -> None:  # root may read every file, so its mode alone shows nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert f"{tmp_path}/recipe.yaml: Permission denied" in refused("--config", str(tmp_path / "recipe.yaml"))


def test_an_endless_device_is_refused(refused: Refusal):
    assert refused("--config", "/dev/zero").startswith("error: /dev/zero: larger than ")


@pytest.mark.parametrize("field", ["bundle=some/folder", "deploy=true", "remove=true"])
def test_a_field_that_the_verb_would_ignore_is_refused(tmp_path: Path, refused: Refusal, field: str):
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    line = refused("--config", str(tmp_path / "recipe.yaml"), field)
    assert line.startswith(f"error: {field.split('=')[0]}: ")
    assert "prepare does not take it" in line


def test_without_home_a_job_is_refused(tmp_path: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    for value in ("", None):
        monkeypatch.setenv("SLIMCART_HOME", "") if value == "" else monkeypatch.delenv("SLIMCART_HOME")
        line = refused("--config", str(tmp_path / "recipe.yaml"))
        assert line.startswith("error: environment: SLIMCART_HOME is not set; ")
        assert "make up" in line

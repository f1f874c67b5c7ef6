"""What holds between files: which imports which, and what a module costs to import."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "configs": set(),
    "cluster": {"configs"},
    "tuning": {"configs", "cluster"},
    "serving": {"configs"},
    "jobs": {"configs", "cluster", "tuning", "serving"},
}
HEAVY = ("torch", "ray", "transformers", "mlflow", "deepspeed", "pandas", "numpy", "onnxruntime", "openvino", "sklearn")
# Those of DESIGN that are built, and `cascade`.
VERBS = {
    "prepare",
    "finetune",
    "teach",
    "distill",
    "compress",
    "evaluate",
    "tune",
    "deploy",
    "optimize",
    "cascade",
    "reply",
    "score",
    "services",
}

MODULES = {path: path.relative_to(ROOT) for name in MAY_IMPORT for path in sorted((ROOT / name).rglob("*.py"))}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import anywhere in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield node.lineno, node.module or ""


def found(forbidden: set[str], paths: list[Path]) -> list[str]:
    """`file:line: module` of every import of a forbidden package."""
    return [
        f"{MODULES[path]}:{line}: {module}"
        for path in paths
        for line, module in imports(path)
        if module.split(".")[0] in forbidden
    ]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str):
    paths = [path for path in MODULES if MODULES[path].parts[0] == package]
    assert paths
    others = {*MAY_IMPORT, "tests", "benchmarks"} - MAY_IMPORT[package] - {package}
    assert found(others, paths) == []


def test_no_module_is_a_drawer_for_the_rest():
    names = {part.removesuffix(".py") for relative in MODULES.values() for part in relative.parts}
    assert not names & {"utils", "util", "common", "helpers", "helper", "misc"}


def test_only_the_engine_imports_deepspeed():
    assert {line.split(":")[0] for line in found({"deepspeed"}, list(MODULES))} <= {"cluster/engine.py"}


def test_openvino_is_imported_in_one_place_that_keeps_its_telemetry_out():
    assert {line.split(":")[0] for line in found({"openvino"}, list(MODULES))} == {"serving/runtimes/openvino.py"}


def test_serving_imports_neither_torch_nor_what_stands_on_it():
    paths = [path for path in MODULES if MODULES[path].parts[0] == "serving"]
    assert found({"torch", "deepspeed", "transformers", "mlflow", "nncf"}, paths) == []


def test_tuning_imports_no_torch():
    paths = [path for path in MODULES if MODULES[path].parts[0] == "tuning"]
    assert found({"torch", "deepspeed", "transformers"}, paths) == []


def test_every_module_says_what_it_is_for():
    silent = [
        str(MODULES[path]) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def verbs() -> list[Path]:
    return [ROOT / "jobs" / f"{verb}.py" for verb in sorted(VERBS)]


def runs_as_a_verb(path: Path) -> bool:
    """Whether a module calls `main(run, ...)`, or `lead(work, ...)` where it takes no recipe."""
    begins = (["main", "run"], ["lead", "work"])
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return any(call.args and [ast.unparse(call.func), ast.unparse(call.args[0])] in begins for call in calls)


def test_a_verb_begins_with_its_own_command_and_has_a_run():
    for path in verbs():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert f"python -m jobs.{path.stem}" in (ast.get_docstring(tree) or ""), path
        assert "run" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, path


def test_the_verbs_are_the_modules_of_the_jobs_that_run_as_one():
    assert {path.stem for path in (ROOT / "jobs").glob("*.py") if runs_as_a_verb(path)} == VERBS


def test_the_schema_and_verbs_load_without_heavy_libraries():
    """One process imports them one by one and says after which of them a heavy library was there."""
    light = [
        *sorted(path for path in MODULES if path.name == "spec.py"),
        ROOT / "configs/schema/recipe.py",
        ROOT / "jobs/command.py",
    ]
    names = [dotted(path) for path in [*light, *verbs()]]
    code = f"""
import importlib, sys
seen = set()
for name in {names!r}:
    importlib.import_module(name)
    new = {{each for each in {HEAVY!r} if each in sys.modules}} - seen
    if new:
        print(name, "imports", *sorted(new))
    seen |= new
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def named_as_text() -> list[tuple[str, str]]:
    """(file, "module:function") of every such text in the code."""
    pattern = re.compile(r"^(?:" + "|".join(MAY_IMPORT) + r")(?:\.\w+)+:\w+$")
    return [
        (str(MODULES[path]), node.value)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.match(node.value)
    ]


def test_everything_that_a_table_names_as_text_can_be_imported():
    for file, text in named_as_text():
        module, name = text.split(":")
        assert getattr(importlib.import_module(module), name, None) is not None, f"{file}: {text}"


def test_a_suffix_says_whose_file_it_is():
    from configs.schema.runtimes import RUNTIMES

    suffixes = [runtime.suffix for runtime in RUNTIMES.values() if runtime.suffix]
    assert sorted(set(suffixes)) == sorted(suffixes)


def test_every_step_of_the_recipe_has_a_function():
    from typing import get_args

    from configs.schema.compression import ExportStep, Step
    from configs.schema.runtimes import RUNTIMES
    from jobs.compression.apply import STEPS

    on_files = {step for runtime in RUNTIMES.values() for step in runtime.steps}
    for spec in get_args(get_args(Step)[0]):
        (kind,) = get_args(spec.model_fields["step"].annotation)
        assert spec is ExportStep or (kind in on_files if spec.after_export else kind in STEPS), kind


# Inside jobs, from the ground up; what stands beside the rooms is a verb, or the ground that verbs and rooms share.
ROOMS = ("data", "models", "training", "measure", "compression", "tasks")
GROUND = {"jobs.layout", "jobs.versions"}


def test_imports_inside_jobs_point_one_way():
    order = {f"jobs.{room}": number for number, room in enumerate(ROOMS)}
    wrong = []
    for path in MODULES:
        if MODULES[path].parts[0] != "jobs" or len(MODULES[path].parts) < 3:
            continue
        room = ".".join(MODULES[path].parts[:2])
        for line, module in imports(path):
            other = ".".join(module.split(".")[:2])
            if module.startswith("jobs") and other not in GROUND and order.get(other, len(ROOMS)) > order[room]:
                wrong.append(f"{MODULES[path]}:{line}: {module}")
    assert wrong == []


def imported_files(path: Path) -> set[str]:
    """Modules of ours that a file imports, those named behind `from package import` too, late imports counted."""
    known, found = {dotted(each) for each in MODULES}, set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= names or ({node.module} & known)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
    return found


def test_no_files_import_one_another_in_a_circle():
    graph = {dotted(path): imported_files(path) for path in MODULES}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_no_other_file_names_a_task():
    """Callers ask the task's record (`configs/schema/tasks.py`)."""
    from configs.schema.tasks import TASKS

    allowed = {Path("configs/schema/tasks.py")}
    named = [
        f"{MODULES[path]}:{node.lineno}: {node.value!r}"
        for path in MODULES
        if MODULES[path] not in allowed and MODULES[path].parts[:2] != ("jobs", "tasks")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in TASKS
    ]
    assert named == []


LOADERS = {"from_pretrained", "from_config"}


def test_no_loader_may_run_code_of_a_model():
    """Every call of a loader of transformers says so; the default asks the user, who is not there."""
    silent = []
    for path, relative in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS:
                owner = ast.unparse(node.func.value)
                if not owner.startswith("Auto") and owner != "kind":
                    continue  # our own functions of these names, nn.Embedding
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if said.get("trust_remote_code") != "False":
                    silent.append(f"{relative}:{node.lineno}: {owner}.{node.func.attr}")
    assert silent == []

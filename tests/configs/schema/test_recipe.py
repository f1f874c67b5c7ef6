from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.loader import UsageError, load
from configs.schema.data import PoolSpec
from configs.schema.recipe import Recipe, SearchRecipe, absolute

EXPORT = {"step": "export"}
PRUNE = {"step": "prune"}
DISTILL = {"step": "distill"}
QUANTIZE = {"step": "quantize"}
STEPS = [PRUNE, EXPORT, QUANTIZE]


def recipe(**fields: Any) -> Recipe:
    return Recipe.model_validate({"name": "intent", **fields})


def refusal(kind: type[Recipe] = Recipe, **fields: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({"name": "intent", **fields})
    (error,) = refused.value.errors()
    return error["msg"].removeprefix("Value error, ")


def test_the_default_exports_and_quantizes():
    assert [step.step for step in recipe().compression] == ["export", "quantize"]


@pytest.mark.parametrize("steps", [[EXPORT], [PRUNE, EXPORT], [EXPORT, QUANTIZE], [PRUNE, EXPORT, QUANTIZE]])
def test_steps_on_their_side_of_export_are_taken_in_order(steps: list[dict[str, Any]]):
    assert [step.step for step in recipe(compression=steps).compression] == [each["step"] for each in steps]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "hold 0 export; exactly one is needed"),
        ([PRUNE], "hold 0 export; exactly one is needed"),
        ([EXPORT, {**EXPORT, "name": "again"}], "hold 2 export; exactly one is needed"),
        ([QUANTIZE, EXPORT], "compression[0]: 'quantize' works after export; move it after that item"),
        ([EXPORT, PRUNE], "compression[1]: 'prune' works before export; move it before that item"),
        ([PRUNE, PRUNE, EXPORT], "'prune' stands for several items; give each a name of its own"),
        ([{**PRUNE, "name": "export"}, EXPORT], "'export' stands for several items"),
        (
            [EXPORT, QUANTIZE, {**QUANTIZE, "name": "again"}],
            "compression[2]: 'quantize' after ['export', 'quantize']: its weights are integers already; leave one out",
        ),
        (
            [{**DISTILL, "quantize_aware": True}, EXPORT],
            "compression[0].quantize_aware=true: no step quantize with per_channel",
        ),
        (
            [{**DISTILL, "quantize_aware": True}, EXPORT, {**QUANTIZE, "per_channel": False}],
            "compression[0].quantize_aware=true: no step quantize with per_channel=true",
        ),
        ([{"step": "cluster"}, {"step": "fold"}, EXPORT, {"step": "code"}], "out of their codebooks; fold before it"),
        ([{"step": "cluster"}, PRUNE, EXPORT, {"step": "code"}], "zeros are a weight more than its codebooks have"),
        ([EXPORT, {"step": "code"}, QUANTIZE], "'quantize' after ['export', 'code']: weights out of codebooks"),
        ([{"step": "cluster"}, EXPORT, QUANTIZE], "'cluster' makes a file smaller only with 'code' after export"),
    ],
)
def test_steps_in_an_order_that_cannot_work_are_refused(steps: list[dict[str, Any]], said: str):
    assert said in refusal(compression=steps)


def test_a_step_that_learns_rounded_goes_before_the_one_that_rounds():
    assert recipe(compression=[PRUNE, {**DISTILL, "quantize_aware": True}, EXPORT, QUANTIZE])


def test_a_step_that_keeps_zeros_is_refused_where_workers_hold_parts_of_the_weights():
    said = refusal(compression=[PRUNE, DISTILL, EXPORT], engine={"workers": 2, "pipeline_stages": 2})
    assert said.startswith("compression[1].keep_zeros=true: with engine.pipeline_stages=2 a worker holds parts")


def test_two_steps_of_a_kind_work_under_two_names():
    steps = [{**PRUNE, "name": "first"}, {**PRUNE, "name": "second"}, EXPORT]
    space = {"compression.second.sparsity": {"choice": [0.1, 0.2]}}
    made = recipe(compression=steps, search={"space": space}).at({"compression.second.sparsity": 0.2})
    assert [step.model_dump().get("sparsity") for step in made.compression] == [0.3, 0.2, None]


@pytest.mark.parametrize(
    "domain",
    [{"uniform": [0, 0.9]}, {"choice": [0, 0.5]}, {"quniform": [0.1, 0.9, 0.1]}, {"loguniform": [0.01, 0.9]}],
)
def test_a_domain_whose_ends_are_allowed_is_taken(domain: dict[str, Any]):
    given = {"name": "intent", "compression": STEPS, "search": {"space": {"compression.prune.sparsity": domain}}}
    assert SearchRecipe.model_validate(given).search.space


@pytest.mark.parametrize(
    ("key", "domain", "said"),
    [
        ("student.depth", {"choice": [1]}, "student.depth: cannot be 1: no such field"),
        ("compression.shrink.sparsity", {"uniform": [0, 0.5]}, "'shrink' matches no item (items here: prune, "),
        ("compression.prune", {"choice": [0.5]}, "compression is a list; name a field of one of its items"),
        ("compression.prune.sparsity", {"uniform": [0, 1]}, "sparsity: cannot be 1.0: Input should be less than 1"),
        ("compression.prune.sparsity", {"uniform": [-0.1, 0.5]}, "sparsity: cannot be -0.1: "),
        ("compression.prune.sparsity", {"choice": [0.1, "much"]}, "sparsity: cannot be 'much': "),
        ("compression.prune.sparsity", {"choice": [0.1, True]}, "sparsity: cannot be True: a number is expected"),
        ("compression.prune.step", {"choice": ["export"]}, "compression.prune.step: cannot be 'export': "),
        ("distillation.temperature", {"uniform": [0, 4]}, "distillation.temperature: cannot be 0.0: "),
        ("distillation.temperature.x", {"choice": [1]}, "distillation.temperature is 4.0 and has no fields"),
        ("student.layers", {"randint": [0, 3]}, "student.layers: cannot be 0: "),
        ("student.hidden", {"choice": [0, 8]}, "student.hidden: cannot be 0: "),
        (
            "student.layers",
            {"quniform": [1, 3, 0.5]},
            "student.layers: cannot be 1.5: a whole number is needed, as choice or randint give; change it",
        ),
        ("student.hidden", {"loguniform": [96, 192]}, "student.hidden: cannot be 96.5: a whole number is needed, as "),
        ("distillation.epochs", {"uniform": [2, 6]}, "distillation.epochs: cannot be 2.5: a whole number is needed"),
        ("student.kernel", {"choice": [3, 5]}, "student.kernel: cannot be 5: kernel=5: for kind conv, "),
        (
            "student.model",
            {"choice": ["a", "b"]},
            "search.space.student.model: not searched; its rows are prepared once",
        ),
        (
            "engine.workers",
            {"choice": [1]},
            "search.space.engine.workers: not searched; keys start with student, distillation",
        ),
        ("teacher.epochs", {"choice": [1]}, "search.space.teacher.epochs: not searched"),
        ("data.max_length", {"choice": [16]}, "search.space.data.max_length: not searched"),
        ("", {"choice": [16]}, "search.space.: not searched"),
        (
            "distillation.pool.rows",
            {"choice": [9]},
            "search.space.distillation.pool.rows: not searched; the pool is made once",
        ),
    ],
)
def test_a_searched_field_must_exist_and_take_all_its_values(key: str, domain: dict[str, Any], said: str):
    message = refusal(SearchRecipe, compression=STEPS, search={"space": {key: domain}})
    assert message.startswith(f"search.space.{key}")
    assert said in message


def test_choices_that_fail_only_together_are_refused():
    space = {"student.hidden": {"choice": [192, 256]}, "student.heads": {"choice": [4, 3]}}
    said = refusal(SearchRecipe, search={"space": space})
    assert said.startswith(
        "search.space.student.hidden: cannot be 256 with student.heads 3: hidden=256 / heads=3: a wh"
    )
    space["student.heads"]["choice"] = [4, 8]
    assert SearchRecipe.model_validate({"name": "a", "search": {"space": space}})


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"student": {"kind": "conv", "layers": 2}}, "student.layers"),
        ({"compression": [EXPORT, QUANTIZE]}, "compression.prune.sparsity"),
        ({"compression": [{**PRUNE, "pattern": "2:4"}, EXPORT]}, "compression.prune.sparsity"),
    ],
    ids=["student of another kind", "without a searched step", "with a field instead of the searched one"],
)
def test_a_space_that_the_recipe_does_not_fit_stops_only_what_searches(fields: dict[str, Any], key: str):
    space = {"student.layers": {"choice": [[0, 2]]}, "compression.prune.sparsity": {"uniform": [0, 0.2]}}
    assert recipe(search={"space": space}, **fields)
    said = refusal(SearchRecipe, search={"space": space}, **fields)
    assert said.startswith(f"search.space.{key}: ")
    assert said.endswith(
        f"; change it in the space, or take it out (search.space.{key}=null, or search.space={{}} for all)"
    )


SEARCHED = """\
name: a
search:
  space:
    student.layers: {choice: [1, 2]}
    compression.prune.sparsity: {uniform: [0, 0.2]}
student: {layers: 3}
compression: [{step: prune}, {step: export}]
"""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("student.layers=2", "student.layers: 2: it is searched, so that trials would ignore this value; leave it out"),
        ("student={layers: 2}", "student.layers: 2: it is searched"),
        ("compression.prune.sparsity=0.5", "compression.prune.sparsity: 0.5: it is searched"),
        (
            "compression=[{step: prune, sparsity: 0.5}, {step: export}]",
            "compression.prune.sparsity: 0.5: it is searched",
        ),
    ],
)
def test_a_searched_field_is_not_given_on_the_command_line(tmp_path: Path, override: str, said: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(SEARCHED)
    with pytest.raises(UsageError) as refused:
        load(SearchRecipe, path, [override])
    assert said in str(refused.value)
    assert load(Recipe, path, [override])
    assert load(SearchRecipe, path, [override, "search.space={}"])
    both = ["search.space.student.layers=null", "search.space.compression.prune.sparsity=null"]
    assert load(SearchRecipe, path, [override, *both])


@pytest.mark.parametrize(
    "override", ["student.hidden=192", "student={hidden: 192}", "compression=[{step: prune}, {step: export}]"]
)
def test_a_field_beside_the_searched_ones_is_given_on_the_command_line(tmp_path: Path, override: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(SEARCHED)
    assert load(SearchRecipe, path, [override]).student.layers == 3


@pytest.mark.parametrize("source", [{"data": {"unlabelled": "a.csv"}}, {"distillation": {"pool": {"rows": 9}}}])
def test_a_pool_needs_classes_and_a_divergence(source: dict[str, Any]):
    assert recipe(**source).has_pool
    asked = "data.unlabelled: 'a.csv': " if "data" in source else "distillation.pool.rows: 9: "
    assert refusal(**source, task="generate").startswith(f"{asked}task 'generate' needs texts to write")
    alone = {"kl": 0, "cross_entropy": 1}
    given = source | {"distillation": source.get("distillation", {}) | {"weights": alone}}
    assert refusal(**given).startswith(f"{asked}rows without labels teach by what the teacher says")
    assert not recipe(distillation={"weights": alone}).has_pool
    other = source.get("distillation", {}) | {"weights": alone | {"reverse_kl": 0.1}}
    assert recipe(**(source | {"distillation": other})).has_pool


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"changed": 0.3}, "changed=0.3 changes nothing where rows=0 makes none; give rows, or leave it out"),
        ({"mask_words": 0, "rows": 0}, "mask_words=0 changes nothing where rows=0 makes none"),
        ({"rows": 9} | dict.fromkeys(PoolSpec().shares, 0), "are all 0: nothing makes a row; raise one of them"),
        ({"rows": 9, "changed": 1}, "less than 1"),
    ],
)
def test_a_pool_that_would_hold_nothing_is_refused(pool: dict[str, Any], said: str):
    assert said in refusal(distillation={"pool": pool})


def test_whole_number_domains_leave_out_their_high_end():
    made = recipe(search={"space": {"student.layers": {"randint": [1, 4]}}})
    assert made.search.space["student.layers"].probes() == [1, 3]


def test_the_budgets_metric_is_one_that_the_task_is_judged_by():
    assert recipe().judged_by.metric == "accuracy"
    assert recipe(budget={"metric": "macro_f1"}).judged_by.metric == "macro_f1"
    said = "budget.metric: 'f1': task 'classify' is judged by accuracy or macro_f1"
    assert refusal(budget={"metric": "f1"}) == said
    assert refusal(task="generate", budget={"metric": "macro_f1"}).endswith("task 'generate' is judged by bleu")


def test_at_puts_values_in_place_and_leaves_nothing_to_search():
    space = {"student.layers": {"choice": [1, 2]}, "compression.prune.sparsity": {"uniform": [0, 0.5]}}
    before = recipe(compression=STEPS, search={"space": space})
    made = before.at({"student.layers": 2, "compression.prune.sparsity": 0.25})
    assert (made.student.layers, made.compression[0].model_dump()["sparsity"]) == (2, 0.25)
    assert made.search.space == {}
    assert before.student.layers == 3
    assert len(before.search.space) == 2


def test_students_of_several_sizes_and_kinds_are_searched():
    space = {"student.kind": {"choice": ["layers", "new", "conv"]}, "student.hidden": {"choice": [96, 192, None]}}
    made = recipe(student={"layers": 2}, search={"space": space}).at({"student.kind": "conv", "student.hidden": 96})
    assert (made.student.kind, made.student.hidden) == ("conv", 96)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "generate", "student": {"hidden": 128}}, "student.hidden: 128: task 'generate' does not use it"),
        ({"task": "generate", "student": {"kind": "conv"}}, "student.kind: 'conv': an encoder; task 'generate' takes "),
        ({"task": "generate", "student": {"kind": "new"}}, "student.kind: 'new': an encoder; task 'generate' takes "),
    ],
    ids=str,
)
def test_a_student_that_is_no_decoder_cannot_generate(fields: dict[str, Any], said: str):
    assert said in refusal(**fields)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"workers": 2, "pipeline_stages": 2}, "engine.pipeline_stages: 2: a student of kind 'conv' cannot "),
        ({"workers": 2, "tensor_parallel": 2}, "engine.tensor_parallel: 2: a student of kind 'conv' cannot "),
        ({"activation_checkpointing": True}, "engine.activation_checkpointing: True: a student of kind 'conv' cannot"),
        ({"zero_stage": 3}, "engine.zero_stage: 3: a student of kind 'conv' cannot be trained so; use 0 or 1 or 2"),
        ({"accumulation": 8}, "engine.accumulation: 8: a student of kind 'conv' cannot be trained so; use 1"),
        (
            {"precision": "bf16"},
            "engine.precision: 'bf16': a student of kind 'conv' cannot be trained so; use fp32",
        ),
    ],
    ids=str,
)
def test_convolutions_are_trained_whole_in_float32_weights(engine: dict[str, Any], said: str):
    assert said in refusal(student={"kind": "conv"}, engine=engine)
    assert recipe(engine=engine)


@pytest.mark.parametrize("layout", ["pipeline_stages", "tensor_parallel"])
def test_layers_that_are_one_stay_on_one_worker(layout: str):
    said = refusal(student={"share_layers": True}, engine={"workers": 2, layout: 2})
    assert said == f"engine.{layout}: 2: student.share_layers has one layer in all places; use 1"


def test_what_a_student_or_the_rows_cannot_do_is_refused_before_anything_is_trained():
    said = refusal(student={"kind": "conv", "layers": 2}, compression=[{"step": "shrink", "heads": 1}, EXPORT])
    assert said.startswith("student.kind: 'conv': step 'shrink' cuts heads and units of attention, and it has none")
    pairs = {"text_pair": "title"}
    said = refusal(data=pairs, export={"lengths": [32, 4]})
    assert said == "export.lengths: 4: a pair of texts with the tokens around them needs 8 or more"
    assert recipe(data=pairs, export={"lengths": [8]}).export.lengths == [8]
    assert recipe(export={"lengths": [4]}).export.lengths == [4]


@pytest.mark.parametrize("name", ["50% of all", "../../elsewhere", "a/b", "", " ", "x" * 65, "a.b"])
def test_a_step_has_a_name_that_metrics_and_folders_can_bear(name: str):
    with pytest.raises(ValidationError, match=r"compression\.\d\.prune\.name"):
        recipe(compression=[{**PRUNE, "name": name}, EXPORT])
    assert recipe(compression=[{**PRUNE, "name": "zweite Stufe-2"}, EXPORT]).compression[0].title == "zweite Stufe-2"


def test_a_decoder_takes_the_watts_that_its_energy_is_estimated_with():
    steps = [{"step": "export"}]
    told = recipe(task="generate", teacher={"model": "new:llama"}, evaluation={"watts_per_core": 5}, compression=steps)
    assert told.evaluation.watts_per_core == 5


def test_a_service_is_removed_whatever_its_model():
    assert recipe(remove=True).remove
    said = refusal(remove=True, bundle="models:/tiny@champion")
    assert said == "remove: true takes a service away, whatever its model; leave out bundle=models:/tiny@champion"


def test_at_refuses_a_value_that_the_field_does_not_take():
    with pytest.raises(UsageError, match=r"^searched: compression\[0\]\.sparsity: got 1\.5; .*less than 1"):
        recipe(compression=STEPS).at({"compression.prune.sparsity": 1.5})


def test_a_recipe_survives_its_own_dump():
    made = recipe(student={"layers": [0, 5]}, search={"space": {"student.layers": {"choice": [1, [0, 5]]}}})
    assert Recipe.model_validate(made.model_dump()) == made


def test_the_service_is_named_by_serving_or_else_by_the_recipe():
    assert recipe().service == "intent"
    assert recipe(serving={"service": "support"}).service == "support"
    assert refusal(name="models").startswith("name: 'models' is taken")
    assert recipe(name="a" * 63).service == "a" * 63
    assert recipe(name="models", serving={"service": "catalog"}).service == "catalog"


@pytest.mark.parametrize("name", ["", "Intent", "a b", "../a", "-a", "ä", "a" * 64])
def test_a_name_that_is_no_model_name_is_refused(name: str):
    assert "should" in refusal(name=name)


@pytest.mark.parametrize("section", ["teacher", "distillation"])
def test_grades_are_not_smoothed(section: str):
    fields: dict[str, Any] = {"teacher": {}, "distillation": {}}
    fields[section]["label_smoothing"] = 0.05
    assert recipe(**fields)
    fields["teacher"]["head"] = "grades"
    said = refusal(Recipe, **fields)
    assert said.startswith(f"{section}.label_smoothing: 0.05: teacher.head=grades learns by a squared error")


def test_a_seed_fits_every_generator():
    assert recipe(seed=2**32 - 1).seed == 2**32 - 1
    assert "less than 4294967296" in refusal(seed=2**32)


def test_an_output_elsewhere_than_a_folder_is_refused():
    assert "mounted file system" in refusal(output="s3://bucket/output")


def test_paths_become_absolute_on_the_driver_outputs_under_home_and_sources_under_the_folder(tmp_path: Path):
    home, folder = tmp_path / "home", tmp_path / "submitted"
    made = recipe(
        data={"train": "data/train.csv", "validation": "/shared/val.parquet", "test": None, "unlabelled": "log.csv"},
        teacher={"model": "models/teacher/v1", "bundle": "old/bundle"},
        student={"kind": "pretrained", "model": "models/student/v1"},
        bundle="some/bundle",
    ).on_driver(home, folder)
    assert made.output == str(home / "intent")
    assert made.data.train == str(folder / "data/train.csv")
    assert made.data.validation == "/shared/val.parquet"
    assert made.data.test is None
    assert made.data.unlabelled == str(folder / "log.csv")
    assert made.teacher.model == str(folder / "models/teacher/v1")
    assert made.teacher.bundle == str(folder / "old/bundle")
    assert made.student.model == str(folder / "models/student/v1")
    assert made.bundle == str(folder / "some/bundle")


def test_an_output_of_its_own_stays_under_home_unless_it_is_absolute(tmp_path: Path):
    assert recipe(output="runs/a").on_driver(tmp_path, tmp_path).output == str(tmp_path / "runs/a")
    assert recipe(output="/shared/a").on_driver(tmp_path, tmp_path).output == "/shared/a"


def test_being_on_the_driver_twice_changes_nothing(tmp_path: Path):
    once = recipe(data={"train": "a.csv"}, output="b").on_driver(tmp_path / "home", tmp_path)
    assert once.on_driver(tmp_path / "elsewhere", tmp_path / "other") == once


@pytest.mark.parametrize(
    "source",
    [
        "embedded:shop",
        "https://example.org/train.csv",
        "s3://bucket/train.parquet",
        "package:module/folder",
        "models:/intent@champion",
        "owner/name",
        "owner/name@main",
        "bert-base-uncased",
    ],
)
def test_what_is_no_local_path_stays_as_it_is(tmp_path: Path, source: str):
    assert absolute(source, tmp_path) == source


@pytest.mark.parametrize("source", ["train.jsonl", "data/train.csv.gz", "./owner/name", "a/b/c", "~x/y", "../x"])
def test_what_looks_like_a_path_becomes_absolute(tmp_path: Path, source: str):
    assert absolute(source, tmp_path) == str(tmp_path / source)


def test_a_folder_that_exists_is_not_taken_for_a_hub_id(tmp_path: Path):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert absolute("owner/name", tmp_path) == str(tmp_path / "owner" / "name")


def test_a_bundle_is_never_a_hub_id(tmp_path: Path):
    assert absolute("owner/name", tmp_path, may_be_id=False) == str(tmp_path / "owner/name")


@pytest.mark.parametrize("name", ["hidden", "relations", "cosine"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"engine": {"workers": 2, "pipeline_stages": 2}}, "a pipeline gives logits alone; use 0 here"),
        ({"engine": {"workers": 2, "tensor_parallel": 2}}, "workers that split a layer hold a part of its vectors"),
        ({"task": "generate"}, "task 'generate' compares logits alone"),
    ],
)
def test_objectives_that_compare_more_than_logits_are_refused_where_there_is_no_more(
    name: str, fields: dict[str, Any], said: str
):
    later = {"weights": {name: 2}}
    first = {"epochs": 2, "stages": [{"epochs": 1, "weights": {name: 2}}]}
    for distillation in (later, first):
        assert refusal(distillation=distillation, **fields).startswith(f"distillation.weights.{name}: 2: {said}")


def test_baselines_are_named_as_the_task_has_them():
    assert recipe(evaluation={"baselines": ["static", "tfidf"]}).evaluation.baselines == ["static", "tfidf"]
    assert refusal(evaluation={"baselines": ["svm"]}) == (
        "evaluation.baselines: 'svm': task 'classify' has tfidf and static; [] for none"
    )
    assert refusal(task="generate", evaluation={"baselines": ["tfidf"]}).endswith("'generate' has nearest; [] for none")
    assert "'tfidf' stands there 2 times" in refusal(evaluation={"baselines": ["tfidf", "tfidf"]})

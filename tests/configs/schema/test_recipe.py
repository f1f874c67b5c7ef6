from typing import Any

import pytest

from configs.schema.data import PoolSpec
from configs.schema.recipe import Recipe
from tests.configs.schema.recipes import EXPORT, recipe, refusal


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


def test_the_budgets_metric_is_one_that_the_task_is_judged_by():
    assert recipe().judged_by.metric == "accuracy"
    assert recipe(budget={"metric": "macro_f1"}).judged_by.metric == "macro_f1"
    said = "budget.metric: 'f1': task 'classify' is judged by accuracy or macro_f1"
    assert refusal(budget={"metric": "f1"}) == said
    assert refusal(task="generate", budget={"metric": "macro_f1"}).endswith(
        "task 'generate' is judged by bleu or rouge_l or chrf or slot_accuracy or exact_match"
    )
    assert recipe(task="generate", budget={"metric": "chrf"}).judged_by.metric == "chrf"


def test_what_only_one_task_measures_is_refused_by_name_elsewhere():
    assert refusal(budget={"max_ms_per_token": 2}).startswith(
        "budget.max_ms_per_token: 2.0: task 'classify' does not use it"
    )
    assert refusal(evaluation={"examples": 3}).startswith("evaluation.examples: 3: task 'classify' does not use it")
    assert refusal(task="generate", export={"lengths": [8]}).startswith(
        "export.lengths: [8]: task 'generate' does not use it"
    )


def test_a_time_by_token_is_limited_where_the_stated_answer_has_room():
    told = {"task": "generate", "budget": {"max_ms_per_token": 2}}
    assert recipe(**told, data={"max_length": 64}).budget.max_ms_per_token == 2
    assert refusal(**told, data={"max_length": 63}) == (
        "budget.max_ms_per_token: 2: prompts of 32 and answers of 32 tokens are timed, but data.max_length is 63; "
        "raise it to 64, or give budget.max_p95_ms instead"
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"task": "generate", "student": {"share_layers": True}},
            "student.share_layers: True: task 'generate' ",
        ),
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


def test_a_decoder_takes_the_watts_that_its_energy_is_estimated_with():
    steps = [{"step": "export"}]
    told = recipe(task="generate", teacher={"model": "new:llama"}, evaluation={"watts_per_core": 5}, compression=steps)
    assert told.evaluation.watts_per_core == 5


def test_a_service_is_removed_whatever_its_model():
    assert recipe(remove=True).remove
    said = refusal(remove=True, bundle="models:/tiny@champion")
    assert said == "remove: true is of a service, whatever its model; leave out bundle=models:/tiny@champion"


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


@pytest.mark.parametrize("name", ["hidden", "relations", "cosine"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"engine": {"workers": 2, "pipeline_stages": 2}}, "a pipeline gives logits alone; use 0 here"),
        ({"engine": {"workers": 2, "tensor_parallel": 2}}, "workers that split a layer hold a part of its vectors"),
        ({"task": "generate"}, "task 'generate' compares logits alone"),
        ({"student": {"kind": "conv"}}, "a student of kind 'conv' has no layers like the teacher's; use 0 here"),
    ],
)
def test_objectives_that_compare_more_than_logits_are_refused_where_there_is_no_more(
    name: str, fields: dict[str, Any], said: str
):
    later = {"weights": {name: 2}}
    first = {"epochs": 2, "stages": [{"epochs": 1, "weights": {name: 2}}]}
    for distillation in (later, first):
        assert refusal(distillation=distillation, **fields).startswith(f"distillation.weights.{name}: 2: {said}")


@pytest.mark.parametrize("fields", [{}, {"engine": {"workers": 2}}, {"student": {"kind": "new"}}], ids=str)
def test_objectives_that_compare_more_than_logits_are_taken_where_there_is_more(fields: dict[str, Any]):
    every = dict.fromkeys(("hidden", "relations", "cosine"), 2)
    assert recipe(distillation={"weights": every}, **fields).distillation.hidden_objectives == every


def test_baselines_are_named_as_the_task_has_them():
    assert recipe(evaluation={"baselines": ["static", "tfidf"]}).evaluation.baselines == ["static", "tfidf"]
    assert refusal(evaluation={"baselines": ["svm"]}) == (
        "evaluation.baselines: 'svm': task 'classify' has tfidf and static; [] for none"
    )
    assert refusal(task="generate", evaluation={"baselines": ["tfidf"]}).endswith(
        "'generate' has nearest and template; [] for none"
    )
    assert "'tfidf' stands there 2 times" in refusal(evaluation={"baselines": ["tfidf", "tfidf"]})


def test_texts_are_held_back_by_checks_alone():
    told = {"task": "generate", "budget": {"max_held": 0.1}}
    assert refusal(**told) == ("budget.max_held: 0.1: no text is held back; set checks.enabled=true, or leave it out")
    assert recipe(**told, checks={"enabled": True}).budget.max_held == 0.1
    assert refusal(budget={"max_slot_errors": 0.1}).startswith("budget.max_slot_errors: 0.1: task 'classify' does not")


@pytest.mark.parametrize("section", ["teacher", "student"])
@pytest.mark.parametrize("layout", ["pipeline_stages", "tensor_parallel"])
def test_adapters_are_refused_where_layers_or_models_are_cut(section: str, layout: str):
    asked: dict[str, Any] = {section: {"adapter": {"rank": 4}}}
    said = refusal(engine={"workers": 2, layout: 2}, **asked)
    assert said.startswith(f"engine.{layout}: 2: {section}.adapter stands beside whole layers of a whole model; use 1")
    assert recipe(engine={"workers": 2, "zero_stage": 3}, **asked)


@pytest.mark.parametrize(("name", "value"), [("pipeline_stages", 2), ("tensor_parallel", 2), ("zero_stage", 3)])
def test_a_student_that_writes_is_refused_where_workers_hold_parts_of_it(name: str, value: int):
    given = {"task": "generate", "teacher": {"model": "new:llama"}, "distillation": {"on_policy": 0.5}}
    said = refusal(engine={"workers": 2, name: value}, **given)
    assert said.startswith(f"engine.{name}: {value}: distillation.on_policy=0.5 has every worker write with a whole")
    assert recipe(engine={"workers": 2, "zero_stage": 2}, **given)


def test_a_classifier_writes_no_texts():
    assert refusal(distillation={"on_policy": 0.5}) == (
        "distillation.on_policy: 0.5: task 'classify' does not use it; leave it out"
    )


def test_what_only_services_of_one_task_do_is_refused_for_the_other():
    assert "serving.round_tokens: 8: task 'classify' does not use it" in refusal(serving={"round_tokens": 8})
    told = {"task": "generate", "student": {"layers": 1}, "serving": {"batch_wait_ms": 3}}
    assert "serving.batch_wait_ms: 3.0: task 'generate' does not use it" in refusal(**told)

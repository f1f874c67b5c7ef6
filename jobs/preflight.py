"""What is refused before work begins that would fail after an hour of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.session import JobError
from configs.given import reason
from configs.loader import UsageError
from configs.schema.compression import ShrinkSpec
from configs.schema.data import EMBEDDED
from configs.schema.models import NEW, AdapterSpec, StudentSpec
from configs.schema.recipe import Recipe
from configs.schema.runtimes import RUNTIMES, export_targets
from configs.schema.search_recipe import SearchRecipe
from configs.schema.tasks import named
from jobs.data.source import check_source, has_test, source_of
from jobs.training.wanted import wanted_of
from serving.bundle import MANIFEST


def check_possible(recipe: Recipe) -> None:
    """Refuse, before a teacher is trained, a student that it cannot have and objectives that it cannot serve.

    Of a search every choice of `student.layers` is tried, and no size, as those go with one another.
    """
    from jobs.models.student import check_student

    config = _config_to_be(recipe)
    for student in _students(recipe):
        check_student(config, student)
    wanted_of(recipe, config)
    _check_shrink(recipe, config)
    _check_export(recipe, config)


def _check_shrink(recipe: Recipe, config: Any) -> None:
    """Refuse a first step `shrink` that the students cannot take; what a second one finds follows from it."""
    from jobs.compression.steps.shrink import check_shrink
    from jobs.models.layers import has_own_sizes, keep_layers
    from jobs.models.narrow import smaller
    from jobs.models.student import choose_layers

    spec = next((each for each in recipe.compression if isinstance(each, ShrinkSpec)), None)
    if spec is None:
        return
    for student in _students(recipe):
        if student.kind == "layers" and not has_own_sizes(config):
            changed = smaller(config, student.sizes) if student.sizes else copy.deepcopy(config)
            keep_layers(changed, choose_layers(student.layers, changed.num_hidden_layers))
            check_shrink(spec, changed)


def _check_export(recipe: Recipe, config: Any) -> None:
    """Refuse a student of which no runtime of the recipe could have a file; `config` is the teacher's."""
    from jobs.compression.checks.selection import installed
    from jobs.models.loading import config_of
    from jobs.models.narrow import smaller

    try:
        targets = installed(export_targets(recipe.export, recipe.task, recipe.compression))
    except JobError:
        return  # of this machine; a later one may have the engine
    runtimes = list(dict.fromkeys(each.runtime for each in targets))
    for spec in _students(recipe):
        if spec.model is not None:
            _try_export(f"student.model: {spec.model}", config_of(spec.model, "student.model"), runtimes)
        elif spec.kind == "layers" and spec.sizes:
            _try_export(recipe.teacher.origin, smaller(config, spec.sizes), runtimes)
        elif spec.kind != "conv" and not recipe.teacher.model.startswith(NEW):
            _try_export(recipe.teacher.origin, config, runtimes)


def _try_export(at: str, config: Any, runtimes: Sequence[str]) -> None:
    """Raise `UsageError` where a small model of `config` can be exported for none of the `runtimes`."""
    from jobs.models.loading import silent

    reasons = []
    for runtime in runtimes:
        if config.model_type in RUNTIMES[runtime].exported:
            return
        try:
            with silent():
                named(RUNTIMES[runtime].try_export or "")(config)
        except Exception as error:  # noqa: BLE001 - whatever an engine says of a model of this kind
            reasons.append(f"{runtime}: {reason(error)}")
        else:
            return
    raise UsageError(
        f"{at}: a small model of the same config ({config.model_type}) cannot be exported for {'; '.join(reasons)}; "
        "give a model of another kind as teacher.model or student.model, or another export.runtime"
    )


def _students(recipe: Recipe) -> list[StudentSpec]:
    """The students to be trained, as far as they are known."""
    space, own = recipe.search.space, recipe.student
    if not isinstance(recipe, SearchRecipe) and (own == StudentSpec() or "student.layers" in space):
        return []  # of a verb that does not search; what says nothing of a student may be about a teacher alone
    students = [own]
    if "student.layers" in space:
        students = [recipe.at({"student.layers": choice}).student for choice in space["student.layers"].probes()]
    if "student.kind" in space:
        return []
    sizes = ("hidden", "heads", "feed_forward")
    if any(f"student.{name}" in space for name in sizes):
        return [each.model_copy(update=dict.fromkeys(sizes)) for each in students]
    return students


def _config_to_be(recipe: Recipe) -> Any:
    """The config of the teacher, that is there or will be trained."""
    from jobs.models.decoder import new_config
    from jobs.models.loading import config_of

    spec = recipe.teacher
    if spec.bundle is None and spec.model.startswith(NEW):
        return new_config(spec.model.removeprefix(NEW), spec.new, spec.new.vocabulary, recipe.data.max_length, 0)
    return config_of(spec.model) if spec.bundle is None else config_of(spec.bundle, "teacher.bundle")


def check_models(recipe: Recipe) -> None:
    """Refuse the given models that cannot do the recipe's task: teachers, and a pretrained student."""
    from jobs.models.inspection import inspect

    spec = recipe.teacher
    check_given("teacher.bundle", spec.bundle)
    if spec.bundle is not None:
        inspect(spec.bundle, "teacher.bundle", recipe)
    elif not spec.model.startswith(NEW):
        inspect(spec.model, "teacher.model", recipe)
    if recipe.student.model is not None:
        inspect(recipe.student.model, "student.model", recipe)
    _check_adapters(recipe)
    for index, each in enumerate(recipe.distillation.further_teachers):
        field = f"distillation.further_teachers[{index}].bundle"
        check_given(field, each.bundle)
        inspect(each.bundle, field, recipe)


def _check_adapters(recipe: Recipe) -> None:
    """Refuse an adapter on matrices that the model does not have."""
    if (adapter := recipe.teacher.adapter) is not None and recipe.teacher.bundle is None:
        _check_adapter("teacher.adapter", adapter, _config_to_be(recipe))
    if (adapter := recipe.student.adapter) is not None:
        _check_adapter("student.adapter", adapter, _config_of_student(recipe))


def _check_adapter(field: str, spec: AdapterSpec, config: Any) -> None:
    from jobs.models.adapter import check_adapter

    check_adapter(field, spec, config)


def _config_of_student(recipe: Recipe) -> Any:
    from jobs.models.loading import config_of

    model = recipe.student.model
    return _config_to_be(recipe) if model is None else config_of(model, "student.model")


def check_given(field: str, folder: str | None, uri: bool = False) -> None:
    """Raise `UsageError` where `field` names a folder that holds no bundle; with `uri` it may also be models:/..."""
    if folder is None or (uri and folder.startswith("models:")) or (Path(folder) / MANIFEST).exists():
        return
    raise UsageError(f"{field}: {folder}: {'holds no bundle' if Path(folder).is_dir() else 'no such folder'}")


def check_reply(recipe: Recipe) -> None:
    """Refuse replies that local rows have no columns for, or a decoder that is not there."""
    check_given("reply.decoder", recipe.reply.decoder, uri=True)
    if (column := recipe.reply.column) is not None:
        for split in ("train", "validation"):
            check_source(recipe.data, split, (column, *recipe.reply.fields))
        if has_test(recipe.data):
            check_source(recipe.data, "test", recipe.reply.fields)


def check(recipe: Recipe) -> None:
    """Refuse now what would come out after an hour of training; of a local test file only the columns are looked at."""
    check_models(recipe)
    check_reply(recipe)
    test = recipe.data.test
    if test is None:
        if recipe.deploy and "untested" not in recipe.serving.accept:
            raise UsageError(
                "data.test: none: deploy=true puts into service what unseen rows say is inside the budget; give "
                "data.test, or serving.accept='[untested]'"
            )
        return
    if test == EMBEDDED != recipe.data.train:
        raise UsageError(
            f"data.test: {test}: made-up messages are no test of data.train; give data.test, or data.test=null"
        )
    if (found := str(source_of(recipe.data, "test"))).startswith("/") and not Path(found).exists():
        raise UsageError(f"data.test: {test}: no such file")
    check_source(recipe.data, "test")

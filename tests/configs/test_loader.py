from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import Field, model_validator

from configs.loader import Spec, UsageError, assign, describe, load, merge
from configs.strict_yaml import parse_yaml


class Engine(Spec):
    workers: int = Field(1, ge=1, description="workers")
    rate: float = Field(0.1, gt=0, description="rate")
    fast: bool = Field(False, description="fast")
    title: str = Field(default="", description="title")

    @model_validator(mode="after")
    def fast_is_for_few(self) -> Self:
        if self.fast and self.workers > 8:
            raise ValueError(f"workers={self.workers}: fast={self.fast} is for few; use workers=8")
        return self


class Prune(Spec):
    step: Literal["prune"] = "prune"
    name: str | None = None
    sparsity: float = Field(0.5, ge=0, lt=1, description="share of zeros")


class Export(Spec):
    step: Literal["export"] = "export"
    name: str | None = None


PRUNE = Prune.model_validate({})
Step = Annotated[Prune | Export, Field(discriminator="step")]


class Range(Spec):
    choice: list[int] | None = None
    between: tuple[int, int] | None = None


class Tiny(Spec):
    name: str = Field(description="name")
    engine: Engine = Field(default_factory=lambda: Engine.model_validate({}), description="how")
    steps: list[Step] = Field(default_factory=lambda: [PRUNE, Export()], description="steps")
    layers: int | list[int] = Field(3, description="number or indices")
    limits: dict[str, float] = Field(default_factory=dict, description="limits by name")
    ranges: dict[str, Range] = Field(default_factory=dict, description="ranges by dotted key")

    @model_validator(mode="after")
    def of_a_name_nothing_else_is_given(self) -> Self:
        if self.name == "step 2":
            raise ValueError(f"steps[1].name: {self.steps[1].name!r} and {self.name!r} are alike")
        if self.name == "rate" and "engine.rate" in self.ranges:
            raise ValueError("ranges.engine.rate: is another rate")
        return self


@pytest.fixture
def write(tmp_path: Path):
    def at(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return at


def test_a_recipe_lies_over_what_it_extends_and_overrides_over_both(write):
    write("base.yaml", "name: base\nengine: {workers: 2, rate: 0.5}\nlimits: {a: 1}\n")
    write("middle.yaml", "extends: base.yaml\nengine: {workers: 3}\nlimits: {b: 2}\n")
    path = write("sub/recipe.yaml", "extends: ../middle.yaml\nname: mine\n")
    tiny = load(Tiny, path, ["engine.fast=true"])
    assert tiny.name == "mine"
    assert tiny.engine == Engine(workers=3, rate=0.5, fast=True)
    assert tiny.limits == {"a": 1, "b": 2}


def test_lists_are_replaced_whole(write):
    write("base.yaml", "name: base\nlayers: [1, 2, 3]\n")
    assert load(Tiny, write("recipe.yaml", "extends: base.yaml\nlayers: [4]\n")).layers == [4]


BASE_OF_RANGES = "name: base\nlimits: {a: 1}\nranges: {engine.rate: {choice: [1]}, layers: {choice: [2]}}\n"


class Texts(Spec):
    column: str = Field(default="text", description="column")
    pair: str | None = Field(default=None, description="column")
    kind: Literal["on", "off"] = Field(default="on", description="kind")
    columns: list[str] = Field(default_factory=list, description="columns")
    either: str | dict[str, str] | None = Field(default=None, description="file, or files by name")
    amount: int | str = Field(default=1, description="number or word")
    inner: Engine = Field(default_factory=lambda: Engine.model_validate({}), description="how")
    steps: list[Step] = Field(default_factory=lambda: [PRUNE, Export()], description="steps")


AS_IT_STANDS = [
    "Order #",
    " # all of it",
    "a: b",
    "[x",
    "{x}",
    "- x",
    "'quoted'",
    '"',
    "&x",
    "*x",
    "!x",
    "%x",
    "123",
    "1_000",
    "0x1f",
    "12:30",
    "2026-01-01",
    "yes",
    "true",
    "NULL",
    "~",
    " spaces ",
    "tab\there",
    "订单 #",
    "a=b",
    "#",
]


@pytest.mark.parametrize("text", AS_IT_STANDS)
@pytest.mark.parametrize("field", ["column", "pair", "inner.title", "steps.export.name"])
def test_an_override_of_a_text_takes_what_stands_there(write, field: str, text: str):
    path = write("recipe.yaml", "column: other\n")
    found: Any = load(Texts, path, [f"{field}={text}"])
    for key in field.split("."):
        found = found[1] if key == "export" else getattr(found, key)
    assert found == text


def test_what_stands_there_is_yaml_in_a_file(write):
    """The control: where ` #` begins a comment, and 123 is a number."""
    assert load(Texts, write("recipe.yaml", "column: Order #\n")).column == "Order"
    with pytest.raises(UsageError, match="column: got 123; text is expected; in quotes everything is"):
        load(Texts, write("recipe.yaml", "column: 123\n"))


def test_null_or_nothing_is_none_where_a_text_may_be_none(write):
    path = write("recipe.yaml", "pair: other\neither: file\n")
    for text in ("null", ""):
        found = load(Texts, path, [f"pair={text}", f"either={text}", f"column={text}"])
        assert (found.pair, found.either, found.column) == (None, None, text)


def test_a_choice_of_words_is_a_text(write):
    assert load(Texts, write("recipe.yaml", "{}\n"), ["kind=off"]).kind == "off"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[Order #, 1, yes, null, 12:30]", ["Order #", "1", "yes", "null", "12:30"]),
        ("[\"a, b\", 'c', d # e]", ["a, b", "c", "d # e"]),
        ("[]", []),
    ],
)
def test_texts_in_a_list_stand_for_themselves(write, text: str, found: list[str]):
    assert load(Texts, write("recipe.yaml", "{}\n"), [f"columns={text}"]).columns == found


def test_a_list_of_texts_that_is_none_is_refused(write):
    for text, said in {
        "[a: b]": r"\[0\]: got .*; text is expected",
        "[a": "write it as YAML",
        "a": "valid list",
    }.items():
        with pytest.raises(UsageError, match=f"^command line: columns.*{said}"):
            load(Texts, write("recipe.yaml", "{}\n"), [f"columns={text}"])


def test_a_text_or_something_else_is_what_it_looks_like(write):
    path = write("recipe.yaml", "{}\n")
    assert load(Texts, path, ["either={a: x #, b: 1}"]).either == {"a": "x #", "b": "1"}
    assert load(Texts, path, ["either=x # y"]).either == "x # y"
    assert load(Texts, path, ["either.first=x #"]).either == {"first": "x #"}
    assert [load(Texts, path, [f"amount={text}"]).amount for text in ("2", "two", "2.5", "no")] == [
        2,
        "two",
        "2.5",
        "no",
    ]


@pytest.mark.parametrize(
    ("ranges", "kept"),
    [
        ("{layers: {between: [1, 2]}}", {"engine.rate": Range(choice=[1]), "layers": Range(between=(1, 2))}),
        ("{a.b: {choice: [3]}, engine.rate: null}", {"a.b": Range(choice=[3]), "layers": Range(choice=[2])}),
        ("{}", {}),
    ],
)
def test_of_free_keys_one_is_replaced_whole_null_takes_it_out_and_an_empty_mapping_all(
    write, ranges: str, kept: dict[str, Range]
):
    write("base.yaml", BASE_OF_RANGES)
    tiny = load(Tiny, write("recipe.yaml", f"extends: base.yaml\nranges: {ranges}\n"))
    assert tiny.ranges == kept
    assert tiny.limits == {"a": 1}


def test_what_stands_between_free_keys_and_the_equals_sign_is_one_of_them(write):
    path = write("recipe.yaml", BASE_OF_RANGES)
    tiny = load(
        Tiny, path, ["ranges.engine.rate={between: [1, 2]}", "ranges.new.key={choice: [3]}", "ranges.layers=null"]
    )
    assert tiny.ranges == {"engine.rate": Range(between=(1, 2)), "new.key": Range(choice=[3])}
    assert load(Tiny, path, ["ranges={a.b: {choice: [3]}}"]).ranges == {"a.b": Range(choice=[3])}
    assert load(Tiny, path, ["ranges={}"]).ranges == {}


def test_a_free_key_that_is_not_there_cannot_be_taken_out(write):
    path = write("recipe.yaml", BASE_OF_RANGES)
    with pytest.raises(UsageError, match=r"^command line: ranges\.engine\.rat: got None; "):
        load(Tiny, path, ["ranges.engine.rat=null"])
    child = write("child.yaml", "extends: recipe.yaml\nranges: {engine.rat: null}\n")
    with pytest.raises(UsageError, match=r"child\.yaml: ranges\.engine\.rat: got None; "):
        load(Tiny, child)


def test_numbers_that_yaml_reads_as_text_become_numbers(write):
    assert load(Tiny, write("recipe.yaml", "name: a\nengine: {rate: 3e-4}\n")).engine.rate == 3e-4
    assert load(Tiny, write("recipe.yaml", "name: a\n"), ["engine.rate=1e-5"]).engine.rate == 1e-5


def test_an_override_may_name_an_item_of_a_list_by_name_or_step(write):
    path = write("recipe.yaml", "name: a\nsteps: [{step: prune, name: first}, {step: prune}, {step: export}]\n")
    steps = load(Tiny, path, ["steps.first.sparsity=0.1", "steps.export.name=file"]).steps
    assert steps == [Prune(name="first", sparsity=0.1), PRUNE, Export(name="file")]


def test_an_override_may_name_an_item_of_a_default_list(write):
    tiny = load(Tiny, write("recipe.yaml", "name: a\n"), ["steps.prune.sparsity=0.25"])
    assert tiny.steps == [Prune(sparsity=0.25), Export()]


def test_later_overrides_win(write):
    assert (
        load(Tiny, write("recipe.yaml", "name: a\n"), ["engine.workers=2", "engine={workers: 5}"]).engine.workers == 5
    )


def test_a_file_that_is_extended_is_named_for_its_own_faults(write):
    write("base.yaml", "engine: {workers: 0}\n")
    path = write("recipe.yaml", "extends: base.yaml\nname: a\nengine: {rate: 0.2}\n")
    with pytest.raises(UsageError, match=r"base\.yaml: engine\.workers: got 0; "):
        load(Tiny, path)


def test_the_command_line_is_named_for_its_own_faults(write):
    path = write("recipe.yaml", "name: a\nengine: {workers: 1}\nsteps: [{step: prune}]\n")
    for override, said in {
        "engine.workers=0": r"command line: engine\.workers: got 0; ",
        "steps.prune.sparsity=2": r"command line: steps\[0\]\.sparsity: got 2; ",
        "name.first=x": r"command line: name\.first: name is 'a' and has no fields",
        "layers.first=x": r"command line: layers: got \{'first': 'x'\}; ",
    }.items():
        with pytest.raises(UsageError, match=f"^{said}"):
            load(Tiny, path, [override])


@pytest.mark.parametrize(
    ("fields", "overrides", "said"),
    [
        ("engine: {fast: true}", [], "base.yaml: engine: workers=9: fast=True is for few"),
        ("engine: {fast: true}", ["engine.workers=10"], "command line: engine: workers=10: fast=True is for few"),
        ("", ["engine.fast=true"], "command line: engine: workers=9: fast=True is for few"),
        ("name: step 2", [], "base.yaml: steps[1].name: None and 'step 2' are alike"),
        ("name: step 2", ["steps.export.name=x"], "command line: steps[1].name: 'x' and 'step 2' are alike"),
        ("ranges: {engine.rate: {}}", ["name=rate"], "recipe.yaml: ranges.engine.rate: is another rate"),
        ("name: rate", ["ranges.engine.rate={}"], "command line: ranges.engine.rate: is another rate"),
    ],
)
def test_of_fields_that_do_not_go_together_the_giver_of_a_named_one_is_named(
    write, fields: str, overrides: list[str], said: str
):
    write("base.yaml", "name: a\nengine: {workers: 9}\nsteps: [{step: prune}, {step: export}]\n")
    path = write("recipe.yaml", f"extends: base.yaml\n{fields}\n")
    with pytest.raises(UsageError) as refused:
        load(Tiny, path, overrides)
    assert str(refused.value).removeprefix(f"{path.parent}/").startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine: {workers: true}", "engine.workers: got True; a number is expected"),
        ("engine: {rate: false}", "engine.rate: got False; a number is expected"),
        ("layers: [1, true]", "layers: got [1, True]; a number is expected"),
        ("engine: {fast: 1}", "engine.fast: got 1; write true or false"),
        ("engine: {fast: 'yes'}", "engine.fast: got 'yes'; write true or false"),
        ("layers: [a]", "layers[0]: got 'a'; "),
        ("layers: [int]", "layers[0]: got 'int'; "),
        (
            "layers: many",
            "layers: got 'many'; Input should be a valid integer, unable to parse string as an integer, or a",
        ),
        (
            "layers: 1,2",
            "layers: got '1,2'; Input should be a valid integer, unable to parse string as an integer, or a v",
        ),
        (
            "engine: {title: on}",
            "engine.title: got True; text is expected; in quotes everything is",
        ),
        ("engine: [1]", "engine: got [1]; a mapping of fields is expected"),
        ("steps: [{sparsity: 0.1}]", "steps[0]: got {'sparsity': 0.1}; say which one with the key 'step'"),
        ("steps: [{step: prune, sparcity: 1}]", "steps[0].sparcity: unknown key (value 1); did you mean 'sparsity'?"),
        ("limits: {a: b}", "limits.a: got 'b'; "),
    ],
)
def test_the_field_is_named_as_the_user_wrote_it(write, text: str, said: str):
    path = write("recipe.yaml", f"name: a\n{text}\n")
    with pytest.raises(UsageError) as refused:
        load(Tiny, path)
    assert str(refused.value).startswith(f"{path}: {said}")


def test_an_unknown_key_without_a_near_one_lists_the_known(write):
    with pytest.raises(UsageError, match=r"zzz: unknown key \(value 1\); known here: engine, layers, limits, name, r"):
        load(Tiny, write("recipe.yaml", "name: a\nzzz: 1\n"))


def test_long_values_are_cut_in_messages(write):
    with pytest.raises(UsageError) as refused:
        load(Tiny, write("recipe.yaml", f"name: a\nengine: {'x' * 5000}\n"))
    assert len(str(refused.value)) < 400


def test_a_base_that_is_missing_names_who_extends_it_and_the_nearest(write):
    write("base.yaml", "name: base\n")
    path = write("recipe.yaml", "extends: bse.yaml\n")
    with pytest.raises(UsageError) as refused:
        load(Tiny, path)
    near = path.parent / "base.yaml"
    assert str(refused.value).endswith(f"bse.yaml: no such file (extended by {path}); did you mean {near}?")


def test_a_recipe_of_another_name_is_no_near_one(write):
    path = write("smoke.yaml", "name: a\n")
    with pytest.raises(UsageError, match=r"nope\.yaml: no such file$"):
        load(Tiny, path.with_name("nope.yaml"))
    with pytest.raises(UsageError, match=r"did you mean .*/smoke\.yaml\?$"):
        load(Tiny, path.with_name("smoke.yml"))


def test_a_name_that_no_file_can_have_is_refused(write, tmp_path: Path):
    with pytest.raises(UsageError, match="no file can be there"):
        load(Tiny, write("recipe.yaml", 'extends: "a\\0b"\n'))
    (tmp_path / "one.yaml").symlink_to(tmp_path / "two.yaml")
    (tmp_path / "two.yaml").symlink_to(tmp_path / "one.yaml")
    with pytest.raises(UsageError, match=r"one\.yaml: "):
        load(Tiny, tmp_path / "one.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "line 2: the key 'a' is given twice, keep one"),
        ("b: {a: 1, a: 1}", "line 1: the key 'a' is given twice, keep one"),
        ("3: x", "the key 3 is no text, put it in quotes"),
        ("on: x", "the key True is no text, put it in quotes"),
        ("~: x", "the key None is no text"),
        ("? [a]\n: x", r"the key \['a'\] is no text"),
        ("<<: {a: 1}", "the key '<<' is not understood, use extends"),
        ("a: &a {b: *a}", "recursive"),
        ("a: &a [*a]", "recursive"),
        ("a: *b", "undefined alias 'b'"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: [", "line 1"),
        ("a: 2020-13-45", "month must be in"),
        ("a: \0", "special characters are not allowed"),
        ("[" * 1000, "not YAML"),
        ("a: 1" + "0" * 5000, "not YAML"),
    ],
)
def test_yaml_that_means_more_or_less_than_it_seems_is_refused(text: str, said: str):
    with pytest.raises(UsageError, match=f"(?s)^here: .*{said}") as refused:
        parse_yaml(text, "here")
    assert "\n" not in str(refused.value)


def test_an_alias_bomb_is_refused_and_a_few_aliases_are_not():
    bomb = "x0: &x0 [a]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 10))
    with pytest.raises(UsageError, match="more than 32 aliases"):
        parse_yaml(bomb, "here")
    assert parse_yaml("a: &a {b: 1}\nc: *a\n", "here") == {"a": {"b": 1}, "c": {"b": 1}}


def test_merging_changes_neither_side():
    base: dict[str, Any] = {"a": {"b": 1, "c": 2}, "d": [1]}
    over: dict[str, Any] = {"a": {"b": 3}, "d": [2]}
    assert merge(base, over) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert (base, over) == ({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]})


def test_assigning_says_where_list_items_by_index():
    tree: dict[str, Any] = {"steps": [{"step": "prune"}, {"step": "export"}]}
    assert assign(tree, "steps.export.name", "file") == ("steps", 1, "name")
    assert assign(tree, "new.deep", 1) == ("new", "deep")
    assert tree == {"steps": [{"step": "prune"}, {"step": "export", "name": "file"}], "new": {"deep": 1}}


@pytest.mark.parametrize(
    ("dotted", "said"),
    [
        ("steps.quantize.x", "'quantize' matches no item (items here: prune, prune, first)"),
        ("steps.prune.x", "'prune' matches several items; give each a name"),
        ("steps.0.x", "'0' matches no item"),
        ("steps.first", "steps is a list; name a field of one of its items"),
        ("seed.x", "seed is 1 and has no fields"),
    ],
)
def test_assigning_where_nothing_is_says_what_is_there(dotted: str, said: str):
    tree = {"steps": [{"step": "prune"}, {"step": "prune"}, {"step": "export", "name": "first"}], "seed": 1}
    with pytest.raises(UsageError) as refused:
        assign(tree, dotted, 1)
    assert said in str(refused.value)


def test_a_spec_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Engine.model_validate({}).workers = 2  # type: ignore[misc]


def test_every_field_is_described_with_type_bounds_and_default():
    rows = {key: rest for key, *rest in describe(Tiny)}
    assert rows["name"] == ["str", "required", "name"]
    assert rows["engine.workers"] == ["int >= 1", "1", "workers"]
    assert rows["layers"] == ["int | list of int", "3", "number or indices"]
    assert rows["limits"] == ["mapping of float", "{}", "limits by name"]
    assert rows["steps[prune].sparsity"] == ["float >= 0 < 1", "0.5", "share of zeros"]
    assert {"steps", "steps[export].name"} <= set(rows)

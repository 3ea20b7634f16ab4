"""Every mistake in a recipe or a space is one line with file, key, rule and remedy."""

import dataclasses
import random
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter

from compress import recipe as recipes
from compress.errors import CompressError, NetworkError, RecipeError, SpaceError
from compress.jobs.names import check_names
from compress.jobs.search.task import read_baselines, read_search_space
from compress.nas.space import Space, expand, read_space
from compress.networks import architecture_from_data, architecture_to_data
from compress.recipe import (
    ANY_NETWORK,
    PruneRecipe,
    RewriteRecipe,
    SearchRecipe,
    TrainRecipe,
    find,
    fingerprint,
    read_recipe,
    shipped_folder,
    to_data,
)

RECIPE = "job: search\nsearch: {space: bhrnet_small}\n"


def write(tmp_path: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(shipped_folder("recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    for job, kind in (("train", TrainRecipe), ("prune", PruneRecipe), ("rewrite", RewriteRecipe)):
        if f"\njob: {job}" in path.read_text():
            read_recipe(path, kind, ["data.disk.folder=somewhere"])
            return
    recipe = read_recipe(path, SearchRecipe, ["data.disk.folder=somewhere"])
    if recipe.search.space is None:  # it is derived from a network
        assert path.stem == ANY_NETWORK
        return
    space = read_search_space(recipe)
    assert read_baselines(recipe, space)


def recipe_models() -> list[type[BaseModel]]:
    """Every model of compress.recipe, sections and whole recipes."""
    found = [one for one in vars(recipes).values() if isinstance(one, type) and issubclass(one, recipes.Settings)]
    return [one for one in found if one is not recipes.Settings]


@pytest.mark.parametrize("model", recipe_models(), ids=lambda model: model.__name__)
def test_every_key_of_a_recipe_says_what_it_means(model: type[BaseModel]) -> None:
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name}"
        assert field.description.endswith("."), f"{model.__name__}.{name}"


def test_every_key_of_a_codec_says_what_it_means() -> None:
    schema = TypeAdapter(recipes.Codec).json_schema()["properties"]
    assert set(schema) == {field.name for field in dataclasses.fields(recipes.Codec)}
    assert all(schema[name].get("description", "").endswith(".") for name in schema)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (RECIPE + "seeed: 1", ["seeed", "unknown key", "did you mean 'seed'"]),
        ("job: search\nsearch: {space: bhrnet_small, trails: 3}", ["search.trails", "unknown key", "'trials'"]),
        ("job: search\nsearch: {space: bhrnet_small, trials: many}", ["search.trials", "many"]),
        ("job: search\nsearch: {space: bhrnet_small, trials: 0}", ["search.trials", "greater than or equal to 1"]),
        ("job: search\nsearch: {space: bhrnet_small, sampler: nsga3}", ["search.sampler", "nsga2"]),
        ("job: search", ["search", "required"]),
        ("job: train\nsearch: {space: x}", ["job", "search"]),
        (RECIPE + "supernet: {loss: {heatmap: -1}}", ["supernet.loss.heatmap", "greater than 0"]),
        (RECIPE + "data: {kind: coco}", ["data", "disk.folder"]),
        (RECIPE + "data: {kind: cocoa}", ["data.kind", "did you mean 'coco'"]),
        (RECIPE + "measurement: {targets: [onnxruntime, ncn]}", ["measurement.targets", "did you mean 'ncnn'"]),
        (RECIPE + "measurement: {targets: []}", ["measurement.targets", "there must be a target"]),
        (RECIPE + "seed: .nan", ["seed"]),
        ("[1, 2]", ["a recipe is a mapping"]),
        ("job: [unclosed", ["not valid YAML"]),
    ],
)
def test_mistakes_in_a_recipe(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        check_names(read_recipe(path, SearchRecipe))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_missing_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(RecipeError, match="bhrnet"):
        find("bhrnett", "recipes", RecipeError)
    assert find("bhrnet", "recipes", RecipeError).name == "bhrnet.yaml"


def test_overrides_replace_values_and_whole_sections(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE + "data: {synthetic: {train: 5}}\n")
    recipe = read_recipe(path, SearchRecipe, ["search.trials=7", "data={kind: coco, disk: {folder: here}}", "seed=3"])
    assert (recipe.search.trials, recipe.data.kind, recipe.data.disk.folder, recipe.seed) == (
        7,
        "coco",
        Path("here"),
        3,
    )
    for override, part in (
        ("seed", "key.sub=value"),
        ("seed.x=1", "no sub-keys"),
        ("a=[", "YAML"),
        ("sead=1", "'seed'"),
    ):
        with pytest.raises(RecipeError, match=part):
            read_recipe(path, SearchRecipe, ["seed=1", override])


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    one = read_recipe(write(tmp_path, RECIPE), SearchRecipe)
    same = read_recipe(write(tmp_path, RECIPE + "seed: 1\n", "b.yaml"), SearchRecipe)
    other = read_recipe(write(tmp_path, RECIPE + "seed: 2\n", "c.yaml"), SearchRecipe)
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert SearchRecipe.model_validate(to_data(one)) == one


SPACE = "family: dir_bhrnet\nfixed: {head: single}\nchoices: {width: [8, 16], kinds.*: [ir, dir], blocks.*.*: [0, 1]}\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (SPACE.replace("family", "famly"), ["famly", "did you mean 'family'"]),
        (SPACE.replace("dir_bhrnet", "dir_bhrnt"), ["family", "did you mean 'dir_bhrnet'"]),
        (SPACE.replace("width", "widht"), ["choices.widht", "no such field"]),
        (SPACE.replace("[8, 16]", "[16, 8]"), ["choices.width", "smallest to largest"]),
        (SPACE.replace("[8, 16]", "[8, 8]"), ["choices.width", "twice"]),
        (SPACE.replace("[8, 16]", "[]"), ["choices.width", "at least one"]),
        (SPACE.replace("[8, 16]", "8"), ["choices.width", "at least one"]),
        (SPACE.replace("[0, 1]", "[-1, 1]"), ["choices", "negative"]),
        (SPACE.replace("dir]", "dri]"), ["choices.kinds", "residual"]),
        (SPACE.replace("single", "sngle"), ["fixed", "head"]),
        ("family: dir_bhrnet", ["fixed"]),
        ("just text", ["mapping"]),
        ("family: [", ["not valid YAML"]),
    ],
)
def test_mistakes_in_a_space(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, text, "space.yaml")
    recipe = SearchRecipe.model_validate({"job": "search", "search": {"space": str(path)}})
    with pytest.raises((SpaceError, NetworkError)) as caught:
        read_search_space(recipe)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert all(part in message for part in parts), message


EDITS = """family: mobile_openpose
edits: {k: {sites: refinements, rewrite: [keep, dilated_to_3x3]}, c: {sites: features, channels: [0.5, 1]}}
"""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (EDITS.replace("sites: refinements, ", ""), ["edits.k", "'sites', a pattern"]),
        (EDITS.replace("channels: [0.5, 1]", "rewrite: [keep], channels: [1]"), ["edits.c", "one of"]),
        (EDITS.replace("rewrite: [keep, dilated_to_3x3]", "keep: 1"), ["edits.k", "one of"]),
        (EDITS.replace("sites: features", "sites: features, stes: x"), ["edits.c.stes", "unknown key", "'sites'"]),
        (EDITS.replace("keep, ", ""), ["edits.k.rewrite", "as it is, keep"]),
        (EDITS.replace("0.5, 1]", "0.5]"), ["edits.c.channels", "as it is, 1.0"]),
        (EDITS.replace("0.5, 1]", "1, 1.5]"), ["edits.c.channels", "at most 1", "1.5"]),
        (EDITS.replace("0.5", "0"), ["edits.c.channels", "above 0"]),
        (EDITS.replace("[0.5, 1]", "[1, 0.5]"), ["edits.c.channels", "smallest to largest"]),
        (EDITS.replace("dilated_to_3x3", "3"), ["edits.k.rewrite", "a rule's name"]),
        (EDITS.replace("edits: {", "edits: [").replace("}}", "}]"), ["edits", "mapping"]),
    ],
)
def test_mistakes_in_edits(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, text, "space.yaml")
    with pytest.raises(SpaceError) as caught:
        read_space(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_edits_are_choices_beside_the_architecture(tmp_path: Path) -> None:
    base = {"family": "mobile_openpose", "refinements": 1}
    space = expand(read_space(write(tmp_path, EDITS + "choices: {refinements: [0, 1]}\n")), base)
    assert space.choices == {"refinements": (0, 1), "edits.k": ("keep", "dilated_to_3x3"), "edits.c": (0.5, 1.0)}
    assert space.size == 8
    assert space.unedited == {"edits.k": "keep", "edits.c": 1.0}
    pick = {"refinements": 0, "edits.k": "dilated_to_3x3", "edits.c": 0.5}
    assert space.apply(pick) == {**base, "refinements": 0}
    assert space.pick_of(base, "test") == {"refinements": 1, **space.unedited}
    assert space.architectures.choices == {"refinements": (0, 1)}
    # Every edit is changed on its own, unlike the choices of one field of the architecture.
    assert space.whole_changes(space.pick_of(base, "test")) == [
        {"refinements": 0, "edits.k": "keep", "edits.c": 1.0},
        {"refinements": 1, "edits.k": "dilated_to_3x3", "edits.c": 1.0},
        {"refinements": 1, "edits.k": "keep", "edits.c": 0.5},
    ]


@pytest.mark.parametrize(
    ("baseline", "part"),
    [
        ({"width": 12}, "width must be one of"),
        ({"wdth": 16}, "'width'"),
        ({"head": "higher"}, "the space fixes head"),
        ({"input_hw": "96x96"}, "one input size"),
    ],
)
def test_baselines_outside_the_space(baseline: dict[str, object], part: str) -> None:
    fields = {"width": 16, "blocks": [[1], [1, 1], [1, 1, 1], [1, 1, 1, 1]], **baseline}
    data = {"job": "search", "search": {"space": "bhrnet_small"}, "baselines": {"mine": fields}}
    recipe = SearchRecipe.model_validate(data)
    with pytest.raises(CompressError, match=part) as caught:
        read_baselines(recipe, read_search_space(recipe))
    assert "baselines.mine" in str(caught.value)


def test_input_size_is_checked_before_any_work() -> None:
    recipe = SearchRecipe.model_validate({"job": "search", "input_hw": [100, 128], "search": {"space": "bhrnet_small"}})
    with pytest.raises(NetworkError, match="multiples of 32"):
        read_search_space(recipe)


def test_input_sizes_are_a_choice_of_no_field(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("family: hrnet\nfixed: {width: 16}\nchoices: {width: [8, 16], input_hw: [64x96, 96x96]}\n")
    base = architecture_to_data(architecture_from_data({"family": "hrnet", "width": 16}, "test"))
    space = expand(read_space(path), base)
    assert space.input_sizes == ((64, 96), (96, 96))
    assert (space.size, set(space.architectures.choices)) == (4, {"width"})
    small = {"width": 8, "input_hw": "64x96"}
    assert space.apply(small) == {**base, "width": 8}
    assert space.input_hw(small, (1, 1)) == (64, 96)
    assert space.pick_of(base, "test") == {"width": 16, "input_hw": "96x96"}
    assert space.pick_of(base, "test", "64x96") == {"width": 16, "input_hw": "64x96"}
    with pytest.raises(SpaceError, match="input_hw must be one of"):
        space.pick_of(base, "test", "32x32")
    assert {space.input_hw(space.sample(random.Random(n)), (1, 1)) for n in range(20)} == {(64, 96), (96, 96)}
    with_none = expand(replace(read_space(path), choices={"width": (8, 16)}), base)
    assert with_none.input_hw({"width": 8}, (64, 32)) == (64, 32)
    with pytest.raises(SpaceError, match="one input size"):
        with_none.pick_of(base, "test", "96x96")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ("[64x96, 96x96, 32x32]", "from smallest to largest"),
        ("[64]", "written HEIGHTxWIDTH"),
        ("[0x64]", "written HEIGHTxWIDTH"),
        ("[64x64, 128x128]", "the largest input size must be the recipe's"),
        ("[48x48, 64x64, 96x96]", "positive multiples of 32"),
    ],
)
def test_mistakes_in_input_sizes(tmp_path: Path, sizes: str, said: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(f"family: hrnet\nfixed: {{width: 16}}\nchoices: {{width: [8, 16], input_hw: {sizes}}}\n")
    recipe = read_recipe(find("bhrnet", "recipes", RecipeError), SearchRecipe, ["input_hw=[96, 96]"])
    recipe = recipe.model_copy(update={"search": recipe.search.model_copy(update={"space": str(path)})})
    with pytest.raises(CompressError) as caught:
        read_search_space(recipe)
    assert said in str(caught.value)
    assert "input_hw" in str(caught.value)


def test_a_network_made_for_one_input_size_has_no_choice_of_it(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("family: rtmpose\nfixed: {}\nchoices: {input_hw: [128x96, 256x192]}\n")
    recipe = read_recipe(find("bhrnet", "recipes", RecipeError), SearchRecipe, ["input_hw=[256, 192]"])
    recipe = recipe.model_copy(update={"search": recipe.search.model_copy(update={"space": str(path)})})
    with pytest.raises(SpaceError, match="is made for one input size"):
        read_search_space(recipe)


def test_wildcards_and_exceptions(tmp_path: Path) -> None:
    file = read_space(
        write(tmp_path, SPACE.replace("blocks.*.*: [0, 1]", "blocks.*.*: [0, 1], blocks.3.*: [2, 3], blocks.3.3: [5]"))
    )
    base = {"family": "dir_bhrnet", "width": 8, "kinds": ["a", "b"], "blocks": [[0], [0, 0], [0], [0, 0, 0, 0]]}
    space = expand(file, base)
    assert space.choices["blocks.1.1"] == (0, 1)
    assert space.choices["blocks.3.0"] == (2, 3)
    assert space.choices["blocks.3.3"] == (5,)
    assert space.size == 2 * 2**2 * 2**4 * 2**3
    pick = space.sample(random.Random(0))
    assert space.pick_of(space.apply(pick), "test") == pick
    assert base["blocks"] == [[0], [0, 0], [0], [0, 0, 0, 0]]  # the base is never written to


def test_whole_changes_set_all_choices_of_a_field_together() -> None:
    space = Space(
        {"kinds": ["x", "x"], "blocks": [0, 0], "width": 8},
        {"kinds.0": ("x", "y"), "kinds.1": ("x", "y"), "blocks.0": (0, 1), "blocks.1": (0, 1, 2), "width": (8, 16)},
    )
    pick = {"kinds.0": "x", "kinds.1": "y", "blocks.0": 0, "blocks.1": 2, "width": 16}
    assert space.whole_changes(pick) == [
        {**pick, "kinds.0": "x", "kinds.1": "x"},
        {**pick, "kinds.0": "y", "kinds.1": "y"},
        {**pick, "blocks.0": 0, "blocks.1": 0},
        {**pick, "blocks.0": 1, "blocks.1": 1},  # 2 blocks are a choice of blocks.1 alone
        {**pick, "width": 8},
    ]

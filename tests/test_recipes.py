"""Every shipped recipe can be read, and trains the network that its own command line names."""

import re
from pathlib import Path

import pytest

from compress.artefacts.network import read_architecture
from compress.data.keypoints import KEYPOINT_SETS
from compress.errors import RecipeError
from compress.files import read_yaml_mapping
from compress.jobs.train import with_joints
from compress.networks import NETWORKS
from compress.networks.architecture import check_input
from compress.pose.approaches import objective_for
from compress.recipe import PruneRecipe, RewriteRecipe, SearchRecipe, TrainRecipe, read_recipe, to_data
from compress.training.loop import learning_rate, optimizer_for

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
TRAININGS = [path for path in RECIPES if path.stem.startswith("train_")]
KINDS: dict[str, type[PruneRecipe | RewriteRecipe | SearchRecipe]] = {
    "prune": PruneRecipe,
    "rewrite": RewriteRecipe,
    "search": SearchRecipe,
}
FOLDER = ["data.disk.folder=/somewhere"]


def test_every_kind_of_recipe_is_here() -> None:
    assert len(TRAININGS) >= 10
    for path in set(RECIPES) - set(TRAININGS):
        kind = KINDS[read_yaml_mapping(path, RecipeError, "a recipe")["job"]]
        recipe = read_recipe(path, kind, FOLDER)
        assert kind.model_validate(to_data(recipe)) == recipe


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_a_training_recipe_fits_its_network(path: Path) -> None:
    recipe = read_recipe(path, TrainRecipe, FOLDER)
    assert TrainRecipe.model_validate(to_data(recipe)) == recipe
    command = re.search(r"^#? *.*`?compress train (\S+) --recipe (\w+)", path.read_text(), re.MULTILINE)
    assert command is not None
    assert command[2] == path.stem
    name = "dir_bhrnet_32" if command[1] == "NETWORK" else command[1]
    joints = {"synthetic": "coco_person", "coco": "coco_person"}.get(recipe.data.kind, recipe.data.kind)
    keypoints = KEYPOINT_SETS[joints]
    written = Path(name).suffix == ".yaml"
    architecture = read_architecture(str(RECIPES[0].parent.parent / name)) if written else NETWORKS[name]
    architecture = with_joints(architecture, keypoints)
    assert recipe.input_hw is not None
    check_input(architecture, recipe.input_hw, path.stem)
    objective_for(architecture, keypoints, recipe.input_hw, recipe.training, recipe.codec)
    optimizer_for([dict(architecture.build().named_parameters())], recipe.training)


def test_rates_fall_at_the_papers_epochs() -> None:
    """Epochs from 0, one step each; NETWORKS of the papers' tables of training."""
    for stem, epochs in (
        ("train_hrnet", (170, 200)),
        ("train_simple_baseline", (90, 120)),
        ("train_higher_hrnet", (200, 260)),
        ("train_dir_bhrnet", (200, 250)),
        ("train_lightweight_openpose", (100, 200, 260)),
    ):
        path = next(path for path in TRAININGS if path.stem == stem)
        settings = read_recipe(path, TrainRecipe, FOLDER).training
        rates = [learning_rate(settings, epoch, 1) for epoch in range(settings.epochs)]
        assert tuple(n for n in range(1, len(rates)) if rates[n] != rates[n - 1]) == epochs

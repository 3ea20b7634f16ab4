"""What a run folder belongs to."""

from pathlib import Path

import pytest
import yaml

from compress.artefacts.run import RECIPE, open_run
from compress.errors import RunError
from compress.recipe import PruneRecipe

SETTINGS = PruneRecipe()


def test_a_run_belongs_to_one_recipe_name_and_network(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        with open_run(folder, SETTINGS, network="a net", digest="0123"):
            pass
    with pytest.raises(RunError, match="belongs to one recipe"), open_run(folder, SETTINGS, "other", digest="0123"):
        pass
    with pytest.raises(RunError) as caught, open_run(folder, SETTINGS, network="a net", digest="4567"):
        pass
    assert "the very network it began with" in caught.value.rule
    assert caught.value.place == str(folder / RECIPE)
    assert caught.value.value == "digest 4567, not 0123"
    assert "choose another --run folder" in caught.value.remedy
    assert PruneRecipe.model_validate(yaml.safe_load((folder / RECIPE).read_text())) == SETTINGS


def test_a_run_that_starts_from_no_network_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        with open_run(tmp_path / "run", SETTINGS):
            pass
    assert "# network" not in (tmp_path / "run" / RECIPE).read_text()

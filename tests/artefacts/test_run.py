"""What a run folder belongs to."""

import sys
from pathlib import Path
from threading import Event, Thread

import pytest
import yaml

from compress.artefacts.run import RECIPE, environment, in_use, open_run
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


def test_a_process_beside_does_its_part_and_then_waits(tmp_path: Path) -> None:
    beside, entered = Event(), Event()

    def other() -> None:
        with open_run(tmp_path / "run", SETTINGS, beside=beside.set):
            entered.set()

    with open_run(tmp_path / "run", SETTINGS):
        assert in_use(tmp_path / "run")
        with pytest.raises(RunError, match="one process at a time"), open_run(tmp_path / "run", SETTINGS):
            pass
        thread = Thread(target=other)
        thread.start()
        assert beside.wait(60)
        assert not entered.is_set()
    thread.join(60)
    assert entered.is_set()
    assert not in_use(tmp_path / "run")


def test_no_password_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://me:secret@host:5432/trials"
    monkeypatch.setattr(sys, "argv", ["compress", "search", "--storage", url, f"--set=search.storage={url}"])
    shown = "postgresql://me:***@host:5432/trials"
    assert environment()["command"] == ["compress", "search", "--storage", shown, f"--set=search.storage={shown}"]

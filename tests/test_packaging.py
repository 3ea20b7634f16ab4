"""The wheel holds all of the package, and the shipped recipes and spaces are found in it and in a checkout alike."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from compress.recipe import shipped_folder

ROOT = Path(__file__).parent.parent
BUILD = "from setuptools import build_meta; build_meta.build_wheel({out!r})"
LOOK = """
from pathlib import Path
import compress
from compress.errors import RecipeError, SpaceError
from compress.recipe import find
assert find("bhrnet", "recipes", RecipeError) == Path(compress.__file__).parent / "recipes" / "bhrnet.yaml"
assert find("bhrnet_small", "search_spaces", SpaceError).parent.name == "search_spaces"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of this checkout, built offline in a copy of it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("compress", "recipes", "search_spaces"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run(
        [sys.executable, "-c", BUILD.format(out=str(out))], cwd=source, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def files_of(folder: Path) -> set[str]:
    """Paths of all files below it."""
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_wheel_holds_every_file_of_the_package_and_nothing_beside_it(installed: Path) -> None:
    shipped = {f"{name}/{file}" for name in ("recipes", "search_spaces") for file in files_of(ROOT / name)}
    assert files_of(installed / "compress") == files_of(ROOT / "compress") | shipped
    assert {"py.typed", "networks/counts.json", "recipes/bhrnet.yaml"} <= files_of(installed / "compress")
    (metadata,) = installed.glob("*.dist-info")
    assert {path.name for path in installed.iterdir()} == {"compress", metadata.name}


def test_shipped_files_are_found_in_an_installation(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("folder", ["recipes", "search_spaces"])
def test_shipped_files_are_found_in_a_checkout(folder: str) -> None:
    assert shipped_folder(folder) == ROOT / folder

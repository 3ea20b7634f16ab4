"""`compress export`: an artefact to the engines' formats, each compared with torch on real inputs."""

from pathlib import Path
from typing import Any

from compress.artefact import load_artefact
from compress.data.sets import validation_set
from compress.deployment import export_and_check, sample_images
from compress.evaluation import input_size, validation_data
from compress.networks.architecture import check_input
from compress.progress import Progress
from compress.recipe import ExportRecipe


def export(artefact: Path, recipe: ExportRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Writes the exports to `folder`; returns engine → file, size, relative error. Raises ParityError beyond 1e-4."""
    loaded = load_artefact(artefact)
    input_hw = recipe.input_hw or input_size(loaded.facts, artefact)
    check_input(loaded.architecture, input_hw, "input_hw")
    data, seed = validation_data(loaded.facts, recipe.data, recipe.seed)
    pictures = validation_set(data, input_hw, seed)
    images = sample_images(pictures, recipe.parity_pictures, input_hw)
    exports: dict[str, Any] = {}
    with progress.phase("export", len(recipe.engines)) as phase:
        for name in recipe.engines:
            exports |= export_and_check(loaded.network, [name], images, input_hw, folder)
            phase.advance(1, name)
    return {"artefact": str(artefact), "folder": str(folder), "input_hw": list(input_hw), "exports": exports}

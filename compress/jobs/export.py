"""`compress export`: a network to the engines' formats, each compared with torch on real inputs."""

from pathlib import Path

from compress.artefacts.network import Named, open_network
from compress.artefacts.results import ExportResult
from compress.data.sets import data_of, validation_set
from compress.engines.export import Export, export_and_check, sample_images
from compress.jobs.names import check_names
from compress.networks.picture_input import BYTES, PictureInput
from compress.progress import Progress
from compress.recipe import Data, ExportRecipe


def export(named: Named, recipe: ExportRecipe, folder: Path, progress: Progress) -> ExportResult:
    """Writes the exports to `folder`. Of an engine that refuses the network nothing is written there.

    named: see open_network. A known network has random weights, an own one those it comes with.
    """
    check_names(recipe)
    opened = open_network(named, recipe.input_hw, seed=recipe.seed)
    data = data_of(opened.name, recipe.data, opened.metadata.data) or Data()
    pictures = validation_set(data, opened.input_hw, opened.metadata.seed)
    inside = recipe.normalisation == "inside"
    network = PictureInput(opened.module, opened.normalisation).eval() if inside else opened.module
    inputs = BYTES if inside else opened.normalisation
    images = sample_images(pictures, recipe.parity_pictures, opened.input_hw, inputs)
    exports: list[Export] = []
    refused: dict[str, str] = {}
    with progress.phase("export", len(recipe.engines)) as phase:
        for engine in recipe.engines:
            made, failed = export_and_check(network, [engine], images, opened.input_hw, folder, inputs=inputs)
            exports += made
            refused |= failed
            phase.advance(1, engine)
    return ExportResult(opened.name, str(folder), opened.input_hw, tuple(exports), refused, inputs)

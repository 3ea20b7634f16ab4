"""`compress export`: a network to the engines' formats, each compared with torch on real inputs."""

from pathlib import Path

from compress.artefacts.artefact import Artefact
from compress.artefacts.metadata import input_size, validation_data
from compress.artefacts.network import artefact_or_network
from compress.artefacts.results import Export, ExportResult
from compress.data.sets import validation_set
from compress.engines.export import export_and_check, sample_images
from compress.errors import NetworkError
from compress.jobs.names import check_names
from compress.networks.architecture import check_input
from compress.progress import Progress
from compress.recipe import ExportRecipe


def export(name: str, recipe: ExportRecipe, folder: Path, progress: Progress) -> ExportResult:
    """Writes the exports to `folder`. Of an engine that refuses the network nothing is written there.

    name: a NETWORK. A known network has random weights, an own one those it comes with.
    """
    check_names(recipe)
    source = artefact_or_network(name)
    architecture = source.architecture if isinstance(source, Artefact) else source
    facts = source.facts if isinstance(source, Artefact) else {}
    network = source.network if isinstance(source, Artefact) else architecture.build().eval()
    own = None if isinstance(source, Artefact) else getattr(network, "input_hw", None)
    input_hw = recipe.input_hw or own or (input_size(facts, Path(name)) if isinstance(source, Artefact) else None)
    if input_hw is None:
        raise NetworkError(
            "an export has one input size, and this network names none",
            place=name,
            remedy="give it with --set input_hw=[H,W]",
        )
    check_input(architecture, input_hw, "input_hw")
    data, seed = validation_data(facts, recipe.data, recipe.seed)
    pictures = validation_set(data, input_hw, seed)
    images = sample_images(pictures, recipe.parity_pictures, input_hw)
    exports: list[Export] = []
    refused: dict[str, str] = {}
    with progress.phase("export", len(recipe.engines)) as phase:
        for engine in recipe.engines:
            made, failed = export_and_check(network, [engine], images, input_hw, folder)
            exports += [Export(key, tuple(e["files"]), e["size_bytes"], e["parity"]) for key, e in made.items()]
            refused |= failed
            phase.advance(1, engine)
    return ExportResult(name, str(folder), input_hw, tuple(exports), refused)

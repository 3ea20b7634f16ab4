"""`compress import`: a public checkpoint to an artefact."""

from pathlib import Path

from compress.artefacts.artefact import save_artefact
from compress.artefacts.network import imported
from compress.artefacts.results import ImportResult
from compress.files import NamedCheckpoint


def import_checkpoint(
    file: Path,
    folder: Path,
    *,
    network: str | None = None,
    input_hw: tuple[int, int] | None = None,
    backbone: bool = False,
) -> ImportResult:
    """Writes the artefact to `folder`. network: None recognises it. backbone: whether its head may stay random.

    Raises ArtefactError or NetworkError before anything is written.
    """
    named = NamedCheckpoint(str(file) if network is None else f"{network}@{file}", network, file)
    opened, found = imported(named, input_hw=input_hw, backbone=backbone)
    save_artefact(folder, opened.architecture, opened.module, opened.metadata)
    metadata = opened.metadata
    return ImportResult(
        found=found,
        folder=str(folder),
        approach=opened.approach,
        keypoints=opened.keypoints.name,
        input_hw=metadata.input_hw,
        normalisation=metadata.normalisation,
        codec=metadata.codec,
        parameters=sum(parameter.numel() for parameter in opened.module.parameters()),
    )

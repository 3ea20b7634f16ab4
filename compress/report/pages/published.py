"""Published figures beside a run's own, where both are of the same pictures and metric: COCO's val2017 and AP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress.artefacts.results import RunRecord
from compress.errors import NetworkError
from compress.measure.kept_counts import kept_counts, size_key
from compress.networks import NETWORKS, architecture_from_data
from compress.networks.published import PUBLISHED
from compress.pose.approaches import approach_of

_VAL2017 = 5000  # pictures

NOTE = (
    "Published: AP as the papers print it, on all of COCO val2017 after full training, for top-down networks with the "
    "boxes of a detector; their parameters and multiply-adds are counted here, as those of all other networks."
)


@dataclass(frozen=True)
class PublishedPoint:
    """A paper's network. ap: 0..1. params, macs: counted as those of the run's networks. paper: its name in short."""

    name: str
    input_hw: tuple[int, int]
    paper: str
    ap: float
    params: int
    macs: int


def published_points(
    run: RunRecord, data: str, metric: str, pictures: int, architecture: Mapping[str, Any]
) -> tuple[PublishedPoint, ...]:
    """Of the networks that find people as this one does: person by person in boxes, or in whole pictures.

    data, metric, pictures: of the scores that the points would stand beside. None unless these are AP on all of COCO
    val2017; none either for a network that is no architecture record. architecture: as plain data.
    """
    split = ((run.recipe.get("data") or {}).get("disk") or {}).get("val")
    if (data, metric, pictures) != ("coco", "AP", _VAL2017) or split not in (None, "val2017"):
        return ()
    try:
        per_person = approach_of(architecture_from_data(dict(architecture), "results.json")).per_person
    except NetworkError:
        return ()
    counts = kept_counts()
    found = []
    for row in PUBLISHED:
        if row.ap is None or row.input_hw is None or row.network not in NETWORKS:
            continue
        if approach_of(NETWORKS[row.network]).per_person is not per_person:
            continue
        count = counts[row.network][size_key(row)]
        found.append(PublishedPoint(row.network, row.input_hw, row.paper, row.ap / 100, count.params, count.macs))
    return tuple(found)

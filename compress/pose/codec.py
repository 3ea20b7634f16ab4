"""How joints become heatmaps and heatmaps joints: one record that training, decoding and every artefact share.

A network's maps are for the cells that its targets were written to. Decoded by another rule, each joint is off: by half
a cell (2 input pixels at stride 4) where a network trained with HRNet's targets is decoded as ours. So a network that
was trained elsewhere needs its codec named, and the artefact keeps it.

Coordinates: x in input pixels, u in cells so that the sample of cell i is at u = i. W, w: input's and map's width.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

Name = Literal["ours", "exact", "hrnet", "mmpose", "dark", "udp", "simcc"]
Locate = Literal["middle", "quarter", "peak", "dark", "udp"]
Cells = Literal["middle", "index", "ends"]
Crop = Literal["pixels", "corners", "ends"]

_HRNET = {"cells": "index", "shift_mirrored": True, "mirrored_px": 0.0, "crop": "corners"}
PRESETS: dict[str, dict[str, Any]] = {
    "ours": {},
    "exact": {"targets": "joint", "locate": "peak"},
    "hrnet": _HRNET,
    "mmpose": _HRNET,
    "dark": {**_HRNET, "targets": "joint", "locate": "dark"},
    "simcc": {"cells": "index", "mirrored_px": 0.0, "crop": "corners"},
    "udp": {"cells": "ends", "targets": "joint", "locate": "udp", "mirrored_px": 0.0, "crop": "ends"},
}


@dataclass(frozen=True)
class Codec:
    """Made from a preset by `codec_named`, or in a recipe: `codec: hrnet`, `codec: {name: hrnet, sigma: 3}`.

    The presets: `ours`: HigherHRNet's rule, with s the stride cell int(x/s), read at its middle and a quarter of a cell
    aside. `exact`: Gaussians around the joints themselves, read at their peak. `hrnet`: Sun et al. 2019; Lite-HRNet,
    Dite-HRNet and SimpleBaseline are the same. `mmpose`: its MSRAHeatmap, the same rule. `dark`: Zhang et al. 2020,
    arXiv:1910.06278. `udp`: Huang et al. 2020, arXiv:1911.07524, with Gaussian targets, as in MMPose. `simcc`: vectors
    of bins, as MMPose trains RTMPose; a cell is a bin of half a pixel, and is never looked into.
    """

    name: Annotated[Name, Field(description="Preset that the values come from that are not given.")] = "ours"
    sigma: Annotated[
        float,
        Field(
            description="Standard deviation of the heatmaps' Gaussians, in cells. Those of vectors of bins go by the "
            "number of bins."
        ),
    ] = 2.0
    cells: Annotated[
        Cells,
        Field(
            description="Where cell i lies in the input, with s the stride: `middle`, x = (i + 0.5)·s; `index`, "
            "x = i·s; `ends`, the first and last cells are at the first and last pixels."
        ),
    ] = "middle"
    targets: Annotated[
        Literal["cell", "joint"],
        Field(description="What a Gaussian is centred on: the `cell` nearest to the joint, or the `joint` itself."),
    ] = "cell"
    locate: Annotated[
        Locate | None,
        Field(
            description="How a joint is located within its cell (for part affinity fields: within a pixel of the "
            "upsampled map): `middle`; `quarter` of a cell towards the larger neighbour; `peak` of the Gaussian "
            "through the neighbours; or the way of `dark` or of `udp`. Null takes `quarter`, for part affinity fields "
            "`peak`."
        ),
    ] = None
    blur: Annotated[
        int,
        Field(
            description="Side of the Gaussian kernel, in cells and odd, with which `dark` and `udp` smooth the maps: "
            "11 for sigma 2, 17 for sigma 3."
        ),
    ] = 11
    shift_mirrored: Annotated[
        bool,
        Field(
            description="Move the mirrored pass's map, flipped back, to the right by a cell (HRNet's SHIFT_HEATMAP)."
        ),
    ] = False
    mirrored_px: Annotated[
        float,
        Field(
            description="Added to x, in input pixels, where the mirrored pass is used. HRNet's code adds nothing, "
            "which leaves joints half a pixel too far to the right (the point of UDP)."
        ),
    ] = -0.5
    crop: Annotated[
        Crop,
        Field(
            description="How a person's box is mapped to the input: `pixels`, pixel centre on pixel centre; `corners`, "
            "HRNet's affine map; `ends`, UDP's."
        ),
    ] = "pixels"
    limb_width: Annotated[
        float,
        Field(description="Part affinity fields only: half the width of a limb, in cells of the map."),
    ] = 1.0
    upsample: Annotated[
        int,
        Field(description="Part affinity fields only: factor that the maps are upsampled by before decoding, 1 to 32."),
    ] = 2

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma {self.sigma} must be above 0")
        if self.blur < 3 or self.blur % 2 == 0:
            raise ValueError(f"blur {self.blur} must be odd and at least 3")
        if not math.isfinite(self.mirrored_px):
            raise ValueError(f"mirrored_px {self.mirrored_px} must be a number")
        if not 0 < self.limb_width < math.inf:
            raise ValueError(f"limb_width {self.limb_width} must be above 0")
        if not 1 <= self.upsample <= 32:
            raise ValueError(f"upsample {self.upsample} must be 1 to 32")

    def strides_xy(self, input_hw: tuple[int, int], map_hw: tuple[int, int]) -> tuple[float, float]:
        """Input pixels from cell to cell."""
        less = 1 if self.cells == "ends" else 0
        (height, width), (rows, columns) = input_hw, map_hw
        return (width - less) / max(columns - less, 1), (height - less) / max(rows - less, 1)

    def to_cells(self, x: Any, stride: float) -> Any:
        """u of input coordinates x (a number or an array), `stride` as of strides_xy."""
        return x / stride - (0.5 if self.cells == "middle" else 0)

    def offset_xy(self, strides_xy: tuple[float, float], *, mirrored: bool) -> tuple[float, float]:
        """Added, in input pixels, to (u + 0.5)·stride, which is what decoders give times the stride."""
        aside = 0.0 if self.cells == "middle" else -0.5
        return aside * strides_xy[0] + (self.mirrored_px if mirrored else 0.0), aside * strides_xy[1]


def codec_named(name: Name, **changes: Any) -> Codec:
    """A preset, with fields of one's own. ValueError for values out of range."""
    return Codec(**{"name": name, **PRESETS[name], **changes})

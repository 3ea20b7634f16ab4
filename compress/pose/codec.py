"""How joints become heatmaps and heatmaps joints: one record that training, decoding and every artefact share.

A network answers for the cells that its targets were written to. Read by another rule, each joint lies aside: by half a
cell (2 input pixels at stride 4) where a network trained with HRNet's targets is read as ours. So whoever trained a
network elsewhere names its codec, and the artefact remembers it.

Coordinates: x in input pixels, u in cells so that the sample of cell i is at u = i. W, w: input's and map's width.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

Name = Literal["ours", "exact", "hrnet", "mmpose", "dark", "udp"]
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
    "udp": {"cells": "ends", "targets": "joint", "locate": "udp", "mirrored_px": 0.0, "crop": "ends"},
}


@dataclass(frozen=True)
class Codec:
    """Made from a preset by `codec_named`, or in a recipe: `codec: hrnet`, `codec: {name: hrnet, sigma: 3}`.

    name: the preset that it came from. `ours`: HigherHRNet's rule, cell int(x/s), read at its middle and a quarter of a
    cell aside. `exact`: Gaussians around the joints themselves, read at their peak. `hrnet`: Sun et al. 2019;
    Lite-HRNet, Dite-HRNet and SimpleBaseline are the same. `mmpose`: its MSRAHeatmap, the same rule. `dark`: Zhang et
    al. 2020, arXiv:1910.06278. `udp`: Huang et al. 2020, arXiv:1911.07524, with Gaussian targets, as in MMPose.

    sigma: of the Gaussians, in cells. cells: `middle`, cell i is at x = (i + 0.5)·s; `index`, at x = i·s; `ends`, first
    and last cells are at the first and last pixels, x = i·(W-1)/(w-1). targets: the Gaussian is around the nearest
    `cell` or around the `joint`. locate: where a joint is read, see `decode.location`. blur: side of the Gaussian
    kernel, in cells, that `dark` and `udp` smooth with; 11 for sigma 2, 17 for 3. shift_mirrored: the map of the
    mirrored input, turned back, moves right by a cell (HRNet's SHIFT_HEATMAP). mirrored_px: added to x, in input
    pixels, where both passes are averaged; HRNet's code adds nothing, although what moved by a cell is half a pixel too
    far right (UDP's point). crop: how a person's box becomes the input, see `data.boxes`.
    """

    name: Name = "ours"
    sigma: float = 2.0
    cells: Cells = "middle"
    targets: Literal["cell", "joint"] = "cell"
    locate: Locate = "quarter"
    blur: int = 11
    shift_mirrored: bool = False
    mirrored_px: float = -0.5
    crop: Crop = "pixels"

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma {self.sigma} must be above 0")
        if self.blur < 3 or self.blur % 2 == 0:
            raise ValueError(f"blur {self.blur} must be odd and at least 3")
        if not math.isfinite(self.mirrored_px):
            raise ValueError(f"mirrored_px {self.mirrored_px} must be a number")

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

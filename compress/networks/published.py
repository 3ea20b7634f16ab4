"""What the papers publish about each network, in their own counting conventions.

Conventions are those of compress.measure.counting. gib: the paper's G is 2^30, else 1e9. mark: `exact` where our counts
equal the published ones within 0.5 %, `reconstruction` where no public code exists and they come near.
"""

from dataclasses import dataclass
from typing import Literal

_HRNET = "HRNet, CVPR 2019"
_HIGHER = "HigherHRNet, CVPR 2020"
_BHRNET = "DIR-BHRNet"


@dataclass(frozen=True)
class Published:
    """One row.

    params_m: millions. flops_g: in `convention`, as printed. ap: COCO val2017 AP in percent, single scale.
    """

    network: str
    input_hw: tuple[int, int]
    paper: str
    params_m: float
    flops_g: float
    convention: Literal["hrsum", "mmcv"]
    gib: bool
    ap: float | None
    mark: Literal["exact", "reconstruction"]
    note: str = ""


PUBLISHED: tuple[Published, ...] = (
    Published("hrnet_w32", (256, 192), _HRNET, 28.5, 7.10, "hrsum", True, 74.4, "exact"),
    Published("hrnet_w32", (384, 288), _HRNET, 28.5, 16.0, "hrsum", True, 75.8, "exact"),
    Published("hrnet_w48", (256, 192), _HRNET, 63.6, 14.6, "hrsum", True, None, "exact"),
    Published("hrnet_w48", (384, 288), _HRNET, 63.6, 32.9, "hrsum", True, None, "exact"),
    Published("higher_hrnet_w32", (512, 512), _HIGHER, 28.6, 47.9, "hrsum", False, 67.1, "exact"),
    Published("higher_hrnet_w32", (640, 640), _HIGHER, 28.6, 74.8, "hrsum", False, 68.5, "exact"),
    Published("higher_hrnet_w48", (640, 640), _HIGHER, 63.8, 154.3, "hrsum", False, 69.9, "exact"),
    Published("dir_hrnet_24", (256, 256), _BHRNET, 1.64, 2.44, "mmcv", False, 36.2, "reconstruction",
              "2.44 G is the width-32 figure repeated"),
    Published("dir_hrnet_32", (256, 256), _BHRNET, 2.51, 2.44, "mmcv", False, 40.3, "reconstruction"),
    Published("dir_hrnet_32_a", (256, 256), _BHRNET, 2.51, 2.44, "mmcv", False, 40.3, "reconstruction"),
    Published("dir_hrnet_48", (256, 256), _BHRNET, 5.51, 3.68, "mmcv", False, 44.9, "reconstruction"),
    Published("dir_bhrnet_25", (384, 384), _BHRNET, 4.7, 5.10, "mmcv", False, 49.5, "exact",
              "FLOPs exact; 4.7 M looks like a misprint of 3.78 M"),
    Published("dir_bhrnet_32", (256, 256), _BHRNET, 6.03, 2.81, "mmcv", False, 39.2, "exact"),
    Published("dir_bhrnet_32", (384, 384), _BHRNET, 6.03, 6.32, "mmcv", False, 50.5, "exact"),
    Published("dir_bhrnet_32", (512, 512), _BHRNET, 6.03, 11.23, "mmcv", False, 53.2, "exact"),
    Published("dir_bhrnet_star_25", (384, 384), _BHRNET, 3.4, 1.91, "mmcv", False, 41.2, "exact",
              "width 24: the label 25 does not fit the counts"),
    Published("dir_bhrnet_star_32", (384, 384), _BHRNET, 5.9, 3.23, "mmcv", False, 45.2, "exact"),
)  # fmt: skip

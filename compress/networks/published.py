"""What the papers publish about each network, in their own counting conventions.

Conventions are those of compress.measure.counting. mark: `exact` where our counts equal the published ones (parameters
within 0.5 %, FLOPs within 1 %), `reconstruction` where no public code exists and they come near, `reference only` for
systems the papers compare against and we do not build.
"""

from dataclasses import dataclass
from typing import Literal

_HRNET = "HRNet, CVPR 2019"
_HIGHER = "HigherHRNet, CVPR 2020"
_BHRNET = "DIR-BHRNet"
_EFFICIENT = "EfficientHRNet, 2020"
_LIGHTWEIGHT = "Lightweight HRNet, 2024"
_MOBILE_POSE = "MobilePoseNet, 2021"
_BASELINE = "SimpleBaseline, ECCV 2018"
_SMALL = "Lite-HRNet, CVPR 2021"
_HOURGLASS = "Hourglass, ECCV 2016"
_OPENPOSE = "OpenPose, CVPR 2017"
_LIGHTWEIGHT_OPENPOSE = "Lightweight OpenPose, 2018"
_FAST = "Fast multi-person pose, 2021"
_RTM = "RTMPose, 2023"
_RTM_DATA = "trained on AI Challenger and COCO"
_DITE = "Dite-HRNet, IJCAI 2022"
_EDITE = "EDite-HRNet"


@dataclass(frozen=True)
class Published:
    """One row.

    network: a name in NETWORKS; of a reference-only row just what it is called. params_m: millions, counted by
    `params_convention`: plain, or class_names (Count.params_by_class_name). flops_g: in `convention`, as printed.
    gib: the paper's G is 2^30, else 1e9. ap: COCO val2017 AP in percent, single scale. keypoints: of the network that
    was counted. approach: of a reference-only row; the others have their architecture's. None: not published.
    """

    network: str
    input_hw: tuple[int, int] | None
    paper: str
    params_m: float | None
    flops_g: float | None
    convention: Literal["mac", "hrsum", "mmcv", "ts"]
    gib: bool
    ap: float | None
    mark: Literal["exact", "reconstruction", "reference only"]
    note: str = ""
    params_convention: Literal["plain", "class_names"] = "plain"
    keypoints: int = 17
    approach: Literal["bottom-up AE", "PAF", "top-down", "bottom-up"] = "top-down"


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
    Published("efficient_hrnet_h0", (512, 512), _EFFICIENT, 23.3, 25.6, "hrsum", False, 64.8, "exact",
              "19.72 M parameters counted once", "class_names"),
    Published("efficient_hrnet_h1", (480, 480), _EFFICIENT, 16, 14.2, "hrsum", False, 59.2, "exact",
              "13.00 M parameters counted once", "class_names"),
    Published("efficient_hrnet_h2", (448, 448), _EFFICIENT, 10.3, 7.7, "hrsum", False, 52.9, "exact",
              "8.26 M parameters counted once", "class_names"),
    Published("efficient_hrnet_h3", (416, 416), _EFFICIENT, 6.9, 4.2, "hrsum", False, 44.8, "exact",
              "5.36 M parameters counted once", "class_names"),
    Published("efficient_hrnet_h4", (384, 384), _EFFICIENT, 3.7, 2.1, "hrsum", False, 35.7, "exact",
              "2.76 M parameters counted once", "class_names"),
    Published("lightweight_hrnet_r0", (512, 512), _LIGHTWEIGHT, 13.2, 15.6, "hrsum", False, 55.2, "reconstruction",
              "parameters as printed, FLOPs -0.5 %"),
    Published("lightweight_hrnet_r1", (480, 480), _LIGHTWEIGHT, 8.8, 9.3, "hrsum", False, 49.0, "reconstruction",
              "parameters and FLOPs as printed"),
    Published("lightweight_hrnet_r2", (448, 448), _LIGHTWEIGHT, 5.9, 5.5, "hrsum", False, 45.4, "reconstruction",
              "parameters and FLOPs as printed"),
    Published("lightweight_hrnet_r0_cem", (512, 512), _LIGHTWEIGHT, None, None, "hrsum", False, None, "reconstruction",
              "published for r = -2 only; the exchange costs nothing in this convention"),
    Published("lightweight_hrnet_r1_cem", (480, 480), _LIGHTWEIGHT, None, None, "hrsum", False, None, "reconstruction",
              "published for r = -2 only; the exchange costs nothing in this convention"),
    Published("lightweight_hrnet_r2_cem", (448, 448), _LIGHTWEIGHT, 5.9, 5.5, "hrsum", False, 46.6, "reconstruction",
              "parameters and FLOPs as printed"),
    Published("small_hrnet_w16", (256, 192), _SMALL, 1.3, 0.54, "ts", True, 55.2, "exact"),
    Published("small_hrnet_w16", (384, 288), _SMALL, 1.3, 1.21, "ts", True, 56.0, "exact"),
    Published("small_hrnet_w16", (256, 256), _SMALL, 1.3, 0.72, "ts", True, None, "exact", "MPII", keypoints=16),
    Published("small_hrnet_w18", (256, 192), _EDITE, 1.3, 0.5, "ts", True, 55.2, "reconstruction",
              "the printed figures are W16's; parameters +23 %, FLOPs 0.62 G"),
    Published("small_hrnet_w18", (384, 288), _EDITE, 1.3, 1.2, "ts", True, 56.0, "reconstruction",
              "the printed figures are W16's; parameters +23 %, FLOPs 1.39 G"),
    Published("lite_hrnet_18", (256, 192), _SMALL, 1.1, 205.2 / 1024, "ts", True, 64.8, "exact"),
    Published("lite_hrnet_18", (384, 288), _SMALL, 1.1, 461.6 / 1024, "ts", True, 67.6, "exact"),
    Published("lite_hrnet_18", (256, 256), _SMALL, 1.1, 273.4 / 1024, "ts", True, None, "exact", "MPII", keypoints=16),
    Published("lite_hrnet_30", (256, 192), _SMALL, 1.8, 319.2 / 1024, "ts", True, 67.2, "exact"),
    Published("lite_hrnet_30", (384, 288), _SMALL, 1.8, 717.8 / 1024, "ts", True, 70.4, "exact"),
    Published("lite_hrnet_30", (256, 256), _SMALL, 1.8, 425.3 / 1024, "ts", True, None, "exact", "MPII", keypoints=16),
    Published("lite_hrnet_18_naive", (256, 192), _SMALL, 0.7, 194.8 / 1024, "ts", True, 62.8, "exact"),
    Published("lite_hrnet_18_wider_naive", (256, 192), _SMALL, 1.3, 311.1 / 1024, "ts", True, 66.0, "exact"),
    Published("dite_hrnet_18", (256, 192), _DITE, 1.1, 209.8 / 1024, "ts", True, 65.9, "exact"),
    Published("dite_hrnet_18", (384, 288), _DITE, 1.1, 471.8 / 1024, "ts", True, 69.0, "exact"),
    Published("dite_hrnet_18", (256, 256), _DITE, 1.1, 279.5 / 1024, "ts", True, None, "exact", "MPII", keypoints=16),
    Published("dite_hrnet_30", (256, 192), _DITE, 1.8, 329.8 / 1024, "ts", True, 68.3, "exact"),
    Published("dite_hrnet_30", (384, 288), _DITE, 1.8, 741.7 / 1024, "ts", True, 71.5, "exact"),
    Published("dite_hrnet_30", (256, 256), _DITE, 1.8, 439.5 / 1024, "ts", True, None, "exact", "MPII", keypoints=16),
    Published("edite_hrnet_s", (256, 192), _EDITE, 1.3, 0.2, "ts", True, 66.1, "reconstruction",
              "1.365 M, 0.295 G: as printed if the paper truncates"),
    Published("edite_hrnet_s", (384, 288), _EDITE, 1.3, 0.6, "ts", True, 68.6, "reconstruction",
              "1.365 M, 0.663 G: as printed if the paper truncates"),
    Published("edite_hrnet_s", (256, 256), _EDITE, 1.3, 0.3, "ts", True, None, "reconstruction",
              "MPII; 1.365 M, 0.393 G: as printed if the paper truncates", keypoints=16),
    Published("edite_hrnet_l", (256, 192), _EDITE, 8.8, 1.8, "ts", True, 70.6, "reconstruction",
              "parameters -3.6 %, FLOPs as printed"),
    Published("edite_hrnet_l", (384, 288), _EDITE, 8.8, 4.14, "ts", True, 73.6, "reconstruction",
              "parameters -3.6 %, FLOPs -0.1 %"),
    Published("edite_hrnet_l", (256, 256), _EDITE, 9.1, 2.46, "ts", True, None, "reconstruction",
              "MPII; parameters -6.8 % (8.8 M for COCO), FLOPs -0.4 %", keypoints=16),
    Published("mobileposenet", (256, 192), _MOBILE_POSE, 1.5, 0.55, "ts", True, 66.2, "reconstruction",
              "parameters and FLOPs as printed; Table 6 prints 557 M, ours are 565 M"),
    Published("mobileposenet", (384, 288), _MOBILE_POSE, 1.5, 1.23, "ts", True, 69.0, "reconstruction",
              "parameters as printed, FLOPs +0.8 %"),
    Published("mobileposenet", (256, 256), _MOBILE_POSE, 1.5, 0.74, "ts", True, None, "reconstruction",
              "MPII; parameters as printed, FLOPs -0.7 %", keypoints=16),
    Published("mobileposenet_v1", (256, 192), _MOBILE_POSE, 2.5, 604 / 1024, "ts", True, 65.22, "reconstruction",
              "parameters as printed, FLOPs +0.2 %"),
    Published("mobileposenet_v1", (384, 288), _MOBILE_POSE, 2.5, 1.33, "ts", True, 68.44, "reconstruction",
              "parameters and FLOPs as printed"),
    Published("mobileposenet_v2", (256, 192), _MOBILE_POSE, 2.1, 684 / 1024, "ts", True, 66.23, "reconstruction",
              "parameters as printed, FLOPs +1.8 %"),
    Published("mobileposenet_v2", (384, 288), _MOBILE_POSE, 2.1, 1.5, "ts", True, 68.97, "reconstruction",
              "parameters and FLOPs as printed"),
    Published("simple_baseline_r50", (256, 192), _BASELINE, 34.0, 8.9, "hrsum", True, 70.4, "exact"),
    Published("simple_baseline_r50", (384, 288), _BASELINE, 34.0, 20.2, "hrsum", True, None, "exact"),
    Published("simple_baseline_r101", (256, 192), _BASELINE, 53.0, 12.4, "hrsum", True, 71.4, "exact"),
    Published("simple_baseline_r152", (256, 192), _BASELINE, 68.6, 15.7, "hrsum", True, 72.0, "exact"),
    Published("simple_baseline_r152", (384, 288), _BASELINE, 68.6, 35.6, "hrsum", True, None, "exact"),
    Published("mobilenet_v2", (256, 192), _MOBILE_POSE, 9.6, 1.48, "ts", True, 64.6, "exact"),
    Published("mobilenet_v2", (384, 288), _MOBILE_POSE, 9.6, 3.33, "ts", True, 67.3, "exact"),
    Published("mobilenet_v2", (256, 256), _MOBILE_POSE, 9.6, 1.97, "ts", True, None, "exact", "MPII", keypoints=16),
    Published("mobilenet_v3_large", (256, 256), _MOBILE_POSE, 8.7, 1.82, "ts", True, None, "exact", "MPII",
              keypoints=16),
    Published("shufflenet_v2", (256, 192), _MOBILE_POSE, 7.6, 1.28, "ts", True, 59.9, "exact"),
    Published("shufflenet_v2", (384, 288), _MOBILE_POSE, 7.6, 2.87, "ts", True, 63.6, "exact"),
    Published("shufflenet_v2", (256, 256), _MOBILE_POSE, 7.6, 1.70, "ts", True, None, "exact", "MPII", keypoints=16),
    Published("hourglass_8", (256, 192), _HOURGLASS, 25.1, 14.3, "ts", True, 66.9, "reconstruction",
              "as EDite-HRNet prints it (MobilePoseNet: 25.6 M, 26.2 G); parameters +1.3 %, FLOPs +36 %"),
    Published("openpose", (368, 368), _OPENPOSE, 52.3, 136.1, "mmcv", False, 48.6, "exact", keypoints=18),
    Published("lightweight_openpose_0", (368, 368), _LIGHTWEIGHT_OPENPOSE, None, None, "mmcv", False, None,
              "reconstruction", "no figures published; the author's code", keypoints=18),
    Published("lightweight_openpose_1", (368, 368), _LIGHTWEIGHT_OPENPOSE, 4.1, 9.0, "mmcv", False, 40.0, "exact",
              keypoints=18),
    Published("lightweight_openpose_2", (368, 368), _LIGHTWEIGHT_OPENPOSE, None, None, "mmcv", False, None,
              "reconstruction", "no figures published; the author's code", keypoints=18),
    Published("lightweight_openpose_3", (368, 368), _LIGHTWEIGHT_OPENPOSE, None, None, "mmcv", False, None,
              "reconstruction", "no figures published; the author's code", keypoints=18),
    Published("mobile_openpose_24", (368, 368), _FAST, None, 13.68, "mac", False, 41.0, "reconstruction",
              "FLOPs +4.1 %", keypoints=18),
    Published("mobile_openpose_36", (368, 368), _FAST, None, 16.05, "mac", False, 42.3, "reconstruction",
              "FLOPs +0.2 %", keypoints=18),
    Published("mobile_openpose_72", (368, 368), _FAST, 6.77, 16.09, "mac", False, 43.6, "reconstruction",
              "parameters -0.6 %, FLOPs +0.1 %; Table 2 prints 16.4 G and AP 43.9", keypoints=18),
    Published("mobile_openpose_147", (368, 368), _FAST, None, 16.46, "mac", False, 43.3, "reconstruction",
              "FLOPs as printed", keypoints=18),
    Published("mobile_openpose_efficientnet", (368, 368), _FAST, None, None, "mac", False, None, "reconstruction",
              "printed as pruned 2.01 times only: 1.68 M, 4.7 G, AP 41.6; so 3.38 M dense", keypoints=18),
    Published("RTMPose-t", (256, 192), _RTM, 3.34, 0.36, "mac", False, 68.5, "reference only", _RTM_DATA),
    Published("RTMPose-s", (256, 192), _RTM, 5.47, 0.68, "mac", False, 72.2, "reference only", _RTM_DATA),
    Published("RTMPose-m", (256, 192), _RTM, 13.59, 1.93, "mac", False, 75.8, "reference only", _RTM_DATA),
    Published("RTMPose-l", (256, 192), _RTM, 27.66, 4.16, "mac", False, 76.5, "reference only", _RTM_DATA),
    Published("CPN", None, _EDITE, 27.0, 6.2, "mac", False, 68.6, "reference only", "test-dev at 384x288 72.1"),
    Published("UDP HRNet-W32", (256, 192), _EDITE, 28.7, 7.1, "mac", False, 75.2, "reference only"),
    Published("DARK HRNet-W32", (256, 192), _EDITE, 28.5, 7.1, "mac", False, 75.6, "reference only"),
    Published("DARK HRNet-W48", (128, 96), _MOBILE_POSE, 63.6, 3.6, "mac", False, 71.9, "reference only"),
    Published("DY-MobileNetV2", (256, 192), _EDITE, 16.1, 1.0, "mac", False, 68.2, "reference only"),
    Published("DY-ReLU", (256, 192), _EDITE, 9.0, 1.0, "mac", False, 68.1, "reference only"),
    Published("G-RMI", None, _MOBILE_POSE, 42.6, 57.0, "mac", False, None, "reference only", "test-dev 64.9"),
    Published("IPR ResNet-101", None, _MOBILE_POSE, 45.0, 11.0, "mac", False, None, "reference only", "test-dev 67.8"),
    Published("RMPE", None, _MOBILE_POSE, 28.1, 26.7, "mac", False, None, "reference only", "test-dev 72.3"),
    Published("Mask R-CNN", None, _EDITE, None, None, "mac", False, None, "reference only",
              "test-dev 63.1; CrowdPose 57.2"),
    Published("AlphaPose", None, _EDITE, None, None, "mac", False, None, "reference only", "CrowdPose 61.0"),
    Published("AE hourglass", (512, 512), _LIGHTWEIGHT, 277.8, 206.9, "mac", False, None, "reference only",
              "test-dev 56.6, 65.5 with several scales and refinement; elsewhere 138.9 M, 222.3 G",
              approach="bottom-up AE"),
    Published("HRNet-W32 bottom-up", (512, 512), _LIGHTWEIGHT, 28.5, 38.9, "mac", False, 64.4, "reference only",
              "test-dev 64.1", approach="bottom-up AE"),
    Published("MobileNetV2 bottom-up", (512, 512), _BHRNET, 9.6, 8.6, "mac", False, 38.0, "reference only",
              approach="bottom-up AE"),
    Published("EfficientNet, pruned 2.01x", None, _FAST, 1.68, 4.7, "mac", False, 41.6, "reference only",
              "DIR-BHRNet's tables call it YOLObile", approach="PAF"),
    Published("ResNet50_3, pruned 1.80x", None, _FAST, 3.76, 9.7, "mac", False, 42.0, "reference only", approach="PAF"),
    Published("ResNet50_3, pruned 2.15x", None, _FAST, 3.15, 8.3, "mac", False, 41.5, "reference only", approach="PAF"),
    Published("OpenPose, 2019", None, _LIGHTWEIGHT, 25.94, 160.0, "mac", False, None, "reference only", "test-dev 61.8",
              approach="PAF"),
    Published("PersonLab", (1401, 1401), _LIGHTWEIGHT, 68.7, 405.5, "mac", False, 66.5, "reference only",
              "longer side 1401", approach="bottom-up"),
    Published("PifPaf", None, _LIGHTWEIGHT, None, None, "mac", False, None, "reference only", "test-dev 66.7",
              approach="bottom-up"),
    Published("MultiPoseNet", None, "MultiPoseNet, ECCV 2018", None, None, "mac", False, None, "reference only",
              "test-dev 69.6", approach="bottom-up"),
    Published("E2Pose ResNet", (320, 320), _BHRNET, 23.9, None, "mac", False, 43.9, "reference only",
              approach="bottom-up"),
)  # fmt: skip

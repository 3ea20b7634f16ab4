"""Every family, with every structural option, at sizes that build, run and export in a moment."""

from dataclasses import replace

from compress.networks import Architecture
from compress.networks.dir_bhrnet import DirBHRNet, DirHRNet, balanced_blocks, equal_blocks
from compress.networks.dite_hrnet import DiteHRNet
from compress.networks.edite_hrnet import EDiteHRNet
from compress.networks.efficient_hrnet import EfficientHRNet
from compress.networks.higher_hrnet import HigherHRNet
from compress.networks.hourglass import StackedHourglass
from compress.networks.hrnet import HRNet
from compress.networks.lightweight_hrnet import LightweightHRNet
from compress.networks.lightweight_openpose import LightweightOpenPose
from compress.networks.lite_hrnet import LiteHRNet
from compress.networks.litepose import LitePose
from compress.networks.mobile_openpose import MobileOpenPose, MobileOpenPoseEfficientNet
from compress.networks.mobilenet_v2 import MobileNetV2
from compress.networks.mobilenet_v3 import MobileNetV3
from compress.networks.mobileposenet import MobilePoseNet
from compress.networks.openpose import OpenPose
from compress.networks.rtmpose import RTMPose
from compress.networks.shufflenet_v2 import ShuffleNetV2
from compress.networks.simple_baseline import SimpleBaseline

_EFFICIENT = EfficientHRNet(
    stem=8,
    backbone_widths=(4, 4, 8, 8, 12, 12, 16),
    repeats=(1, 2, 1, 1, 1, 1, 1),
    expansions=(1, 2, 2, 2, 2, 2, 2),
    branch_widths=(4, 6, 8, 10),
    modules=(1, 2, 1),
    blocks=1,
    head_blocks=1,
)
_LIGHTWEIGHT = LightweightHRNet(
    backbone_widths=(4, 8, 16, 20, 24, 28, 32), branch_widths=(4, 6, 8, 10), modules=(1, 1), blocks=1, head_blocks=1
)
_MOBILE_POSE = MobilePoseNet(stem=8, middles=(8,) + (48,) * 14, widths=(8,) * 15, kernels=(3,) * 15, upsampled=8)

SMALL: dict[str, Architecture] = {
    "simple_baseline": SimpleBaseline(blocks=(1, 2, 1, 1), width=4, filters=(8, 4, 6)),
    "simple_baseline_two_deconvs": SimpleBaseline(blocks=(1, 1, 1, 1), width=4, filters=(8, 8)),
    "mobilenet_v2": MobileNetV2(width=0.2, filters=(8, 8, 8)),
    "mobilenet_v3": MobileNetV3(width=0.2, filters=(8, 8, 8)),
    "shufflenet_v2": ShuffleNetV2(width=0.1, filters=(8, 8, 8)),
    "hourglass": StackedHourglass(stacks=2, depth=2, width=16),
    "litepose": LitePose(
        stem=8,
        widths=(8, 12, 12, 16),
        blocks=(1, 2, 1, 1),
        kernels=(3, 5, 7, 7),
        expansions=(1, 2, 2, 2),
        deconvs=(8, 6, 8),
    ),
    "rtmpose": RTMPose(
        width=0.0625, widths=(128, 192, 256, 256), tokens=24, gate=32, key=16, kernels=(3, 5, 5, 7), input_hw=(64, 96)
    ),
    "rtmpose_deep": RTMPose(
        depth=0.5,
        width=0.0625,
        widths=(128, 128, 128, 192),
        expansions=(0.5, 1, 1.5, 1),
        act="relu",
        tokens=16,
        gate=8,
        key=8,
        split=3,
        input_hw=(64, 96),
    ),
    "openpose": OpenPose(width=8, features=16, stages=2, limbs=4),
    "openpose_one_stage": OpenPose(width=8, features=16, stages=1),
    "lightweight_openpose": LightweightOpenPose(width=0.25, features=16, head=32, blocks=2, limbs=4),
    "lightweight_openpose_initial": LightweightOpenPose(width=0.25, features=16, head=32, refinements=0, act="relu"),
    "mobile_openpose": MobileOpenPose(blocks=(1, 2), width=8, features=16),
    "mobile_openpose_7x7": MobileOpenPose(
        blocks=(1, 1), width=8, features=16, refinements=2, refinement="one_7x7", limbs=4
    ),
    "mobile_openpose_efficientnet": MobileOpenPoseEfficientNet(width=0.5, features=16),
    "mobile_openpose_swish": MobileOpenPoseEfficientNet(width=0.5, act="swish", features=16, refinements=0),
    "hrnet": HRNet(width=8, modules=(1, 1, 2), blocks=1),
    "small_hrnet": HRNet(width=8, modules=(1, 1, 1), blocks=1, bottlenecks=1, planes=8),
    "lite_hrnet": LiteHRNet(width=16, modules=(1, 1, 1), blocks=1, stem_width=16),
    "lite_hrnet_shuffle": LiteHRNet(width=8, modules=(1, 1, 1), blocks=1, block="shuffle", stem_width=8),
    "dite_hrnet": DiteHRNet(width=8, modules=(1, 1, 1), blocks=1, stem_width=16),
    "dite_hrnet_memory": DiteHRNet(width=8, modules=(1, 1, 1), blocks=1, stem_width=16, cells="memory"),
    "edite_hrnet": EDiteHRNet(width=8, modules=(1, 1, 1), blocks=1, stem_width=16),
    "edite_hrnet_dense": EDiteHRNet(
        width=8,
        modules=(1, 1, 1),
        blocks=1,
        splits=("ghost", "ghost", "dense", "dense"),
        mixing="dense",
        stem="dynamic",
        stem_width=16,
    ),
    "edite_hrnet_unmixed": EDiteHRNet(width=8, modules=(1, 1, 1), blocks=1, mixing="none", stem_width=16),
    "higher_hrnet": HigherHRNet(width=8, modules=(1, 1, 1), blocks=1),
    "dir_hrnet_a": DirHRNet(width=8, blocks=1, variant="A"),
    "dir_hrnet_b": DirHRNet(width=8, blocks=1, variant="B"),
    "dir_bhrnet": DirBHRNet(width=8, blocks=balanced_blocks(1), head_filters=8),
    "dir_bhrnet_single": DirBHRNet(
        width=8, blocks=equal_blocks(1), head="single", kinds=("residual", "ir", "ir_dw", "dir_se")
    ),
    "dir_bhrnet_top_down": DirBHRNet(width=8, blocks=equal_blocks(1), head="heatmaps"),
    "dir_bhrnet_no_blocks": DirBHRNet(width=8, blocks=equal_blocks(0), head="single"),
    "efficient_hrnet": _EFFICIENT,
    "efficient_hrnet_hard": replace(_EFFICIENT, act="hard_swish"),
    "lightweight_hrnet": _LIGHTWEIGHT,
    "lightweight_hrnet_separable": replace(_LIGHTWEIGHT, lite_conv="separable"),
    "lightweight_hrnet_exchange": replace(_LIGHTWEIGHT, exchange=True),
    "mobileposenet": _MOBILE_POSE,
    "mobileposenet_attention": replace(_MOBILE_POSE, attention=True),
    "mobileposenet_transposed": replace(
        _MOBILE_POSE, strides=(1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1), upsampling="transposed"
    ),
}

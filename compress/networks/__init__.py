"""All networks by name, and their architectures to plain data and back."""

from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from compress.errors import NetworkError, nearest
from compress.extensions import Extensible
from compress.networks.architecture import Architecture, check_strides
from compress.networks.dir_bhrnet import DirBHRNet, DirHRNet
from compress.networks.dite_hrnet import DiteHRNet
from compress.networks.edite_hrnet import EDiteHRNet
from compress.networks.efficient_hrnet import EfficientHRNet, scaled_efficient_hrnet
from compress.networks.higher_hrnet import HigherHRNet
from compress.networks.hourglass import StackedHourglass
from compress.networks.hrnet import HRNet
from compress.networks.lightweight_hrnet import LightweightHRNet, scaled_lightweight_hrnet
from compress.networks.lightweight_openpose import LightweightOpenPose
from compress.networks.lite_hrnet import LiteHRNet
from compress.networks.litepose import LitePose
from compress.networks.mobile_openpose import MobileOpenPose, MobileOpenPoseEfficientNet
from compress.networks.mobilenet_v2 import MobileNetV2
from compress.networks.mobilenet_v3 import MobileNetV3
from compress.networks.mobileposenet import MobilePoseNet, mobileposenet_v1, mobileposenet_v2
from compress.networks.openpose import OpenPose
from compress.networks.own import OWN_FAMILIES, GivenModule
from compress.networks.rtmpose import RTMPose
from compress.networks.shufflenet_v2 import ShuffleNetV2
from compress.networks.simple_baseline import SimpleBaseline

FAMILIES: dict[str, type[Any]] = {
    "hrnet": HRNet,
    "higher_hrnet": HigherHRNet,
    "dir_hrnet": DirHRNet,
    "dir_bhrnet": DirBHRNet,
    "efficient_hrnet": EfficientHRNet,
    "lightweight_hrnet": LightweightHRNet,
    "lite_hrnet": LiteHRNet,
    "dite_hrnet": DiteHRNet,
    "edite_hrnet": EDiteHRNet,
    "mobileposenet": MobilePoseNet,
    "simple_baseline": SimpleBaseline,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "shufflenet_v2": ShuffleNetV2,
    "hourglass": StackedHourglass,
    "rtmpose": RTMPose,
    "litepose": LitePose,
    "openpose": OpenPose,
    "lightweight_openpose": LightweightOpenPose,
    "mobile_openpose": MobileOpenPose,
    "mobile_openpose_efficientnet": MobileOpenPoseEfficientNet,
}

NETWORKS: dict[str, Architecture] = {
    "hrnet_w32": HRNet(width=32),
    "hrnet_w48": HRNet(width=48),
    "higher_hrnet_w32": HigherHRNet(width=32),
    "higher_hrnet_w48": HigherHRNet(width=48),
    "dir_hrnet_24": DirHRNet(width=24),
    "dir_hrnet_32": DirHRNet(width=32),
    "dir_hrnet_32_a": DirHRNet(width=32, variant="A"),
    "dir_hrnet_48": DirHRNet(width=48),
    "dir_bhrnet_25": DirBHRNet(width=25),
    "dir_bhrnet_32": DirBHRNet(width=32),
    "dir_bhrnet_star_25": DirBHRNet(width=24, head="single"),
    "dir_bhrnet_star_32": DirBHRNet(width=32, head="single"),
    "efficient_hrnet_h0": scaled_efficient_hrnet(0),
    "efficient_hrnet_h1": scaled_efficient_hrnet(-1),
    "efficient_hrnet_h2": scaled_efficient_hrnet(-2),
    "efficient_hrnet_h3": scaled_efficient_hrnet(-3),
    "efficient_hrnet_h4": scaled_efficient_hrnet(-4),
    "lightweight_hrnet_r0": scaled_lightweight_hrnet(0),
    "lightweight_hrnet_r1": scaled_lightweight_hrnet(-1),
    "lightweight_hrnet_r2": scaled_lightweight_hrnet(-2),
    "lightweight_hrnet_r0_cem": scaled_lightweight_hrnet(0, exchange=True),
    "lightweight_hrnet_r1_cem": scaled_lightweight_hrnet(-1, exchange=True),
    "lightweight_hrnet_r2_cem": scaled_lightweight_hrnet(-2, exchange=True),
    "small_hrnet_w16": HRNet(width=16, modules=(1, 1, 1), blocks=2, bottlenecks=1, planes=32),
    "small_hrnet_w18": HRNet(width=18, modules=(1, 1, 1), blocks=2, bottlenecks=1, planes=32),
    "lite_hrnet_18": LiteHRNet(),
    "lite_hrnet_30": LiteHRNet(modules=(3, 8, 3)),
    "lite_hrnet_18_naive": LiteHRNet(width=30, block="shuffle"),
    "lite_hrnet_18_wider_naive": LiteHRNet(block="shuffle"),
    "dite_hrnet_18": DiteHRNet(),
    "dite_hrnet_30": DiteHRNet(modules=(3, 8, 3)),
    "edite_hrnet_s": EDiteHRNet(),
    "edite_hrnet_l": EDiteHRNet(splits=("ghost", "ghost", "ghost", "dense"), mixing="dense"),
    "mobileposenet": MobilePoseNet(),
    "mobileposenet_v1": mobileposenet_v1(),
    "mobileposenet_v2": mobileposenet_v2(),
    "simple_baseline_r50": SimpleBaseline(),
    "simple_baseline_r101": SimpleBaseline(blocks=(3, 4, 23, 3)),
    "simple_baseline_r152": SimpleBaseline(blocks=(3, 8, 36, 3)),
    "mobilenet_v2": MobileNetV2(),
    "mobilenet_v3_large": MobileNetV3(),
    "shufflenet_v2": ShuffleNetV2(),
    "hourglass_8": StackedHourglass(),
    "rtmpose_t": RTMPose(depth=0.167, width=0.375),
    "rtmpose_s": RTMPose(),
    "rtmpose_m": RTMPose(depth=0.67, width=0.75),
    "rtmpose_l": RTMPose(depth=1.0, width=1.0),
    "litepose_xs": LitePose(widths=(16, 32, 48, 80), deconvs=(16, 24, 24)),
    "litepose_s": LitePose(),
    "litepose_m": LitePose(widths=(24, 48, 72, 120), deconvs=(64, 40, 32)),
    "litepose_l": LitePose(stem=24, widths=(24, 64, 96, 160), deconvs=(64, 40, 32)),
    "openpose": OpenPose(),
    "lightweight_openpose_0": LightweightOpenPose(refinements=0),
    "lightweight_openpose_1": LightweightOpenPose(refinements=1),
    "lightweight_openpose_2": LightweightOpenPose(refinements=2),
    "lightweight_openpose_3": LightweightOpenPose(refinements=3),
    "mobile_openpose_24": MobileOpenPose(blocks=(3, 4), width=64),
    "mobile_openpose_36": MobileOpenPose(blocks=(3, 8), width=62),
    "mobile_openpose_72": MobileOpenPose(blocks=(7, 16), width=46),
    "mobile_openpose_147": MobileOpenPose(blocks=(15, 33), width=34),
    "mobile_openpose_efficientnet": MobileOpenPoseEfficientNet(),
}


def network_named(name: str) -> Architecture:
    """The architecture of that name. Raises NetworkError naming the nearest known one."""
    if name not in NETWORKS:
        raise NetworkError("no such network", place="NETWORK", value=name, remedy=nearest(name, NETWORKS))
    return NETWORKS[name]


def made_for(architecture: Architecture, input_hw: tuple[int, int], place: str = "input_hw") -> Architecture:
    """The architecture for this input size: another record where a network is made for one size, else the same.

    A user's own network is as it is. Raises NetworkError for a size that such a network's strides do not allow.
    """
    if architecture.family in OWN_FAMILIES or not hasattr(architecture, "input_hw"):
        return architecture
    check_strides(architecture, input_hw, place)
    return replace(architecture, input_hw=tuple(input_hw))  # type: ignore[type-var]


def architecture_to_data(architecture: Architecture) -> dict[str, Any]:
    """Plain data (dicts, lists, numbers, strings) for YAML; `family` first. A module given in memory is left out."""
    assert is_dataclass(architecture)
    assert not isinstance(architecture, type)
    choices = {one.name: getattr(architecture, one.name) for one in fields(architecture)}
    return {"family": architecture.family, **{key: _plain(value) for key, value in choices.items() if key != "module"}}


def architecture_from_data(data: Any, place: str) -> Architecture:
    """The inverse of architecture_to_data. place: the file, for the error. Raises NetworkError."""
    if not isinstance(data, dict) or "family" not in data:
        raise NetworkError("an architecture needs the key 'family'", place=place, value=data, remedy="add it")
    record = family_named(data["family"], f"{place}: family")
    choices = {key: value for key, value in data.items() if key != "family"}
    if record is GivenModule and "module" not in choices:
        raise NetworkError(
            "the network was a module in memory, which no file holds",
            place=place,
            value=choices.get("name"),
            remedy="load it in Python beside that module: compress.load(FOLDER, module=...)",
        )
    try:
        return _adapter(record).validate_python(choices)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        remedy = (
            nearest(key, record.__dataclass_fields__)
            if first["type"] == "unexpected_keyword_argument"
            else "correct it"
        )
        rule = first["msg"].removeprefix("Value error, ")
        value = None if first["type"] == "value_error" else first["input"]
        raise NetworkError(rule, place=f"{place}: {key}".rstrip(": "), value=value, remedy=remedy) from None


def family_named(named: object, place: str = "family") -> type[Any]:
    """The records' class of that name, see compress.extensions. Raises NetworkError naming the nearest known one."""
    own = OWN_FAMILIES.get(named) if isinstance(named, str) else None
    return own or _FAMILIES.find(named if isinstance(named, str | type) else str(named), place)


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(record: type[Any]) -> TypeAdapter[Any]:
    if record not in _ADAPTERS:
        _ADAPTERS[record] = TypeAdapter(with_config(ConfigDict(extra="forbid", arbitrary_types_allowed=True))(record))
    return _ADAPTERS[record]


_FAMILIES: Extensible[type[Any]] = Extensible(
    "family",
    "compress.families",
    FAMILIES,
    lambda given: given if is_dataclass(given) and isinstance(given, type) and hasattr(given, "build") else None,
    "a frozen dataclass with the properties of compress.networks.architecture.Architecture",
    NetworkError,
)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


__all__ = [
    "FAMILIES",
    "NETWORKS",
    "Architecture",
    "architecture_from_data",
    "architecture_to_data",
    "family_named",
    "made_for",
    "network_named",
]

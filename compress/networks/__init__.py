"""All networks by name, and their architectures to plain data and back."""

from dataclasses import asdict, is_dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from compress.errors import NetworkError, nearest
from compress.networks.architecture import Architecture
from compress.networks.dir_bhrnet import DirBHRNet, DirHRNet
from compress.networks.higher_hrnet import HigherHRNet
from compress.networks.hrnet import HRNet

FAMILIES: dict[str, type[Any]] = {
    "hrnet": HRNet,
    "higher_hrnet": HigherHRNet,
    "dir_hrnet": DirHRNet,
    "dir_bhrnet": DirBHRNet,
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
}


def network_named(name: str) -> Architecture:
    """The architecture of that name. Raises NetworkError naming the nearest known one."""
    if name not in NETWORKS:
        raise NetworkError("no such network", place="NETWORK", value=name, remedy=nearest(name, NETWORKS))
    return NETWORKS[name]


def architecture_to_data(architecture: Architecture) -> dict[str, Any]:
    """Plain data (dicts, lists, numbers, strings) for YAML; `family` first."""
    assert is_dataclass(architecture)
    assert not isinstance(architecture, type)
    return {"family": architecture.family, **_plain(asdict(architecture))}


def architecture_from_data(data: Any, place: str) -> Architecture:
    """The inverse of architecture_to_data. place: the file, for the error. Raises NetworkError."""
    if not isinstance(data, dict) or "family" not in data:
        raise NetworkError("an architecture needs the key 'family'", place=place, value=data, remedy="add it")
    family = data["family"]
    if family not in FAMILIES:
        raise NetworkError(
            "no such family", place=f"{place}: family", value=family, remedy=nearest(str(family), FAMILIES)
        )
    fields = {key: value for key, value in data.items() if key != "family"}
    try:
        return _ADAPTERS[family].validate_python(fields)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        remedy = (
            nearest(key, FAMILIES[family].__dataclass_fields__)
            if first["type"] == "unexpected_keyword_argument"
            else "correct it"
        )
        rule = first["msg"].removeprefix("Value error, ")
        value = None if first["type"] == "value_error" else first["input"]
        raise NetworkError(rule, place=f"{place}: {key}".rstrip(": "), value=value, remedy=remedy) from None


_ADAPTERS = {name: TypeAdapter(with_config(ConfigDict(extra="forbid"))(family)) for name, family in FAMILIES.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


__all__ = ["FAMILIES", "NETWORKS", "Architecture", "architecture_from_data", "architecture_to_data", "network_named"]

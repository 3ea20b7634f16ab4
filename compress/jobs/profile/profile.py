"""`compress profile`: where a network's parameters, multiply-adds and memory go, and what mobile engines handle badly.

The stage of a layer is the first part of its module's path, after wrappers that hold more than half of the layers
(`backbone`); a list of stages is entered. Its resolution is the size of its output relative to the input. The balance
is the BHRNet paper's Table I: the share of each resolution among the blocks of the stages, which are the layers under a
list named `stages` and not under a module whose class name ends in `Fusion`.
"""

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from compress.artefacts.metadata import OWN_WEIGHTS, RANDOM_WEIGHTS
from compress.artefacts.network import Named, Network, open_network
from compress.artefacts.results import (
    Concern,
    ConcernTime,
    DecodingTable,
    LayerRow,
    Part,
    PassTime,
    ProfileResult,
    Uncounted,
)
from compress.data.picture import PictureSet
from compress.data.sets import data_of, validation_set
from compress.errors import NetworkError
from compress.jobs.names import check_names
from compress.jobs.profile.decoding_costs import decode_table
from compress.jobs.profile.site_costs import time_sites
from compress.measure.counting import Layer, total, trace
from compress.measure.cross_check import cross_check
from compress.networks import Architecture
from compress.pose.approaches import approach_of, check_joints
from compress.progress import Progress
from compress.recipe import Data, ProfileRecipe

_EXPONENTIALS = {
    "sigmoid",
    "silu",
    "tanh",
    "exp",
    "softmax",
    "_softmax",
    "elu",
    "gelu",
    "softplus",
    "mish",
    "celu",
    "selu",
}
_REASONS = {
    "exponential": "Swish, sigmoid and the like compute exponentials, slow on small cores; hard versions do not",
    "large kernel": "engines have fast paths (Winograd) for 3x3; three 3x3 see as far as one 7x7",
    "dilation": "reads inputs that do not lie side by side: poor locality",
    "transposed convolution": "no blocked kernel in onnxruntime: the data is reordered before and after it",
    "channel shuffle": "moves the whole map through memory and computes nothing",
    "odd channels": "engines compute channels in blocks of 8: a part of the last block is wasted",
}  # sources: fast_mppe paper (Sec. 3.1-3.3) for the first three, measurements on onnxruntime and ncnn for the others


def profile(named: Named, recipe: ProfileRecipe, progress: Progress) -> ProfileResult:
    """Counts one forward pass of one picture; times it where the recipe names an engine, and its decoding on request.

    Raises ArtefactError, NetworkError, DataError or EngineError for what cannot be read, run or timed.
    """
    check_names(recipe)
    opened = open_network(named, recipe.input_hw, seed=recipe.seed, weights=recipe.target is not None)
    opened = opened.overridden(codec=recipe.codec)
    architecture, network, input_hw = opened.architecture, opened.module, opened.input_hw
    pictures: PictureSet | None = None
    if recipe.decode:
        data = data_of(opened.name, recipe.data, opened.metadata.data) or Data()
        pictures = validation_set(data, input_hw, opened.metadata.seed)
        check_joints(architecture, pictures.keypoints, opened.name)
    with progress.phase("profile", 2 + recipe.decode + (recipe.target is not None)) as phase:
        try:
            traced = trace(network, input_hw)
        except Exception as error:
            raise NetworkError(
                f"the network fails on a {input_hw[0]}x{input_hw[1]} picture",
                place=opened.name,
                value=str(error).partition("\n")[0],
                remedy="give another size with --set input_hw=[H,W]",
            ) from error
        phase.advance(1, "counted")
        check = cross_check(network, input_hw, traced.layers)
        phase.advance(1, "compared with ptflops")
        decoding = _decoding(opened, pictures) if pictures else None
        if decoding:
            phase.advance(1, "decoding timed")
        numbers = _concerns(traced.layers, _head_channels(architecture, traced.outputs))
        timing: PassTime | None = None
        times: dict[str, ConcernTime] = {}
        if recipe.target:
            timing, times = time_sites(network, traced.layers, numbers, input_hw, recipe.target, recipe.rounds)
            phase.advance(1, "layers timed")
    counted = total(network, traced.layers)
    layers, stage_of = traced.layers, _stages(network, traced.layers)

    def share(macs: int) -> float:
        return round(macs / counted.macs, 5) if counted.macs else 0.0

    def resolution_of(layer: Layer) -> str:
        return _resolution(layer.outputs, input_hw)

    def parts(of: Callable[[Layer], str]) -> list[Part]:
        groups: dict[str, list[Layer]] = {}
        for layer in layers:
            groups.setdefault(of(layer), []).append(layer)
        return [
            Part(
                group,
                sum(layer.params for layer in members),
                sum(layer.macs for layer in members),
                share(sum(layer.macs for layer in members)),
                sum(layer.output_bytes for layer in members),
            )
            for group, members in groups.items()
        ]

    concerns = [
        Concern(
            concern,
            _REASONS[concern],
            tuple(layers[n].path for n in members),
            share(sum(layers[n].macs for n in members)),
            sum(layers[n].output_bytes for n in members),
            times.get(concern),
        )
        for concern, members in numbers.items()
    ]
    return ProfileResult(
        network=opened.name,
        family=architecture.family,
        approach=architecture.approach,
        input_hw=input_hw,
        params=counted.params,
        macs=counted.macs,
        activation_bytes=sum(layer.output_bytes for layer in layers),
        stages=tuple(parts(lambda layer: stage_of[layer.path])),
        resolutions=tuple(sorted(parts(resolution_of), key=lambda part: _steps(part.name))),
        balance=_balance([layer for layer in layers if _in_block(network, layer.path)], resolution_of),
        layers=tuple(
            LayerRow(
                layer.path,
                layer.kind,
                stage_of[layer.path],
                resolution_of(layer),
                layer.outputs,
                layer.params,
                layer.macs,
                share(layer.macs),
                layer.output_bytes,
            )
            for layer in layers
        ),
        concerns=tuple(sorted(concerns, key=lambda one: -(one.time.ms if one.time else 0.0))),
        ptflops=check,
        uncounted=tuple(Uncounted(layer.path, layer.kind, layer.uncounted) for layer in layers if layer.uncounted),
        decoding=decoding,
        timing=timing,
    )


def _decoding(opened: Network, pictures: PictureSet) -> DecodingTable:
    """How long every way to decode the network's maps takes; perfect maps where its weights have learned nothing."""
    learned = opened.metadata.provenance not in (RANDOM_WEIGHTS, OWN_WEIGHTS)
    trained = opened.module if learned else None
    rows = decode_table(
        opened.architecture,
        trained,
        pictures,
        opened.input_hw,
        codec=opened.metadata.codec,
        normalisation=opened.normalisation,
    )
    return DecodingTable("the network's" if learned else "perfect", pictures.keypoints.name, rows)


# --- Where a layer belongs -------------------------------------------------------------------------------------------


def _stages(network: nn.Module, layers: Sequence[Layer]) -> dict[str, str]:
    """The stage of every layer's path."""
    inside: dict[str, int] = {}  # layers under each module
    for layer in layers:
        parts = layer.path.split(".")
        for n in range(1, len(parts) + 1):
            prefix = ".".join(parts[:n])
            inside[prefix] = inside.get(prefix, 0) + 1
    wrappers = {prefix for prefix, count in inside.items() if 2 * count > len(layers)}
    return {path: _stage(network, path, wrappers) for path in {layer.path for layer in layers}}


def _stage(network: nn.Module, path: str, wrappers: set[str]) -> str:
    names: list[str] = []
    module, prefix = network, ""
    for part in path.split(".") if path else ():
        module, prefix = module.get_submodule(part), f"{prefix}.{part}".lstrip(".")
        listed = type(module) in (nn.ModuleList, nn.ModuleDict)
        if not listed and not names and prefix in wrappers and not isinstance(module, nn.Sequential):
            continue
        names.append(part)
        if not listed or len(names) == 2:
            break
    # In a flat network, as an ONNX file gives it, the first part of a name such as layer1/conv is what comes nearest.
    return ".".join(names).partition("/")[0] or "(whole)"


def _in_block(network: nn.Module, path: str) -> bool:
    parts = path.split(".")
    modules = [network.get_submodule(".".join(parts[: n + 1])) for n in range(len(parts))] if path else []
    listed = any(part == "stages" and type(m) is nn.ModuleList for part, m in zip(parts, modules, strict=False))
    return listed and not any(type(module).__name__.endswith("Fusion") for module in modules)


def _resolution(outputs: tuple[int, ...], input_hw: tuple[int, int]) -> str:
    """`1/4` for a map of a quarter of the input's height and width; `-` for other tensors and pooled 1x1 maps."""
    if len(outputs) != 4 or 0 in outputs or outputs[2] == 1 or input_hw[0] % outputs[2]:
        return "-"
    return f"1/{input_hw[0] // outputs[2]}"


def _steps(resolution: str) -> int:
    return 10**6 if resolution == "-" else int(resolution[2:])


def _balance(blocks: Sequence[Layer], resolution_of: Callable[[Layer], str]) -> dict[str, float]:
    """Resolution → share of the blocks' MACs; empty without blocks of several resolutions."""
    macs: dict[str, int] = {}
    for layer in blocks:
        if layer.macs and resolution_of(layer) != "-":
            macs[resolution_of(layer)] = macs.get(resolution_of(layer), 0) + layer.macs
    whole = sum(macs.values())
    found = {resolution: round(macs[resolution] / whole, 5) for resolution in sorted(macs, key=_steps)}
    return found if len(found) > 1 else {}


# --- What mobile engines handle badly --------------------------------------------------------------------------------


def _concerns(layers: Sequence[Layer], head_channels: set[int]) -> dict[str, list[int]]:
    """Concern → numbers of its layers; without concerns of none."""
    found: dict[str, list[int]] = {concern: [] for concern in _REASONS}
    for number, layer in enumerate(layers):
        for concern in _concerns_of(layer, head_channels):
            found[concern].append(number)
    return {concern: members for concern, members in found.items() if members}


def _head_channels(architecture: Architecture, outputs: Iterable[tuple[int, ...]]) -> set[int]:
    """Channels of the outputs, and of the parts that an output is made of."""
    channels, approach = {shape[1] for shape in outputs if len(shape) >= 3}, approach_of(architecture)
    return channels.union(*(approach.parts_of_output(n, architecture.keypoints) for n in channels))


def _concerns_of(layer: Layer, head_channels: set[int]) -> Iterable[str]:
    """head_channels: of the network's outputs, which are as they must be."""
    if _EXPONENTIALS & {name.rstrip("_") for name in layer.operators}:
        yield "exponential"
    shuffles = {"channel_shuffle", "native_channel_shuffle"} & set(layer.operators)
    moves = "clone" in layer.operators and (len(layer.inputs) == 5 or "transpose" in layer.operators)
    if (shuffles or moves) and not layer.macs:
        yield "channel shuffle"
    module = layer.module
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        transposed = isinstance(module, nn.ConvTranspose2d)
        if transposed:
            yield "transposed convolution"
        elif max(module.kernel_size) > 3:
            yield "large kernel"
        if max(module.dilation) > 1:
            yield "dilation"
        if module.out_channels % 8 and module.out_channels not in head_channels:
            yield "odd channels"

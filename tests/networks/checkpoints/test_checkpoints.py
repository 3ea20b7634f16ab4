"""Public checkpoints: every project's names, containers, and what a file may not do."""

import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.errors import NetworkError
from compress.networks import NETWORKS
from compress.networks import checkpoints as room
from compress.networks.architecture import without_values
from compress.networks.checkpoints import SOURCES, Checkpoint, name_of, read_checkpoint
from compress.networks.checkpoints.container import read_container
from compress.networks.checkpoints.recognise import FAMILIES
from compress.networks.dite_hrnet import DiteHRNet
from compress.networks.openpose import OpenPose
from compress.networks.shufflenet_v2 import ShuffleNetV2
from compress.networks.simple_baseline import SimpleBaseline
from tests.networks.checkpoints.fixtures import OWN_NAMES, WHOLE_NAMES, Fixture, own, whole
from tests.networks.checkpoints.small_file import SMALL, random_state, small_file

CONTAINERS = Path(__file__).parent / "containers"
LIMIT = 1e-5
"""Relative error; a right table stays below 4e-6, and a swap of two norms changes more."""


def filled(checkpoint: Checkpoint) -> nn.Module:
    """The network with the file's weights."""
    module = checkpoint.architecture.build().eval()
    module.load_state_dict(checkpoint.tensors, strict=False)
    return module


def backbone_only(fixture: Fixture) -> bool:
    return bool(fixture.facts["ours"]["backbone_only"])


# --- The networks ----------------------------------------------------------------------------------------------------


def check_fixture(fixture: Fixture, folder: Path) -> None:
    """The network is recognised, all of it is filled, and it computes what the public one does."""
    path = fixture.write(folder / f"{fixture.name}.pth", fixture.tensors)
    checkpoint = read_checkpoint(path, backbone=backbone_only(fixture))
    assert checkpoint.found.network == fixture.facts["ours"]["network"]
    assert checkpoint.found.unknown == ()
    if backbone_only(fixture):
        assert all(name.startswith("head.") for name in checkpoint.found.unfilled)
    else:
        assert checkpoint.found.unfilled == ()
    said, ours = fixture.facts["picture"], checkpoint.facts.normalisation
    unit = 255 if said["pixel_scale"] == "x / 255" else 1
    assert ours.channels == said["channel_order"]
    assert [value * 255 for value in ours.mean] == pytest.approx([value * unit for value in said["mean"]])
    assert [value * 255 for value in ours.std] == pytest.approx([value * unit for value in said["std"]])
    assert fixture.error(filled(checkpoint)) < LIMIT


@pytest.mark.parametrize("name", OWN_NAMES)
def test_public_networks_compute_here_what_they_compute_there(name: str, tmp_path: Path) -> None:
    check_fixture(own(name), tmp_path)


@pytest.mark.skipif(not WHOLE_NAMES, reason="COMPRESS_CHECKPOINTS names no folder of more fixtures")
@pytest.mark.parametrize("name", WHOLE_NAMES)
def test_all_public_networks_compute_here_what_they_compute_there(name: str, tmp_path: Path) -> None:
    fixture = whole(name)
    if fixture.facts["ours"]["network"] not in NETWORKS:
        pytest.skip(f"{fixture.facts['ours']['network']} is none of our networks")
    check_fixture(fixture, tmp_path)


@pytest.mark.parametrize("name", ["official_higher_hrnet_w32_512", "mmpose0_higher_hrnet_w32_512"])
def test_inputs_left_in_the_files_order_are_found_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison sees a table without its reordered inputs."""
    fixture = own(name)
    path = fixture.write(tmp_path / "file.pth", fixture.tensors)
    monkeypatch.setattr(room, "SOURCES", tuple(replace(source, joined=()) for source in SOURCES))
    assert fixture.error(filled(read_checkpoint(path))) > 100 * LIMIT


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("official_lite_hrnet_18_wider_naive_256x192", "projects.0.depthwise_conv", "projects.0.depthwise_conv"),
        ("mmpose_mobilenet_v2_256x192", "layer3.1.conv.0", "layer3.2.conv.0"),
    ],
)
def test_norms_that_change_places_are_found_out(name: str, first: str, second: str, tmp_path: Path) -> None:
    """Shapes do not show it; the outputs do."""
    fixture = own(name)
    tensors = fixture.tensors
    if first == second:  # a norm's scale and its variance, which have one shape and are drawn alike
        (weight,) = (key for key in tensors if key.endswith(f"{first}.bn.weight"))
        (other,) = (key for key in tensors if key.endswith(f"{first}.bn.running_var"))
    else:
        (weight,) = (key for key in tensors if key.endswith(f"{first}.bn.weight"))
        (other,) = (key for key in tensors if key.endswith(f"{second}.bn.weight"))
    tensors[weight], tensors[other] = tensors[other], tensors[weight]
    checkpoint = read_checkpoint(fixture.write(tmp_path / "file.pth", tensors))
    assert fixture.error(filled(checkpoint)) > 10 * LIMIT


def shapes_of(architecture: Any) -> dict[str, tuple[int, ...]]:
    with without_values():
        return {name: tuple(one.shape) for name, one in architecture.build().state_dict().items()}


@pytest.mark.parametrize("name", [name for name, one in NETWORKS.items() if one.family in FAMILIES])
def test_a_known_network_is_recognised_from_its_shapes(name: str) -> None:
    architecture = NETWORKS[name]
    assert FAMILIES[architecture.family](shapes_of(architecture)) == architecture
    other = replace(architecture, keypoints=14)  # type: ignore[type-var]
    assert FAMILIES[architecture.family](shapes_of(other)) == other
    assert name_of(other) == name


@pytest.mark.parametrize("family", sorted({source.family for source in SOURCES}))
def test_every_family_with_a_table_is_recognised(family: str) -> None:
    assert family in FAMILIES


# --- Projects without a fixture: names built here from a module of torch, or from ours ------------------------------


class ShuffleNet(nn.Module):
    """ShuffleNetV2 0.5x of the paper, with torchvision's names."""

    def __init__(self) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            return [
                nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
                nn.BatchNorm2d(outputs),
            ]

        self.conv1 = nn.Sequential(*conv(3, 24, 3, 2), nn.ReLU())
        inputs = 24
        for stage, (width, units) in enumerate(((48, 4), (96, 8), (192, 4)), 2):
            half, stack = width // 2, nn.Sequential()
            for unit in range(units):
                stride, reads = (2, inputs) if unit == 0 else (1, half)
                one = nn.Module()
                if unit == 0:
                    one.branch1 = nn.Sequential(*conv(reads, reads, 3, 2, reads), *conv(reads, half, 1), nn.ReLU())
                one.branch2 = nn.Sequential(
                    *conv(reads, half, 1),
                    nn.ReLU(),
                    *conv(half, half, 3, stride, half),
                    *conv(half, half, 1),
                    nn.ReLU(),
                )
                stack.append(one)
            setattr(self, f"stage{stage}", stack)
            inputs = width
        self.conv5 = nn.Sequential(*conv(inputs, 1024, 1), nn.ReLU())
        self.fc = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        x = nn.functional.max_pool2d(self.conv1(x), 3, 2, 1)
        for stage in (self.stage2, self.stage3, self.stage4):
            for unit in stage:  # type: ignore[union-attr, operator]
                kept, changed = (x, x) if hasattr(unit, "branch1") else x.chunk(2, 1)
                kept = unit.branch1(kept) if hasattr(unit, "branch1") else kept
                both = torch.stack((kept, unit.branch2(changed)), 2)  # interleaved: the shuffle of two groups
                x = both.flatten(1, 2)
        return self.conv5(x)  # type: ignore[no-any-return]


def shufflenet() -> ShuffleNet:
    module = ShuffleNet().eval()
    module.load_state_dict(random_state(module))
    return module


def test_a_shufflenet_v2_of_imagenet_gives_the_same_features(tmp_path: Path) -> None:
    theirs = shufflenet()
    torch.save(theirs.state_dict(), tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth", backbone=True)
    assert checkpoint.architecture == ShuffleNetV2(width=0.5)
    assert checkpoint.found.unknown == ()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs(x)
        found = filled(checkpoint).backbone(x)  # type: ignore[operator]
    assert float((found - wanted).norm() / wanted.norm()) < LIMIT


def renamed(tensors: dict[str, Tensor], *rules: tuple[str, str]) -> dict[str, Tensor]:
    """The same tensors, with names by the first regular expression that matches."""
    found = {}
    for name, tensor in tensors.items():
        pattern, instead = next(rule for rule in rules if re.match(rule[0], name))
        found[re.sub(pattern, instead, name)] = tensor
    return found


def test_names_of_mmpose_for_shufflenet_v2_are_those_of_torchvision_in_other_words(tmp_path: Path) -> None:
    state = shufflenet().state_dict()
    layers = {"stage2": "layers.0", "stage3": "layers.1", "stage4": "layers.2"}
    branch1, branch2 = {0: "0.conv", 1: "0.bn", 2: "1.conv", 3: "1.bn"}, {
        0: "0.conv", 1: "0.bn", 3: "1.conv", 4: "1.bn", 5: "2.conv", 6: "2.bn"
    }  # fmt: skip
    theirs = {}
    for name, tensor in state.items():
        if name.startswith("fc"):
            continue
        part = name.split(".")
        if part[0] in layers:
            inside = (branch1 if part[2] == "branch1" else branch2)[int(part[3])]
            theirs[f"backbone.{layers[part[0]]}.{part[1]}.{part[2]}.{inside}.{part[4]}"] = tensor
        else:
            place = "conv1" if part[0] == "conv1" else "layers.3"
            theirs[f"backbone.{place}.{('conv', 'bn')[int(part[1])]}.{part[2]}"] = tensor
    network = ShuffleNetV2(width=0.5).build()
    head = random_state(network.head)
    theirs |= renamed(
        head,
        (r"deconvs\.", "head.deconv_layers."),
        (r"maps\.", "head.final_layer."),
    )
    torch.save(state, tmp_path / "torchvision.pth")
    torch.save({"state_dict": theirs, "meta": {}}, tmp_path / "mmpose.pth")
    both = [read_checkpoint(tmp_path / f"{name}.pth", backbone=True) for name in ("torchvision", "mmpose")]
    assert both[1].found.unfilled == both[1].found.unknown == ()
    assert both[1].found.source == "MMPose"
    for name, tensor in both[0].tensors.items():
        assert torch.equal(tensor, both[1].tensors[name])
    for name, tensor in head.items():
        assert torch.equal(tensor, both[1].tensors[f"head.{name}"])


def test_names_of_timm_for_mobilenet_v2_are_those_of_torchvision_in_other_words(tmp_path: Path) -> None:
    state = own("torchvision_mobilenet_v2").tensors
    theirs: dict[str, Tensor] = {}
    stages = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 3), (5, 3), (6, 1)]  # timm's blocks.S.B; torchvision counts on
    places = [(stage, block) for stage, blocks in stages for block in range(blocks)]
    for name, tensor in state.items():
        part, leaf = name.split(".")[:-1], name.split(".")[-1]
        if part[0] == "classifier":
            theirs[f"classifier.{leaf}"] = tensor
        elif part[1] in ("0", "18"):
            kinds = {"0": ("conv_stem", "bn1"), "18": ("conv_head", "bn2")}[part[1]]
            theirs[f"{kinds[int(part[2])]}.{leaf}"] = tensor
        else:
            stage, block = places[int(part[1]) - 1]
            layer = ".".join(part[3:])
            kinds_of = {
                True: {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"},
                False: {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"},
            }[stage == 0]
            theirs[f"blocks.{stage}.{block}.{kinds_of[layer]}.{leaf}"] = tensor
    torch.save(state, tmp_path / "torchvision.pth")
    torch.save(theirs, tmp_path / "timm.pth")
    both = [read_checkpoint(tmp_path / f"{name}.pth", backbone=True) for name in ("torchvision", "timm")]
    assert both[1].found.source == "timm MobileNetV2"
    assert both[0].tensors.keys() == both[1].tensors.keys()
    assert all(torch.equal(tensor, both[1].tensors[name]) for name, tensor in both[0].tensors.items())


class CaffeOpenPose(nn.Module):
    """OpenPose of the paper's layers, with Caffe's names: two branches, fields first, joined before the features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w, f = width, 2 * width
        vgg = [("1_1", 3, w), ("1_2", w, w), ("2_1", w, 2 * w), ("2_2", 2 * w, 2 * w), ("3_1", 2 * w, 4 * w)]
        vgg += [(f"3_{i}", 4 * w, 4 * w) for i in (2, 3, 4)]
        vgg += [("4_1", 4 * w, 8 * w), ("4_2", 8 * w, 8 * w), ("4_3_CPM", 8 * w, 2 * f), ("4_4_CPM", 2 * f, f)]
        self.vgg = [f"conv{name}" for name, _, _ in vgg]
        layers = {f"conv{name}": nn.Conv2d(a, b, 3, padding=1) for name, a, b in vgg}
        for branch, maps in ((1, 38), (2, 19)):
            for n, (a, b, k) in enumerate([(f, f, 3)] * 3 + [(f, 4 * f, 1), (4 * f, maps, 1)], 1):
                layers[f"conv5_{n}_CPM_L{branch}"] = nn.Conv2d(a, b, k, padding=k // 2)
            for stage in range(2, 7):
                sizes = [(f + 57, f, 7)] + [(f, f, 7)] * 4 + [(f, f, 1), (f, maps, 1)]
                for n, (a, b, k) in enumerate(sizes, 1):
                    layers[f"Mconv{n}_stage{stage}_L{branch}"] = nn.Conv2d(a, b, k, padding=k // 2)
        self.layers = nn.ModuleDict(layers)

    def run(self, x: Tensor, names: list[str]) -> Tensor:
        """ReLU after all but the last."""
        for name in names[:-1]:
            x = self.layers[name](x).relu()
        return self.layers[names[-1]](x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Heatmaps and fields of every stage, joined as ours are."""
        for name in self.vgg:
            if name in ("conv2_1", "conv3_1", "conv4_1"):
                x = nn.functional.max_pool2d(x, 2)
            x = self.layers[name](x).relu()
        features, outputs = x, []
        for stage in range(1, 7):
            names = [f"conv5_{n}_CPM_L" for n in range(1, 6)] if stage == 1 else [
                f"Mconv{n}_stage{stage}_L" for n in range(1, 8)
            ]  # fmt: skip
            fields, heatmaps = (self.run(x, [f"{name}{branch}" for name in names]) for branch in (1, 2))
            outputs.append(torch.cat((heatmaps, fields), 1))
            x = torch.cat((fields, heatmaps, features), 1)
        return outputs


def numbered(name: str) -> str:
    """The name of the same layer where layers have numbers, ReLUs and pools counted too."""
    if found := re.match(r"conv5_(\d)_CPM_L(\d)\.(.+)", name):
        return f"model1_{found[2]}.{2 * int(found[1]) - 2}.{found[3]}"
    if found := re.match(r"Mconv(\d)_stage(\d)_L(\d)\.(.+)", name):
        return f"model{found[2]}_{found[3]}.{2 * int(found[1]) - 2}.{found[4]}"
    order = ["1_1", "1_2", "", "2_1", "2_2", "", "3_1", "3_2", "3_3", "3_4", "", "4_1", "4_2", "4_3_CPM", "4_4_CPM"]
    number = 0
    for layer in order:
        if layer and name.startswith(f"conv{layer}."):
            return f"model0.{number}.{name.rpartition('.')[2]}"
        number += 2 if layer else 1
    raise AssertionError(name)


@pytest.mark.parametrize("form", ["numbered", "Caffe's names", "Caffe's names in their parts"])
def test_openpose_reads_its_maps_in_our_order(form: str, tmp_path: Path) -> None:
    theirs = CaffeOpenPose(8).eval()
    theirs.load_state_dict(random_state(theirs))
    state = {name.removeprefix("layers."): tensor for name, tensor in theirs.state_dict().items()}
    if form == "numbered":
        state = {numbered(name): tensor for name, tensor in state.items()}
    elif form != "Caffe's names":
        parts = {name: numbered(name).split(".")[0] for name in state}
        state = {f"{parts[name]}.{name}": tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert checkpoint.architecture == OpenPose(width=8, features=16)
    assert checkpoint.found.unknown == ()
    x = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        for mine, wanted in zip(filled(checkpoint)(x), theirs(x), strict=True):
            assert torch.allclose(mine, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


DITE = DiteHRNet(modules=(1, 1, 1))


def dites_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors by the names of Dite-HRNet's authors, and the tensors that theirs has besides."""
    separable = {"0.conv": 0, "0.bn": 1, "1.conv": 2, "1.bn": 3}
    inside = (  # of a block, from the end of our name to theirs
        (r"dense\.masks\.(\d)\.conv", r"dcm.conv_mask.\1"),
        (r"dense\.weigh\.0\.conv", "dcm.channel_attention.0"),
        (r"dense\.weigh\.0\.bn", "dcm.channel_attention.1"),
        (r"dense\.weigh\.1", "dcm.channel_attention.3"),
        (r"splits\.(\d)\.convolutions\.(\d)\.", r"conv.\1.conv.\2."),
        (r"contexts\.(\d)\.", r"gcm.\1."),
        (r"mask\.conv", "conv_mask"),
        (r"weigh\.0\.conv", "channel_attention.0"),
        (r"weigh\.0\.bn", "channel_attention.1"),
        (r"weigh\.1", "channel_attention.3"),
        (r"conv\.mixture\.1\.conv", "conv.attention.conv1"),
        (r"conv\.mixture\.1\.bn", "conv.attention.bn"),
        (r"conv\.mixture\.2", "conv.attention.conv2"),
        (r"conv\.conv\.weight", "conv.aggregation.weight"),
    )
    found = {}
    for name, tensor in tensors.items():
        place, _, leaf = name.rpartition(".")
        if name.startswith("head.maps"):
            theirs = f"keypoint_head.final_layer.{leaf}"
        elif match := re.match(r"head\.lower\.(\d)\.(\d)\.(conv|bn)", name):
            kind = ("depthwise_conv", "pointwise_conv")[int(match[2])]
            theirs = f"backbone.head_layer.projects.{match[1]}.{kind}.{match[3]}.{leaf}"
        elif match := re.match(r"head\.highest\.(\d)\.(conv|bn)", name):
            kind = ("depthwise_conv", "pointwise_conv")[int(match[1])]
            theirs = f"backbone.head_layer.projects.3.{kind}.{match[2]}.{leaf}"
        elif name.startswith("first_branch."):
            theirs = f"backbone.transition0.0.{separable[place.removeprefix('first_branch.')]}.{leaf}"
        elif match := re.match(r"new_branches\.(\d)\.(\d\.\w+)\.", name):
            theirs = f"backbone.transition{match[1]}.{int(match[1]) + 1}.0.{separable[match[2]]}.{leaf}"
        elif match := re.match(r"stages\.(\d)\.2\.paths\.(\d)\.(\d)\.(conv|bn)\.", name):
            theirs = f"backbone.stage{match[1]}.0.fuse_layers.{match[2]}.{match[3]}.{int(match[4] == 'bn')}.{leaf}"
        elif match := re.match(r"stages\.(\d)\.2\.paths\.(\d)\.(\d)\.(\d)\.(\d\.\w+)\.", name):
            path = f"{match[2]}.{match[3]}.{match[4]}.{separable[match[5]]}"
            theirs = f"backbone.stage{match[1]}.0.fuse_layers.{path}.{leaf}"
        else:
            theirs = re.sub(r"^stem\.conv\.", "stem.conv1.", name)
            theirs = re.sub(r"^stem\.first\.", "stem.branch1.", theirs)
            theirs = re.sub(r"^stem\.second\.", "stem.branch2.", theirs)
            theirs = "backbone." + re.sub(r"^stages\.(\d)\.([01])\.", r"stage\1.0.layers.\2.", theirs)
            for pattern, instead in inside:
                theirs = re.sub(rf"(?<=\.){pattern}", instead, theirs)
            if "conv_mask" in theirs:
                found[theirs.replace(".weight", ".bias")] = torch.randn(1)
        found[theirs] = tensor
    for stage in range(3):
        for block in range(2):
            mask = f"backbone.stage{stage}.0.layers.{block}.dcm.conv_mask.{stage + 1}"
            found |= {f"{mask}.weight": torch.randn(1, 20 << (stage + 1), 1, 1), f"{mask}.bias": torch.randn(1)}
    return found


def test_dite_hrnets_names_are_known(tmp_path: Path) -> None:
    ours = random_state(DITE.build())
    torch.save({"state_dict": dites_names(ours), "meta": {}}, tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert checkpoint.architecture == replace(DITE, cells="memory")  # what the published weights were trained for
    assert checkpoint.found.unknown == checkpoint.found.unfilled == ()
    assert checkpoint.tensors.keys() == ours.keys()
    assert all(torch.equal(tensor, checkpoint.tensors[name]) for name, tensor in ours.items())
    assert all("conv_mask" in name for name in checkpoint.found.dropped)


# --- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prefix", "path", "beside"),
    [
        ("old_bare", "", (), ()),
        ("higher_hrnet_half", "1.", (), ()),
        ("hrnet_training", "module.", ("state_dict",), ("best_state_dict", "epoch", "model", "optimizer", "perf")),
        (
            "lightweight_openpose_training",
            "",
            ("state_dict",),
            ("current_epoch", "iter", "optimizer", "scheduler"),
        ),
        ("mmpose_published", "", ("state_dict",), ("meta",)),
    ],
)
def test_files_as_projects_write_them_are_read(
    name: str, prefix: str, path: tuple[str, ...], beside: tuple[str, ...]
) -> None:
    container = read_container(CONTAINERS / f"{name}.pth")
    assert (container.prefix, container.path) == (prefix, path)
    assert tuple(sorted(container.beside)) == beside
    assert container.tensors
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in container.tensors.values())
    assert container.dtypes == (("float16",) if name == "higher_hrnet_half" else ())


def test_a_training_of_mmengine_is_refused_with_what_to_do() -> None:
    with pytest.raises(NetworkError, match=r"objects of other code.*mmengine\.logging.*publish_model"):
        read_container(CONTAINERS / "mmpose_training.pth")


@pytest.mark.parametrize("form", ["bare", "data parallel", "nested", "half", "safetensors", "without counters", "old"])
def test_forms_of_one_checkpoint_give_one_network(form: str, tmp_path: Path) -> None:
    state = small_file()
    path = tmp_path / ("file.safetensors" if form == "safetensors" else "file.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "data parallel":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, path)
    elif form == "nested":
        torch.save({"model": {f"model.module.{name}": tensor for name, tensor in state.items()}}, path)
    elif form == "half":
        torch.save({name: one.half() if one.is_floating_point() else one for name, one in state.items()}, path)
    elif form == "without counters":
        torch.save({name: one for name, one in state.items() if not name.endswith("num_batches_tracked")}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form != "old")
    checkpoint = read_checkpoint(path)
    assert checkpoint.architecture == SMALL
    assert checkpoint.found.unknown == checkpoint.found.unfilled == ()
    for theirs, tensor in state.items():
        if theirs == "conv1.weight":
            wanted = tensor.half().float() if form == "half" else tensor
            assert torch.equal(checkpoint.tensors["backbone.0.conv.weight"], wanted)
    assert checkpoint.found.converted == (("float16",) if form == "half" else ())


class Leaves:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["instead", "beside", "inside"])
def test_nothing_in_a_file_is_run(where: str, zipped: bool, tmp_path: Path) -> None:
    trace, path = tmp_path / "was here", tmp_path / "file.pth"
    hostile = Leaves(trace)
    held: Any = {"instead": hostile, "beside": {"state_dict": small_file(), "x": hostile}, "inside": small_file()}[
        where
    ]
    if where == "inside":
        held["conv1.weight"] = hostile
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(NetworkError, match="objects of other code, which is not run"):
        read_checkpoint(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(hostile))  # it would have
    assert trace.exists()


def test_a_plain_pickle_is_not_run_either(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(pickle.dumps(Leaves(tmp_path / "was here")))
    with pytest.raises(NetworkError):
        read_checkpoint(path)
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", ["pth", "old.pth", "safetensors"])
def test_a_file_that_is_cut_off_is_refused_in_one_line(suffix: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / f"file.{suffix}"
    if suffix == "safetensors":
        save_file(small_file(), path)
    else:
        torch.save(small_file(), path, _use_new_zipfile_serialization=suffix == "pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(NetworkError, match=r"cut off|must hold only tensors") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("held", "rule"),
    [
        (nn.Conv2d(3, 3, 1), r"objects of other code, which is not run \(found 'torch\.nn\.modules\.conv\.Conv2d'\)"),
        ({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}, "an optimizer's state"),
        ({"epoch": 3}, "must hold a network's tensors by their names"),
        ([torch.zeros(3)], "holds tensors by their names"),
        ({}, "must hold a network's tensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused(held: Any, rule: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "file.pth")
    with pytest.raises(NetworkError, match=rule):
        read_checkpoint(tmp_path / "file.pth")


def test_folders_and_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="a checkpoint is a file"):
        read_checkpoint(tmp_path)
    with pytest.raises(NetworkError, match="no such file"):
        read_checkpoint(tmp_path / "file.pth")


# --- What does not fit -----------------------------------------------------------------------------------------------


def saved(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def test_a_file_of_another_network_names_the_nearest(tmp_path: Path) -> None:
    path = saved(tmp_path, small_file())
    with pytest.raises(NetworkError, match=r"must be of hrnet_w32.*nearest: SimpleBaseline \(simple_baseline\)"):
        read_checkpoint(path, NETWORKS["hrnet_w32"])
    with pytest.raises(NetworkError, match=r"must be of a known project.*known projects: HRNet"):
        read_checkpoint(saved(tmp_path, {"encoder.weight": torch.zeros(2)}))


def test_a_file_of_other_sizes_says_which(tmp_path: Path) -> None:
    with pytest.raises(
        NetworkError, match=r"must have the shapes of simple_baseline_r50.*conv1\.weight \[4, 3, 7, 7\]"
    ):
        read_checkpoint(saved(tmp_path, small_file()), SimpleBaseline())


def test_joints_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, small_file(replace(SMALL, keypoints=16)))
    assert read_checkpoint(path).architecture.keypoints == 16
    with pytest.raises(NetworkError, match=r"has 16 joints.* has 17.*leave the network out"):
        read_checkpoint(path, SMALL)


def test_a_network_that_is_filled_in_part_is_refused_and_lists_what_lacks(tmp_path: Path) -> None:
    state = small_file()
    del state["layer2.0.bn2.bias"]
    with pytest.raises(NetworkError, match=r"1 tensors unfilled: backbone\.3\.0\.conv2\.bn\.bias"):
        read_checkpoint(saved(tmp_path, state))


@pytest.mark.parametrize("project", ["ImageNet ResNet", "MMPretrain"])
def test_a_backbone_alone_is_told_from_the_network_around_it(project: str, tmp_path: Path) -> None:
    state = {name: one for name, one in small_file().items() if not name.startswith(("deconv", "final"))}
    if project == "MMPretrain":
        state = {f"backbone.{name}": one for name, one in state.items()} | {"head.fc.weight": torch.zeros(9, 128)}
    path = saved(tmp_path, state)
    with pytest.raises(NetworkError, match=rf"\({project}\) fills only the backbone of simple_baseline.*--backbone"):
        read_checkpoint(path)
    checkpoint = read_checkpoint(path, backbone=True)
    assert checkpoint.found.unknown == ()
    assert all(name.startswith("head.") for name in checkpoint.found.unfilled)
    assert torch.equal(checkpoint.tensors["backbone.0.conv.weight"], small_file()["conv1.weight"])


def test_unknown_names_are_listed(tmp_path: Path) -> None:
    found = read_checkpoint(saved(tmp_path, {**small_file(), "ema.decay": torch.zeros(1)})).found
    assert found.unknown == ("ema.decay",)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("backbone.conv1.conv", "backbone.layer1.depthwise_conv.conv", "backbone.layer1.linear_conv.conv"), "gate"),
        (("conv1", "layer1.0.conv1", "hg.0.hg.0.0.0.conv1", "score.0", "fc.0.0"), "one residual earlier in its stem"),
        (("backbone.stem.0.conv", "backbone.hourglass_modules.0.up1.0.conv1"), "basic blocks"),
        (("_conv_stem", "_blocks.0._depthwise_conv", "stage2.0.branches.0.0.conv1"), "pad stride-2 convolutions"),
    ],
)
def test_networks_that_ours_cannot_compute_say_why(names: tuple[str, ...], why: str, tmp_path: Path) -> None:
    state = {f"{name}.weight": torch.zeros(16, 16, 3, 3) for name in names}
    with pytest.raises(NetworkError, match=f"cannot be imported: .*{why}"):
        read_checkpoint(saved(tmp_path, state))


@pytest.mark.parametrize(
    ("name", "size", "codec", "sigma"),
    [
        ("pose_resnet_50_384x288.pth", (384, 288), "hrnet", 3.0),
        ("td-hm_res50_udp-8xb64-210e_coco-256x192.pth", (256, 192), "udp", 2.0),
        ("res50_dark_coco.pth", (256, 192), "dark", 2.0),
    ],
)
def test_a_files_name_says_its_size_and_codec(
    name: str, size: tuple[int, int], codec: str, sigma: float, tmp_path: Path
) -> None:
    architecture = SimpleBaseline()
    torch.save(small_file(architecture), tmp_path / name)
    facts = read_checkpoint(tmp_path / name).facts
    assert (facts.input_hw, facts.codec.name, facts.codec.sigma) == (size, codec, sigma)

"""The space that is derived from a given network: what varies, in which groups, and what cannot."""

import math
import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.artefacts.network import Network, open_network
from compress.artefacts.results import SingleEdit, Trial
from compress.cli import is_recipe
from compress.errors import BudgetError, CompressError, DataError, NetworkError, RecipeError, SpaceError
from compress.jobs.search import finalists
from compress.jobs.search import search as job
from compress.jobs.search import trials as job_trials
from compress.jobs.search.derived import block_choices, derive, described, influences, no_larger, stage_choices
from compress.jobs.search.finalists import chosen_as_measured
from compress.jobs.search.measured_budget import PROBES, Timed, correction, measured, near
from compress.jobs.search.proposals import allocated, kinds_changed, options_of, single_edits
from compress.jobs.search.single_edits import map_error
from compress.jobs.search.task import prepared, read_start, settled
from compress.measure import whole_networks
from compress.measure.cost import Cost
from compress.measure.counting import count
from compress.measure.latency import Latency
from compress.measure.latency_model import LatencyModel, identity_of, runtime_of
from compress.measure.latency_table import open_table
from compress.measure.limit import Limit
from compress.measure.target import Target
from compress.measure.timing import Timing
from compress.nas.candidate import Candidates
from compress.nas.space import EditChoice, Pick, Space, SpaceFile, expand, read_space, space_text
from compress.networks import NETWORKS, architecture_to_data
from compress.networks.mobile_openpose import MobileOpenPose
from compress.networks.openpose import OpenPose
from compress.pose.scoring import Score
from compress.progress import Progress, Silent
from compress.recipe import ANY_NETWORK, SearchRecipe, find, read_recipe, shipped_names

HW = (32, 32)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.conv(x)


class Own(nn.Module):
    """Four residual blocks of 32 channels, Swish in the stem, one map for each of 17 joints."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 4, 1), nn.SiLU())
        self.body = nn.Sequential(*(Residual(32) for _ in range(4)))
        self.head = nn.Conv2d(32, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))  # type: ignore[no-any-return]


class Bare(nn.Module):
    """Its only layer makes the maps: nothing can vary, but for the input size."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 17, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)  # type: ignore[no-any-return]


def given(module: nn.Module) -> Network:
    return open_network(module, HW)


def derived(network: Network, engine: str = "onnxruntime", groups: int = 4) -> Space:
    base = architecture_to_data(network.architecture)
    images = [torch.randn(2, 3, *HW, generator=torch.Generator().manual_seed(0))]
    return expand(derive(Candidates(Space(base, {}), HW, network), engine, images, groups, Path("space.yaml")), base)


def test_every_kind_of_choice_of_an_own_module() -> None:
    torch.manual_seed(0)
    space = derived(given(Own()), "mnn_sparse")
    by_kind: dict[str, dict[str, tuple[Any, ...]]] = {}
    for edit in space.edits:
        by_kind.setdefault(edit.kind, {})[edit.name] = edit.values
    shares = (0.25, 0.5, 0.75, 1.0)  # of 32 channels that stay in eights
    assert by_kind["channels"] == {"channels of network.stem.0": shares}  # the stream; what blocks make lies on it
    assert by_kind["blocks"] == {"blocks of network.body": (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert ("keep", "swish_to_hard_swish", "swish_to_hard_tanh", "swish_to_relu") in by_kind["rewrite"].values()
    assert set(by_kind["weights"].values()) == {(0.25, 0.5, 1.0)}
    assert "weights" not in {edit.kind for edit in derived(given(Own())).edits}  # onnxruntime skips no zeros
    assert described(space)[-1] == f"{len(space.edits) + 1} choices, {space.size:.3g} candidates"
    assert "channels of network.stem.0: 25%, 50%, 75%, 100%" in described(space)


def test_smaller_inputs_are_a_choice_where_the_network_takes_them() -> None:
    """Half, five, six and seven eighths of the given size, in whole strides; maps must be as small."""
    torch.manual_seed(0)
    space = derived(given(Own()))
    stride = given(Own()).architecture.stride
    expected = []
    for share in (0.5, 0.625, 0.75, 0.875):
        size = tuple(max(stride, round(share * side / stride) * stride) for side in HW)
        if size not in expected and size != HW:
            expected.append(size)
    assert space.input_sizes == (*expected, HW)
    assert space.unedited["input_hw"] == f"{HW[0]}x{HW[1]}"
    assert derived(given(Bare())).choices == {"input_hw": ("16x16", "20x20", "24x24", "28x28", "32x32")}


def test_blocks_go_in_the_order_of_what_they_change() -> None:
    """Of x + s·conv(x) that is |s·conv(x)|² over |x + s·conv(x)|², computed here with a loop over the blocks."""
    torch.manual_seed(0)
    module = Own()
    for number, scale in enumerate((1.0, 0.1, 3.0, 0.3)):
        module.body[number].scale = scale
    network, image = given(module), torch.randn(3, 3, *HW)
    paths = [f"network.body.{number}" for number in range(4)]
    found = influences(network.module, paths, [image])
    with torch.no_grad():
        x = module.stem(image)
        for path, block in zip(paths, module.body, strict=True):
            y = block(x)
            assert found[path] == pytest.approx(float((y - x).square().sum() / y.square().sum()), rel=1e-4)
            x = y
    (choice,) = block_choices(paths, found, 4)
    assert [int(path[-1]) for path in choice.sites] == [1, 3, 0, 2]
    assert not network.module.get_submodule(paths[0])._forward_hooks


def test_blocks_of_many_branches_are_joined() -> None:
    paths = [f"stages.{stage}.{branch}.{block}" for stage in range(2) for branch in range(3) for block in range(4)]
    influence = {path: float(number) for number, path in enumerate(paths)}
    assert [one.name for one in block_choices(paths, influence, 6)] == [
        f"blocks of stages.{stage}.{branch}" for stage in range(2) for branch in range(3)
    ]
    joined = block_choices(paths, influence, 2)
    assert [(one.name, len(one.sites), one.values) for one in joined] == [
        (f"blocks of stages.{stage}", 12, (0.0, 0.25, 0.5, 0.75, 1.0)) for stage in range(2)
    ]


def test_a_network_with_the_names_of_an_onnx_file_has_the_same_choices() -> None:
    """Its modules lie in one, strokes in place of dots; a choice is a part of the network all the same."""

    class Staged(nn.Module):
        """Two stages of four blocks, the second of twice the channels, under dotted names or strokes."""

        def __init__(self, separator: str) -> None:
            super().__init__()
            torch.manual_seed(0)
            names = [f"stages{separator}{stage}{separator}{block}" for stage in range(2) for block in range(4)]
            parts = [("stem", nn.Conv2d(3, 32, 3, 4, 1)), *((name, Residual(32)) for name in names[:4])]
            parts += [("wider", nn.Conv2d(32, 64, 1)), *((name, Residual(64)) for name in names[4:])]
            parts += [("head", nn.Conv2d(64, 17, 1))]
            self.order = [name for name, _ in parts]
            for name, part in parts:
                *holders, last = name.split(".")
                holder: nn.Module = self
                for one in holders:
                    if not hasattr(holder, one):
                        holder.add_module(one, nn.Module())
                    holder = holder.get_submodule(one)
                holder.add_module(last, part)

        def forward(self, x: Tensor) -> Tensor:
            for name in self.order:
                x = self.get_submodule(name)(x)
            return x

    def choices(separator: str) -> dict[str, Any]:
        space = derived(given(Staged(separator)), groups=2)
        return {edit.name.replace("/", "."): (edit.kind, edit.values) for edit in space.edits}

    dotted, strokes = choices("."), choices("/")
    assert dotted == strokes
    assert [name for name in dotted if name.startswith("blocks")] == [
        f"blocks of network.stages.{stage}" for stage in range(2)
    ]
    Candidates(derived(given(Staged("/"))), HW, given(Staged("/"))).check("space.yaml")


def test_refinement_stages_are_a_choice_the_last_goes_first() -> None:
    record = OpenPose(width=4, features=8, stages=4, kernel=3)
    network = Network("given", record, record.build().eval(), given(Own()).metadata)
    edits = {edit.name: edit for edit in derived(network).edits}
    assert edits["refinement stages"].sites == ("refinements.2", "refinements.1", "refinements.0")
    assert edits["refinement stages"].values == (0.0, 0.3333, 0.6667, 1.0)
    assert not any("remove_stage" in edit.values for edit in edits.values())
    assert stage_choices([]) == []


def test_a_derived_space_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    space = derived(given(Own()), "mnn_sparse")
    path = tmp_path / "space.yaml"
    path.write_text(space_text(SpaceFile(path, "module", {}, {}, space.edits)))
    assert read_space(path).edits == space.edits
    Candidates(space, HW, given(Own())).check(str(path))


def test_a_network_in_which_nothing_can_vary_is_one_line() -> None:
    with pytest.raises(NetworkError) as caught:
        derived(open_network(Bare(), (4, 4)))  # of its stride: there is no smaller input
    said = str(caught.value)
    assert "nothing can vary in this network" in said
    assert "no residual block" in said
    assert "\n" not in said


def test_from_scratch_the_choices_are_none_above_the_given_network(tmp_path: Path) -> None:
    record = MobileOpenPose(blocks=(2, 3), width=24, refinements=1, refinement="one_7x7", keypoints=17)
    network = Network("given", record, nn.Identity(), given(Own()).metadata)
    choices = {"blocks.0": (1, 2, 3), "width": (16, 32), "refinements": (1, 2), "refinement": ("three_3x3",)}
    file = SpaceFile(tmp_path, "mobile_openpose", {}, {**choices, "no_such_field": (1, 2)})
    other = SpaceFile(tmp_path, "hrnet", {}, {"width": (1, 2)})
    assert no_larger(network, [file, other]).choices == {
        "blocks.0": (1, 2),
        "refinement": ("three_3x3", "one_7x7"),
        "width": (16, 24),
    }
    with pytest.raises(SpaceError, match="varies this network downward"):
        no_larger(network, [other])


def recipe(*overrides: str) -> SearchRecipe:
    return read_recipe(find(ANY_NETWORK, "recipes", RecipeError), SearchRecipe, overrides)


def test_what_the_network_says_holds_where_the_recipe_says_nothing() -> None:
    network = given(Own())
    found = settled(recipe("data.kind=synthetic"), network)
    assert (found.input_hw, found.codec, found.data.kind) == (HW, network.metadata.codec, "synthetic")
    assert settled(recipe("data.kind=synthetic", "input_hw=[64, 32]"), network).input_hw == (64, 32)
    bhrnet = read_recipe(find("bhrnet", "recipes", RecipeError), SearchRecipe)
    assert settled(bhrnet, None) is bhrnet


@pytest.mark.parametrize(
    ("kind", "overrides", "network", "part"),
    [
        (DataError, [], Own(), "give --data"),
        (DataError, [], "mobilenet_v2", "these are random"),
        (RecipeError, [], None, "a search has a space, or a network"),
        (RecipeError, ["search.weights=scratch"], None, "searches around a network"),
    ],
)
def test_a_start_that_cannot_be_searched_is_one_line(
    kind: type[CompressError], overrides: list[str], network: Any, part: str
) -> None:
    settings = recipe(*overrides)
    with pytest.raises(kind) as caught:
        settled(settings, read_start(settings, network))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_networks_and_recipes_are_told_apart(tmp_path: Path) -> None:
    assert not set(shipped_names("recipes")) & set(NETWORKS)
    record, settings = tmp_path / "record.yaml", tmp_path / "settings.yaml"
    record.write_text("family: hrnet\n")
    settings.write_text("job: search\n")
    names = {"bhrnet": True, str(settings): True, "missing.yaml": True, "hrnet_w32": False, str(record): False}
    names |= {"runs/openpose": False, "module:function": False, "net.onnx": False, "hrnet_w32@file.pth": False}
    assert {name: is_recipe(name) for name in names} == names


# --- What is tried first ----------------------------------------------------------------------------------------------


def alone(path: str, value: Any, share: float, error: float) -> SingleEdit:
    return SingleEdit(path, value, share, error)


def test_single_edits_begin_with_the_farthest_of_every_choice() -> None:
    space = Space({}, {"a": (0.25, 0.375, 0.5, 0.625, 0.75, 1.0), "b": ("keep", "x", "y"), "c": (0.5, 1.0)})
    given_pick = {"a": 1.0, "b": "keep", "c": 1.0}
    found = single_edits(space, given_pick, 10)
    assert found == [("a", 0.25), ("b", "y"), ("c", 0.5), ("a", 0.5), ("b", "x"), ("a", 0.75)]
    assert single_edits(space, given_pick, 4) == found[:4]


def test_allocated_picks_lose_least_for_their_time() -> None:
    """Against all 3 x 2 x 2 picks, by the same model: errors add, shares of time multiply."""
    space = Space({}, {"a": (0.5, 0.75, 1.0), "b": (0.0, 1.0), "c": ("keep", "rule")})
    unedited = {"a": 1.0, "b": 1.0, "c": "keep"}
    known = {("a", 0.5): (0.6, 0.4), ("a", 0.75): (0.8, 0.1), ("b", 0.0): (0.5, 0.3), ("c", "rule"): (0.9, 0.2)}
    found = allocated(space, unedited, [alone(*one, *figures) for one, figures in known.items()])

    def modelled(pick: Mapping[str, Any]) -> tuple[float, float]:
        edits = [known[path, value] for path, value in pick.items() if value != unedited[path]]
        return math.prod(share for share, _ in edits), sum(lost for _, lost in edits)

    points = [modelled(dict(zip(space.choices, values, strict=True))) for values in product(*space.choices.values())]
    assert len(found) >= 3
    for pick in found:
        share, lost = modelled(pick)
        assert not any(other <= share and less < lost - 1e-9 for other, less in points)
    assert found[-1] == dict(space.smallest) | {"c": "rule"}


SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [0.7, 0.45])
def test_allocated_picks_meet_the_budget_closely(budget: float, seed: int) -> None:
    """Several edits save more than the knapsack takes them to; of half of the values no single edit is known."""
    rng = random.Random(seed)
    edits = [EditChoice(f"part {n}", (f"p{n}",), "channels", SHARES) for n in range(6)]
    edits += [EditChoice(f"stage {n}", (f"s{n}",), "blocks", (0.0, 0.5, 1.0)) for n in range(3)]
    space = Space({}, {edit.path: edit.values for edit in edits}, tuple(edits))
    weight = {path: rng.uniform(0.1, 0.3) for path in space.choices}
    worth = {path: rng.uniform(0.02, 0.1) for path in space.choices}

    def ms(pick: Mapping[str, Any]) -> float:
        whole = -sum(math.log(1 - weight[path] * (1 - share)) for path, share in pick.items())
        return 10 * math.exp(-whole - 0.15 * whole**2)

    def lost(pick: Mapping[str, Any]) -> float:
        return sum(worth[path] * (1 - share) ** 2 for path, share in pick.items())

    whole = dict.fromkeys(space.choices, 1.0)
    limit = budget * ms(whole)
    tried = [(path, value, {**whole, path: value}) for path, value in single_edits(space, whole, 27)]
    singles = [alone(path, value, ms(pick) / ms(whole), lost(pick)) for path, value, pick in tried]
    found = allocated(space, whole, singles, lambda pick: math.log(ms(pick) / limit))
    times = [ms(pick) / limit for pick in found]
    assert max(times) <= 1 + 1e-9
    assert sum(time > 0.75 for time in times) >= 7
    assert max(times) > 0.97
    for pick in found:
        assert kinds_changed(space, whole, pick) == {edit.kind for edit in edits if pick[edit.path] < 1}
    kinds = [{path.split()[0] for path, share in pick.items() if share < 1} for pick in found]
    assert {"edits.part"} in kinds or budget < 0.5  # which channels alone may not reach
    close = min(lost(pick) for pick, time in zip(found, times, strict=True) if time > 0.95)
    by_chance = []
    while len(by_chance) < 200:
        pick = {path: rng.choice(values) for path, values in space.choices.items()}
        by_chance += [lost(pick)] if 0.95 * limit < ms(pick) <= limit else []
    assert close < sorted(by_chance)[2]  # as good as the best hundredth


def test_values_between_those_tried_alone() -> None:
    """Of the form that is assumed, linear in the logarithm of time and quadratic in the error, all are exact."""
    space = Space({}, {"a": SHARES, "input_hw": ("64x64", "96x96", "128x128"), "kind": ("keep", "x", "y")})
    unedited = {"a": 1.0, "input_hw": "128x128", "kind": "keep"}

    def one(path: str, value: Any, removed: float) -> SingleEdit:
        return alone(path, value, math.exp(-0.4 * removed), 0.3 * removed**2)

    singles = [one("a", 0.5, 0.5), one("a", 0.75, 0.25), one("input_hw", "96x96", 1 - 0.5625), one("kind", "x", 0.2)]
    options = options_of(space, unedited, singles)
    for path, removed_of in {"a": [1 - share for share in SHARES], "input_hw": [0.75, 0.4375, 0.0]}.items():
        assert {int(one.ratio) for one in options[path]} == set(range(len(removed_of)))
        for choice in options[path]:
            removed = removed_of[int(choice.ratio)]
            assert choice.time_ms == pytest.approx(-0.4 * removed)
            assert choice.loss == pytest.approx(0.3 * removed**2)
    assert [one.ratio for one in options["kind"]] == [0.0, 1.0]  # of another rule nothing is known


def test_the_error_of_maps_is_relative_and_of_one_size() -> None:
    """Of every map by itself, however large its values; over all batches; of a smaller map as if it were enlarged."""
    torch.manual_seed(0)
    given = [(torch.randn(batch, 3, 8, 8) * torch.tensor([1.0, 100.0, 0.0])[:, None, None],) for batch in (4, 1)]
    moved = [(maps.clone(),) for (maps,) in given]
    for (maps,) in moved:
        maps[:, 1] *= 0.9
    assert map_error(given, given) == 0
    assert map_error(moved, given) == pytest.approx(0.01 / 3)
    flat = [(torch.full((2, 1, 8, 8), 2.0), torch.full((2, 1, 5), 1.0))]
    smaller = [(torch.full((2, 1, 4, 4), 1.0), torch.full((2, 1, 3), 1.0))]
    assert map_error(smaller, flat) == pytest.approx((0.25 + 0) / 2)
    # A joint that no picture shows counts by what the others have: noise of a thousandth there is no loss.
    noisy = [(maps.clone(),) for (maps,) in given]
    for (maps,) in noisy:
        maps[:, 2] = 0.001
    assert map_error(noisy, given) < 1e-6
    assert map_error([(torch.full((1, 1, 4), math.nan),)], [(torch.ones(1, 1, 4),)]) == 1e6


# --- The budget as it is measured -------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [True, False])
def test_a_budget_in_predicted_time_is_met_in_measured_time(relative: bool) -> None:
    """The given network takes 1.1 times its prediction, candidates 1.02 times theirs."""
    limit, probes = Limit(0.6, relative=relative), tuple(Timed(ms, 1.02 * ms) for ms in (1.0, 1.2, 1.3))
    found = correction(limit, Timed(2.0, 2.2), probes)
    limit_ms = limit.absolute({"given": 2.0}) * found.factor
    assert 1.02 * limit_ms == pytest.approx(0.6 * 2.2 if relative else 0.6)


def test_a_budget_is_corrected_by_a_quarter_at_most_and_not_without_candidates() -> None:
    half = Limit(0.5, relative=True)
    above = correction(half, Timed(1.0, 9.0), (Timed(1.0, 1.0),))
    assert (above.factor, above.wanted) == (1.25, 9.0)
    assert correction(half, Timed(1.0, 1.0), (Timed(1.0, 9.0),)).factor == 0.8
    assert correction(half, Timed(1.0, 1.1), ()).factor == 1.0


def test_what_is_said_of_a_correction() -> None:
    given_times, probe, half = Timed(2.0, 2.2), Timed(1.0, 1.02), Limit(0.5, relative=True)
    assert correction(half, given_times, (probe,)).said(half, 1.0, "ncnn") == (
        "the given network takes 1.10 times its predicted time on ncnn, candidates of about the budget take 1.02 times "
        "theirs: 50% of the given network's time are 1.08 ms of predicted time, not 1"
    )
    assert correction(Limit(1.5), given_times, (probe,)).said(Limit(1.5), 1.5, "ncnn") == (
        "candidates of about the budget take 1.02 times their predicted time on ncnn: 1.5 ms are 1.47 ms of predicted "
        "time, not 1.5"
    )
    shaken = correction(half, Timed(2.0, 9.0, reliable=False), (probe,)).said(half, 1.0, "ncnn")
    assert shaken.endswith(
        "(more than 1.25 times is not corrected) (measured beside other programs: take it with care)"
    )
    assert correction(half, given_times, ()).said(half, 1.0, "ncnn").endswith("it is met as predicted")


def test_networks_are_measured_side_by_side_on_the_clock_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The median of three runs; a network takes as many hundredths of the reference as its input has rows."""
    monkeypatch.setattr(whole_networks, "load", lambda target, file: file)
    slowness, seen = iter((1.0, 3.0, 1.1)), []

    def time_runners(runners: Any, sizes: Mapping[str, tuple[int, int]], threads: int, rounds: int, _: object) -> Any:
        seen.append((sorted(runners), threads, rounds))
        times = next(slowness)
        return {
            name: Timing(1.0, 1.0, 1.0, times * height / 100, 1.0, 0, 0.01 if height < 64 else 0.5, 9)
            for name, (height, width) in sizes.items()
        }

    monkeypatch.setattr(whole_networks, "time_runners", time_runners)
    model = latency_model(tmp_path)
    monkeypatch.setattr(LatencyModel, "reference_ms", 2.0)
    network = nn.Conv2d(3, 4, 3)
    found = measured(model, 30, [(network, (32, 32)), (network, (64, 32))], Silent())
    assert [one and one[0] for one in found] == pytest.approx([2.0 * 0.32 * 1.1, 2.0 * 0.64 * 1.1])
    assert [one and one[1] for one in found] == [True, False]
    assert seen == [(["0 onnxruntime", "1 onnxruntime"], 1, 30)] * 3


def test_a_network_that_the_engine_refuses_has_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured all the same, and it is said."""
    monkeypatch.setattr(whole_networks, "time_runners", timed)
    model, said, progress = latency_model(tmp_path), list[str](), Silent()
    monkeypatch.setattr(LatencyModel, "reference_ms", 2.0)
    monkeypatch.setattr(progress, "say", said.append)
    refused = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((5, 7)))
    found = measured(model, 4, [(refused, (32, 32)), (nn.Conv2d(3, 4, 3), (32, 32))], progress)
    assert found[0] is None
    assert found[1]
    assert len(said) == 1
    assert said[0].startswith("a network cannot be measured on onnxruntime: ")
    assert measured(model, 4, [(refused, (32, 32))], progress) == [None]


@pytest.mark.parametrize("limit", [0.3, 0.05, 0.8])
def test_probes_are_near_the_budget(limit: float) -> None:
    """Time is the root of the product of shares, so one change is less than a quarter of it."""
    space = Space({}, dict.fromkeys("abcdefghijklmnop", (0.7, 0.8, 0.9, 1.0)))
    given_pick = dict.fromkeys(space.choices, 1.0)
    picks = near(space, given_pick, lambda pick: math.prod(pick.values()) ** (1 / 2), limit, seed=1)
    assert 1 <= len(picks) <= PROBES
    assert all(0.75 * limit <= math.prod(pick.values()) ** (1 / 2) <= 1.25 * limit for pick in picks)
    assert given_pick not in picks
    assert near(space, given_pick, lambda pick: 5.0, 1.0, seed=1) == []
    assert near(space, given_pick, lambda pick: 5.0, 5.0, seed=1) == [given_pick]


# --- The whole job ----------------------------------------------------------------------------------------------------


class CountedModel:
    """Stands for a latency table: a millisecond for a million multiply-adds."""

    target = Target("onnxruntime")
    reference_ms = 1.0

    def latency(self, network: nn.Module, input_hw: tuple[int, int]) -> Latency:
        return Latency(count(network, input_hw).macs / 1e6, "onnxruntime, 1 thread", "predicted")


def timed(runners: Mapping[str, object], *_: object) -> dict[str, Timing]:
    return dict.fromkeys(runners, Timing(2.0, 2.0, 2.0, 2.0, 2.0, 0, 0.01, 9))


def small(*overrides: str) -> SearchRecipe:
    settings = ["data={kind: synthetic, synthetic: {train: 8, search: 2, val: 2}}", "measurement.targets=[onnxruntime]"]
    settings += ["search.groups=1", "search.trials=8", "search.population=2", "search.calibration_pictures=4"]
    settings += ["finalists.count=1", "finalists.training.epochs=1", "finalists.training.batch_size=4"]
    settings += ["measurement.parity_pictures=1"]
    return recipe(*settings, *overrides)


def test_a_search_around_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "space_models", lambda task: {"onnxruntime": CountedModel()})
    monkeypatch.setattr(whole_networks, "time_runners", timed)
    progress, said = Silent(), list[str]()
    monkeypatch.setattr(progress, "say", said.append)
    torch.manual_seed(0)
    module = Own()
    settings = small("search.budget.latency=70%", "search.zero_cost={proxy: synflow, quantile: 0}")
    result = job.search(settings, tmp_path / "run", progress, open_network(module, (64, 64)))
    assert any("blocks of network.body: 0%, 25%, 50%, 75%, 100%" in line for line in said)
    assert read_space(tmp_path / "run" / "space.yaml").edits
    unedited, *others = result.trials
    limit_ms = 0.7 * unedited.cost.predicted_ms
    assert all(one.cost.predicted_ms <= limit_ms for one in others)
    assert max(one.cost.predicted_ms for one in others[:3]) > 0.75 * limit_ms  # the first are allocated
    tried = [(one.path, one.value) for one in result.single_edits]
    assert tried == single_edits(Space({}, result.space.choices), unedited.pick, 3 * 8)
    assert all(one.error > 0 and 0 < one.share < 1.2 for one in result.single_edits)
    # A search that is killed among the single edits goes on with the others.
    file, steps = tmp_path / "run" / "single_edits.jsonl", tmp_path / "run" / "steps"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == len(tried)
    file.write_text("".join(lines[:3]))
    for left in (tmp_path / "run" / "trials.jsonl", *steps.glob("*.json"), *steps.glob("tuned*.pt")):
        left.unlink()
    again = job.search(settings, tmp_path / "run", Silent(), open_network(module, (64, 64)))
    assert file.read_text().startswith("".join(lines[:3]))
    assert again.single_edits == result.single_edits
    assert [one.pick for one in again.trials] == [one.pick for one in result.trials]
    for network in result.networks:
        if network.role == "finalist":
            assert result.trial_of(network).cost.predicted_ms <= limit_ms
    assert result.start == "Own"
    assert result.zero_cost is not None
    assert (result.zero_cost.passed_over, result.zero_cost.trials) == (0, len(result.trials))


def latency_model(folder: Path) -> "CountedLatency":
    target = Target("onnxruntime")
    return CountedLatency(target, runtime_of(target), open_table(folder / "table.json", identity_of(target)))


class CountedLatency(LatencyModel):
    """The same where networks are measured too."""

    def latency(self, network: nn.Module, input_hw: tuple[int, int]) -> Latency:
        return Latency(count(network, input_hw).macs / 1e6, "onnxruntime, 1 thread", "predicted")


def test_a_share_is_of_the_time_that_the_given_network_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 1.1 times its predicted time, candidates 1.02 times theirs; measured until steady, whoever goes on."""
    measurements = list[int]()

    def measured(
        _: LatencyModel, rounds: int, networks: Sequence[tuple[nn.Module, tuple[int, int]]], progress: Progress
    ) -> list[tuple[float, bool]]:
        measurements.append(len(networks))
        steady = len(measurements) > 1  # the first time other programs make the given network slower
        factors = [1.1 if steady else 1.4, *[1.02] * (len(networks) - 1)]
        return [(factor * count(*one).macs / 1e6, steady) for factor, one in zip(factors, networks, strict=True)]

    monkeypatch.setattr(job_trials, "measured", measured)
    model = latency_model(tmp_path)
    progress, said = Silent(), list[str]()
    monkeypatch.setattr(progress, "say", said.append)
    network = open_network(Own(), (64, 64))
    task = prepared(small("search.budget.latency=70%"), tmp_path / "run", progress, network)
    given_ms = count(network.module, (64, 64)).macs / 1e6
    for _ in range(2):
        limits = job_trials.check_budget(task, {"onnxruntime": model})
        assert 1.02 * limits.most["onnxruntime"] == pytest.approx(0.7 * 1.1 * given_ms, rel=1e-6)
    assert measurements == [1 + PROBES] * 2
    assert any("takes 1.10 times its predicted time on onnxruntime" in line for line in said)


@pytest.mark.parametrize("slow", [(), (1, 2, 4), (1, 2, 3, 4, 5, 6, 7)])
def test_finalists_are_within_the_budget_as_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: tuple[int, ...]
) -> None:
    """Of seven candidates, the best scored first, the slow ones take 1.03 times the budget; the given network none."""
    task = prepared(small("search.budget.latency=70%"), tmp_path / "run", Silent(), open_network(Own(), (64, 64)))
    said, measurements = list[str](), list[list[float]]()
    monkeypatch.setattr(task.progress, "say", said.append)
    (given,) = task.baselines.values()
    path = next(iter(task.space.choices))
    picks = [given, *({**given, path: number} for number in range(1, 8))]
    score, cost = partial(Score, "AP", provenance="", data="", pictures=1, details={}), Cost(1, 1)
    trials = [
        Trial(number, pick, cost, score(value=1 - number / 10, standard_error=None))
        for number, pick in enumerate(picks)
    ]

    def measured_times(_: Any, __: Any, asked: Sequence[Pick]) -> list[tuple[float, bool] | None]:
        times = [200.0, *(140.0 * (1.03 if picks.index(pick) in slow else 1.015) for pick in asked[1:])]
        measurements.append([float(picks.index(pick)) for pick in asked])
        return [(ms, True) for ms in times]

    monkeypatch.setattr(finalists, "measured_times", measured_times)
    models: Any = {"onnxruntime": latency_model(tmp_path)}
    for _ in range(2):  # the second time as after a kill
        chosen = chosen_as_measured(task, models, trials, lambda among: [one for one in among if one.number][:2])
    fast = [number for number in range(1, 8) if number not in slow]
    assert [one.number for one in chosen] == (fast or [1, 2])[:2]
    assert (
        measurements
        == {0: [[0, 1, 2]], 3: [[0, 1, 2], [0, 3, 4], [0, 5]], 7: [[0, 1, 2], [0, 3, 4], [0, 5, 6], [0, 7]]}[len(slow)]
    )
    told = {
        0: None,
        3: "3 candidate(s) within the budget by predicted time take up to 103.0% of it",
        7: "all 7 candidates",
    }
    assert [line.startswith(str(told[len(slow)])) for line in said] == ([True, True] if slow else [])


def test_a_budget_that_nothing_meets_says_the_tightest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "space_models", lambda task: {"onnxruntime": CountedModel()})
    with pytest.raises(BudgetError, match=r"tightest seen: .* ms on onnxruntime") as caught:
        job.search(small("search.budget.latency=0.1%"), tmp_path / "run", Silent(), open_network(Own(), (64, 64)))
    assert "\n" not in str(caught.value)

"""Every criterion against its formula, written out with loops."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.errors import DataError, NetworkError, RecipeError
from compress.pruning.channels import follow_channels
from compress.pruning.groups import pruning_groups
from compress.pruning.importance import CRITERIA, Batch, Importance, importance
from tests.networks.small import SMALL


class Toy(nn.Module):
    """Six channels: made, normalised, followed depthwise, and read by two convolutions; z scales them when read."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.follow = nn.Conv2d(6, 6, 3, groups=6)
        self.one = nn.Conv2d(6, 2, 1)
        self.other = nn.Conv2d(6, 3, 3, padding=1)
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        self.z: Tensor | None = None

    def features(self, images: Tensor) -> Tensor:
        return torch.relu(self.follow(torch.relu(self.norm(self.make(images)))))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(images)
        if self.z is not None:
            x = x * self.z.view(1, -1, 1, 1)
        return self.one(x), self.other(x)


def loss(outputs: tuple[Tensor, Tensor]) -> Tensor:
    return outputs[0].square().mean() + (outputs[1] - 1).square().mean()


def pictures(count: int = 3) -> list[Batch]:
    return [(torch.randn(2, 3, 16, 16), loss) for _ in range(count)]


def scored(criterion: str, network: nn.Module, **data: Any) -> Importance:
    channels = follow_channels(network, (64, 64))
    return importance(criterion, network, channels, pruning_groups(channels, multiple=1), **data)


def in_order(found: Importance) -> list[float]:
    """Of the toy: classes are numbered in the order of its channels."""
    return [found.scores[member] for member in sorted(found.scores)]


def relative(*views: list[float]) -> list[float]:
    """The group-wise mean of values, each over its parameter's mean."""
    shares = [[value / (sum(view) / len(view)) for value in view] for view in views]
    return [sum(column) / len(column) for column in zip(*shares, strict=True)]


def norm(rows: Tensor, power: int) -> float:
    return sum(abs(float(w)) ** power for w in rows.detach().flatten()) ** (1 / power)


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_norms_of_filters(criterion: str, power: int) -> None:
    toy = Toy()
    expected = relative(*([norm(layer.weight[k], power) for k in range(6)] for layer in (toy.make, toy.follow)))
    assert in_order(scored(criterion, toy)) == pytest.approx(expected, rel=1e-5)


def test_fpgm_sums_distances_to_the_other_filters() -> None:
    toy = Toy()
    with torch.no_grad():
        toy.make.weight[4] = toy.make.weight[[0, 1, 2, 3, 5]].mean(0)
        toy.follow.weight[4] = toy.follow.weight[[0, 1, 2, 3, 5]].mean(0)
    views = [
        [sum(norm(w[k] - w[j], 2) for j in range(6)) for k in range(6)] for w in (toy.make.weight, toy.follow.weight)
    ]
    found = in_order(scored("fpgm", toy))
    assert found == pytest.approx(relative(*views), rel=1e-5)
    assert min(range(6), key=lambda k: found[k]) == 4  # the others' mean says least of its own


def test_batch_norm_is_its_scale() -> None:
    toy = Toy()
    assert in_order(scored("batch_norm", toy)) == pytest.approx(relative(toy.norm.weight.abs().tolist()), rel=1e-5)


def test_lamp_divides_by_what_is_at_least_as_large() -> None:
    toy = Toy()
    s = relative(*([norm(layer.weight[k], 2) ** 2 for k in range(6)] for layer in (toy.make, toy.follow)))
    expected = [s[k] / sum(other for other in s if other >= s[k]) for k in range(6)]
    found = in_order(scored("lamp", toy))
    assert found == pytest.approx(expected, rel=1e-5)
    assert max(found) == 1.0


def test_activation_is_what_is_read_times_the_weights() -> None:
    toy, data = Toy().eval(), pictures()
    with torch.no_grad():
        features = torch.cat([toy.features(images) for images, _ in data])
    read = [math.sqrt(sum(float(v) ** 2 for v in x.flatten()) / x.numel()) for x in features.movedim(1, 0)]
    views = [[read[k] * norm(layer.weight[:, k], 1) for k in range(6)] for layer in (toy.one, toy.other)]
    assert in_order(scored("activation", toy, batches=data)) == pytest.approx(relative(*views), rel=1e-4)


def test_activation_of_a_grouped_convolution_reads_its_own_group() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        features = network[1](network[0](images))
    rms = features.square().mean((0, 2, 3)).sqrt()
    w = network[2].weight.detach()  # [6,2,1,1]: outputs 0-2 read channels 0 and 1, outputs 3-5 channels 2 and 3
    view = [float(rms[i] * w[:3, i].abs().sum() + rms[2 + i] * w[3:, i].abs().sum()) for i in range(2)]
    found = scored("activation", network, batches=[(images, loss)])
    assert in_order(found)[:2] == pytest.approx(relative(view), rel=1e-4)


def gate_gradients(toy: Toy, data: list[Batch]) -> Tensor:
    """[N,6]: how the loss of each batch changes with a factor on a channel, by automatic differentiation."""
    rows = []
    for images, of in data:
        toy.z = torch.ones(6, requires_grad=True)
        rows.append(torch.autograd.grad(of(toy(images)), toy.z)[0])
    toy.z = None
    return torch.stack(rows)


def test_taylor_is_the_squared_gradient_of_a_gate() -> None:
    toy, data = Toy().eval(), pictures()
    expected = gate_gradients(toy, data).square().mean(0).tolist()
    assert in_order(scored("taylor", toy, batches=data)) == pytest.approx(expected, rel=1e-3)


def test_hessian_is_half_the_fisher_information_times_the_squared_weights() -> None:
    toy, data = Toy().eval(), pictures()
    weights = [toy.one.weight, toy.other.weight]
    expected = [0.0] * 6
    for images, of in data:
        for weight, gradient in zip(weights, torch.autograd.grad(of(toy(images)), weights), strict=True):
            for k in range(6):
                expected[k] += sum(
                    float(g) ** 2 * float(w) ** 2 / 2
                    for g, w in zip(gradient[:, k].flatten(), weight.detach()[:, k].flatten(), strict=True)
                ) / len(data)
    assert in_order(scored("hessian", toy, batches=data)) == pytest.approx(expected, rel=1e-4)


def test_a_loss_that_leaves_out_a_layer_gives_it_no_weight() -> None:
    toy = Toy().eval()
    data: list[Batch] = [(torch.randn(1, 3, 16, 16), lambda outputs: outputs[0].square().mean())]
    joint = []
    for images, of in data:
        gradient = torch.autograd.grad(of(toy(images)), toy.one.weight)[0]
        joint.append((gradient * toy.one.weight).sum((0, 2, 3)))
    expected = torch.stack(joint).square().mean(0).tolist()
    assert in_order(scored("taylor", toy, batches=data)) == pytest.approx(expected, rel=1e-4)


def test_random_is_seeded() -> None:
    toy = Toy()
    assert scored("random", toy, seed=1) == scored("random", toy, seed=1)
    assert scored("random", toy, seed=1) != scored("random", toy, seed=2)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", ["mobilenet_v3", "dir_bhrnet"])
def test_every_criterion_scores_every_class_and_leaves_the_network(criterion: str, name: str) -> None:
    network = SMALL[name].build().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    channels = follow_channels(network, (64, 64))
    parts = pruning_groups(channels, multiple=1)
    data = [(torch.randn(1, 3, 64, 64), lambda outputs: sum(map(torch.linalg.norm, outputs)))]
    found = importance(criterion, network, channels, parts, batches=data)
    assert set(found.scores) == {member for part in parts for member in part.members}
    assert all(math.isfinite(score) and score >= 0 for score in found.scores.values())
    assert len(set(found.scores.values())) > len(found.scores) / 10 or criterion == "batch_norm"
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_groups_without_a_norm_are_scored_by_l2_and_named() -> None:
    network = SMALL["mobilenet_v3"].build()
    found, norms = scored("batch_norm", network), scored("l2", network)
    channels = follow_channels(network, (64, 64))
    for part in pruning_groups(channels, multiple=1):
        if part.members:
            assert (part.name in found.substituted) == ("attention.squeeze" in part.name)
        if part.name in found.substituted:
            assert found.substituted[part.name] == "l2: no batch norm"
            assert all(found.scores[member] == norms.scores[member] for member in part.members)


def test_a_network_without_norms_cannot_be_scored_by_them() -> None:
    with pytest.raises(NetworkError, match=r"'batch_norm'.*no batch norm.*choose l2"):
        scored("batch_norm", SMALL["openpose"].build())


@pytest.mark.parametrize("criterion", [name for name, one in CRITERIA.items() if one.needs_data])
def test_a_criterion_that_needs_pictures_says_so(criterion: str) -> None:
    with pytest.raises(DataError, match="needs pictures"):
        scored(criterion, Toy())


def test_an_unknown_criterion_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'taylor'"):
        scored("tailor", Toy())  # type: ignore[arg-type]


def test_scores_that_are_not_finite_name_the_group() -> None:
    toy = Toy()
    with torch.no_grad():
        toy.make.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NetworkError, match=r"make: scores must be finite"):
        scored("l2", toy)


def test_batches_are_taken_one_at_a_time() -> None:
    def stream() -> Iterator[Batch]:
        yield from pictures(2)

    assert set(scored("hessian", Toy(), batches=stream()).scores)

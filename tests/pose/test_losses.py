"""Losses against the formulas written as loops."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from compress.errors import DataError
from compress.pose.approaches.associative_embedding import bottom_up_loss, pull_and_push, pull_and_push_of_dir_bhrnet
from compress.pose.approaches.part_affinity import part_affinity_loss
from compress.pose.approaches.top_down import top_down_loss
from compress.pose.objective import PoseLoss, weighted_mse

torch.set_num_threads(1)


@dataclass(frozen=True)
class Batch:
    maps: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    joints: Tensor | None = None


def random_joints(generator: torch.Generator, batch: int, people: int, shape_khw: tuple[int, int, int]) -> Tensor:
    joints, height, width = shape_khw
    cell = torch.randint(height * width, (batch, people, joints), generator=generator)
    visible = torch.randint(2, (batch, people, joints), generator=generator)
    visible *= torch.rand(batch, people, 1, generator=generator) < 0.7  # some people show nothing
    return torch.stack([(cell + torch.arange(joints) * height * width) * visible, visible], dim=-1)


def person_tags(tags_khw: Tensor, joints_pk2: Tensor) -> list[list[float]]:
    flat = tags_khw.flatten().tolist()
    people = [[flat[index] for index, visible in person if visible] for person in joints_pk2.tolist()]
    return [person for person in people if person]


def by_loops(tags: Tensor, joints: Tensor) -> tuple[float, float]:
    """HigherHRNet's AELoss."""
    pulls, pushes = [], []
    for picture in range(len(tags)):
        people = person_tags(tags[picture], joints[picture])
        means = [sum(person) / len(person) for person in people]
        pull = sum(
            sum((tag - mean) ** 2 for tag in person) / len(person) for person, mean in zip(people, means, strict=True)
        )
        pairs = [(a, b) for a in range(len(means)) for b in range(len(means)) if a != b]
        near = sum(math.exp(-((means[a] - means[b]) ** 2)) for a, b in pairs)
        pulls.append(pull / len(people) if people else 0.0)
        pushes.append(0.5 * near / len(pairs) if pairs else 0.0)
    return sum(pulls) / len(pulls), sum(pushes) / len(pushes)


def by_loops_of_dir_bhrnet(tags: Tensor, joints: Tensor, sigma: float) -> tuple[float, float]:
    pull = push = 0.0
    for picture in range(len(tags)):
        people = person_tags(tags[picture], joints[picture])
        means = [sum(person) / len(person) for person in people]
        for a, person in enumerate(people):
            pull += sum((tag - means[a]) ** 2 for tag in person) / len(people)
            for b in range(len(people)):
                if a != b:
                    push += math.exp(-((means[a] - means[b]) ** 2) / (2 * sigma)) / len(people) ** 2
    return pull / len(tags), push / len(tags)


@pytest.mark.parametrize("people", [0, 1, 2, 7])
@pytest.mark.parametrize("seed", range(10))
def test_associative_embedding_is_the_formula(people: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tags = torch.randn(4, 5, 6, 7, dtype=torch.float64, generator=generator)
    joints = random_joints(generator, 4, people, (5, 6, 7))
    pull, push = pull_and_push(tags, joints)
    assert (pull.item(), push.item()) == pytest.approx(by_loops(tags, joints), abs=1e-12)
    for sigma in (0.5, 2.0):
        pull, push = pull_and_push_of_dir_bhrnet(tags, joints, sigma)
        assert (pull.item(), push.item()) == pytest.approx(by_loops_of_dir_bhrnet(tags, joints, sigma), abs=1e-12)


def test_one_person_is_pulled_and_not_pushed() -> None:
    tags = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    joints = torch.tensor([[[[0, 1], [1, 1]]]])
    pull, push = pull_and_push(tags, joints)
    assert (pull.item(), push.item()) == (1.0, 0.0)
    pull, push = pull_and_push_of_dir_bhrnet(tags, joints)
    assert (pull.item(), push.item()) == (2.0, 0.0)


def test_two_people_with_one_tag_are_pushed_most() -> None:
    tags = torch.zeros(1, 2, 1, 1)
    joints = torch.tensor([[[[0, 1], [0, 0]], [[0, 0], [1, 1]]]])
    assert pull_and_push(tags, joints)[1].item() == 0.5
    assert pull_and_push_of_dir_bhrnet(tags, joints)[1].item() == 0.5  # 2 ordered pairs / 2²


def test_invisible_joints_are_not_read() -> None:
    """Their index is ignored, even one that no map has; their cells get no gradient."""
    tags = torch.randn(1, 2, 2, 2, requires_grad=True)
    joints = torch.tensor([[[[1, 1], [10**9, 0]], [[6, 1], [-5, 0]]]])
    pull, push = pull_and_push(tags, joints)
    (pull + push).backward()
    assert tags.grad is not None
    assert set(tags.grad.flatten().nonzero().flatten().tolist()) == {1, 6}


@pytest.mark.parametrize("loss", [pull_and_push, pull_and_push_of_dir_bhrnet])
def test_gradients_are_right(loss: object) -> None:
    generator = torch.Generator().manual_seed(3)
    joints = random_joints(generator, 3, 4, (3, 4, 4))
    tags = torch.randn(3, 3, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: loss(values, joints), (tags,))  # type: ignore[operator]


def test_gradients_of_no_people_are_zero_and_finite() -> None:
    tags = torch.randn(2, 3, 4, 4, requires_grad=True)
    sum(pull_and_push(tags, torch.zeros(2, 5, 3, 2, dtype=torch.int64))).backward()  # type: ignore[union-attr]
    assert tags.grad is not None
    assert tags.grad.abs().max() == 0


def test_masked_cells_count_as_right() -> None:
    predicted = torch.ones(1, 2, 2, 2)
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    assert weighted_mse(predicted, torch.zeros(1, 2, 2, 2), mask).item() == 0.75


@pytest.mark.parametrize("scales", [1, 2])
def test_bottom_up_loss_is_the_weighted_sum(scales: int) -> None:
    generator = torch.Generator().manual_seed(scales)
    outputs = (torch.randn(2, 6, 4, 5, generator=generator), torch.randn(2, 3, 8, 10, generator=generator))[:scales]
    batch = Batch(
        maps=(torch.rand(2, 3, 4, 5, generator=generator), torch.rand(2, 3, 8, 10, generator=generator))[:scales],
        weights=(torch.ones(2, 1, 4, 5), torch.ones(2, 1, 8, 10))[:scales],
        joints=random_joints(generator, 2, 3, (3, 4, 5)),
    )
    assert batch.joints is not None
    weights = PoseLoss(heatmap=(2.0, 3.0)[:scales], pull=5.0, push=7.0)
    total, terms = bottom_up_loss(outputs, batch, weights)
    pull, push = by_loops(outputs[0][:, 3:], batch.joints)
    maps = [(output[:, :3] - target).square().mean() for output, target in zip(outputs, batch.maps, strict=True)]
    expected = {f"heatmap_{scale}": value.item() for scale, value in enumerate(maps)} | {"pull": pull, "push": push}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(
        sum(w * v for w, v in zip((*weights.heatmap, 5.0, 7.0), expected.values(), strict=True)), rel=1e-5
    )
    with pytest.raises(DataError, match="same scales"):
        bottom_up_loss(outputs, batch, PoseLoss(heatmap=(1.0,) * (scales + 1), pull=1.0, push=1.0))
    with pytest.raises(DataError, match="3 heatmaps and 3 tags"):
        bottom_up_loss((outputs[0][:, :5], *outputs[1:]), batch, weights)


def test_paper_tags_are_the_papers() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = (torch.randn(2, 6, 4, 5, generator=generator),)
    joints = random_joints(generator, 2, 3, (3, 4, 5))
    batch = Batch((torch.zeros(2, 3, 4, 5),), (torch.ones(2, 1, 4, 5),), joints)
    _, terms = bottom_up_loss(outputs, batch, PoseLoss((1.0,), 1.0, 1.0, paper_tags=True))
    expected = by_loops_of_dir_bhrnet(outputs[0][:, 3:], joints, 2.0)
    assert (float(terms["pull"]), float(terms["push"])) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_tags_is_refused() -> None:
    batch = Batch((torch.zeros(1, 3, 4, 4),), (torch.ones(1, 1, 4, 4),))
    with pytest.raises(DataError, match="where tags are read"):
        bottom_up_loss((torch.zeros(1, 6, 4, 4),), batch, PoseLoss((1.0,)))


def test_part_affinity_loss_is_half_the_summed_error_per_picture() -> None:
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(2, 5, 3, 4, generator=generator)
    stages = tuple(torch.randn(2, 5, 3, 4, generator=generator) for _ in range(3))
    mask = torch.ones(2, 1, 3, 4)
    mask[1, 0, 2, 1] = 0
    expected = 0.0
    for stage in stages:
        for b, c, y, x in torch.cartesian_prod(*(torch.arange(n) for n in target.shape)).tolist():
            expected += float(mask[b, 0, y, x] * (stage[b, c, y, x] - target[b, c, y, x]) ** 2) / 2 / 2
    assert part_affinity_loss(stages, Batch((target,), (mask,))).item() == pytest.approx(expected, rel=1e-5)
    assert part_affinity_loss(stages, Batch((target,), (mask,)), 0.5).item() == pytest.approx(expected / 2, rel=1e-5)
    with pytest.raises(DataError, match="maps of the targets"):
        part_affinity_loss((*stages, target[:, :4]), Batch((target,), (mask,)))


@pytest.mark.parametrize("hard_joints", [0, 2, 9])
def test_top_down_loss_is_the_mean_over_the_joints_that_count(hard_joints: int) -> None:
    generator = torch.Generator().manual_seed(hard_joints)
    outputs = tuple(torch.randn(3, 4, 5, 2, generator=generator) for _ in range(2))
    targets = tuple(torch.rand(3, 4, 5, 2, generator=generator) for _ in range(2))
    visible = (torch.rand(3, 4, 1, 1, generator=generator) < 0.7).float()
    expected = 0.0
    for factor, output, target in zip((2.0, 3.0), outputs, targets, strict=True):
        for person in range(3):
            errors = [
                sum(float(output[person, k, y, x] - target[person, k, y, x]) ** 2 for y in range(5) for x in range(2))
                * float(visible[person, k])
                / 10
                for k in range(4)
            ]
            counted = sorted(errors, reverse=True)[: hard_joints or 4]
            expected += factor * sum(counted) / len(counted) / 3
    batch = Batch(targets, (visible, visible))
    assert top_down_loss(outputs, batch, PoseLoss((2.0, 3.0)), hard_joints).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(DataError, match="same scales"):
        top_down_loss(outputs[:1], batch, PoseLoss((1.0,)))

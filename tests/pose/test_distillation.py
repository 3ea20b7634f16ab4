"""Distillation against the formulas, and networks left as they were."""

import pytest
import torch
from torch import nn

from compress.errors import DataError, NetworkError
from compress.pose.distillation import FeatureDistillation, map_distillation


def test_maps_by_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    student = [torch.randn(2, 5, 3, 4, generator=generator), torch.randn(2, 3, 6, 8, generator=generator)]
    teacher = [torch.randn(2, 5, 3, 4, generator=generator), torch.randn(2, 3, 6, 8, generator=generator)]
    expected = sum(
        weight * sum((a - b) ** 2 for a, b in zip(p.flatten().tolist(), t.flatten().tolist(), strict=True)) / p.numel()
        for weight, p, t in zip((2, 3), student, teacher, strict=True)
    )
    assert map_distillation(student, teacher, (2, 3)).item() == pytest.approx(expected, rel=1e-5)
    first = 2 * (student[0][:, :3] - teacher[0][:, :3]).square().mean() + 3 * (student[1] - teacher[1]).square().mean()
    assert map_distillation(student, teacher, (2, 3), channels=3).item() == pytest.approx(first.item())
    with pytest.raises(DataError, match="same shapes"):
        map_distillation(student, teacher[:1], (2, 3))


class Net(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride, 1)
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.last(self.first(images)),)


def test_equal_features_have_no_loss() -> None:
    teacher, student = Net(4, 2), Net(4, 2)
    student.load_state_dict(teacher.state_dict())
    features = FeatureDistillation(teacher, student, {"first": "first"}, (8, 8))
    assert not list(features.parameters())
    images = torch.randn(2, 3, 8, 8)
    teacher(images)
    student(images)
    assert features().item() == 0


def test_features_by_the_formula_and_where_gradients_flow() -> None:
    torch.manual_seed(0)
    teacher, student = Net(6, 2), Net(4, 4)
    student.train()
    features = FeatureDistillation(teacher, student, {"first": "first"}, (16, 16))
    assert student.training
    images = torch.randn(2, 3, 16, 16)
    wanted = teacher.first(images).detach()
    given = nn.functional.interpolate(
        features.adapters[0](student.first(images)), size=(8, 8), mode="bilinear", align_corners=False
    )
    expected = ((given - wanted) ** 2).mean() / wanted.var()
    teacher(images)
    student(images)
    loss = features()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.first.weight.grad is not None
    assert features.adapters[0].weight.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    features.stop()
    assert not teacher.first._forward_hooks
    assert not student.first._forward_hooks


def test_features_heard_under_autocast() -> None:
    """As training on a GPU does: the networks answer in bfloat16, the adapters are float32."""
    teacher, student = Net(6, 2), Net(4, 4)
    features = FeatureDistillation(teacher, student, {"first": "first"}, (16, 16))
    images = torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        teacher(images)
        student(images)
    features().backward()  # type: ignore[no-untyped-call]
    assert student.first.weight.grad is not None


def test_features_that_cannot_be_taken() -> None:
    teacher = Net(4, 2)
    with pytest.raises(NetworkError, match="the student must have the module"):
        FeatureDistillation(teacher, Net(4, 2), {"first": "frist"}, (8, 8))
    assert not teacher.first._forward_hooks
    with pytest.raises(NetworkError, match=r"one \[B,C,h,w\] output"):
        FeatureDistillation(nn.Sequential(Net(4, 2)), Net(4, 2), {"0": "first"}, (8, 8))

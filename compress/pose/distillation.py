"""Learning from another network's maps (Hinton et al., 2015) and features (Romero et al., "FitNets", 2015).

map_distillation → the student's maps follow the teacher's; in-place, the teacher is the supernet's largest candidate
FeatureDistillation → layers of the student follow layers of the teacher

Tags are not distilled: only differences between a picture's tags mean something (Newell et al., 2017), so two networks
that group alike may give different tags; they keep the label loss.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data.normalisation import Normalisation
from compress.data.transforms import renormalised
from compress.errors import DataError, NetworkError


def map_distillation(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Sequence[float], channels: int | None = None
) -> Tensor:
    """Weighted sum over the outputs of the mean squared difference of the maps.

    student, teacher: outputs [B,C,h,w]. weights: one per output. channels: only the first so many are compared; None:
    all. Raises DataError if the two networks' outputs differ in shape.
    """
    check_same_shapes(student, teacher)
    terms = [
        weight * (p[:, :channels] - t[:, :channels].detach()).square().mean()
        for p, t, weight in zip(student, teacher, weights, strict=True)
    ]
    return torch.stack(terms).sum()


def check_same_shapes(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """Raises DataError if the two networks' outputs differ in shape."""
    if [o.shape for o in student] != [o.shape for o in teacher]:
        raise DataError(
            "teacher and student must have outputs of the same shapes",
            place="distillation",
            value=([tuple(o.shape) for o in teacher], [tuple(o.shape) for o in student]),
            remedy="choose a teacher with the same head, joints and input size",
        )


class OtherInputs(nn.Module):
    """A network that gets inputs of another normalisation than its own, [B,3,H,W]; its module is `network`."""

    def __init__(self, network: nn.Module, given: Normalisation, own: Normalisation) -> None:
        super().__init__()
        self.network, self.given, self.own = network, given, own

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        """The network's outputs for the same pictures."""
        outputs: Sequence[Tensor] = self.network(renormalised(images, self.given, self.own))
        return outputs


class FeatureDistillation(nn.Module):
    """Records the outputs of layers of two networks; its parameters are 1x1 convolutions where their channels differ.

    Its value after both have seen the same batch is the mean over the pairs of the mean squared difference between
    teacher's and student's features, both divided by the standard deviation of the teacher's, so that no layer
    outweighs the others by its scale. The student's features are resized bilinearly where the sizes differ.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, pairs: Mapping[str, str], input_hw: tuple[int, int]
    ) -> None:
        """pairs: module of the teacher → module of the student, by dotted names. Both networks are run once on zeros.

        Raises NetworkError for a name that does not exist or a module that does not give one [B,C,h,w] map.
        """
        super().__init__()
        self._recorded: dict[str, Tensor] = {}
        self._pairs = [(f"teacher {one}", f"student {other}") for one, other in pairs.items()]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        device = next(student.parameters()).device
        try:
            for network, role, paths in ((teacher, "teacher", pairs.keys()), (student, "student", pairs.values())):
                for path in paths:
                    self._handles.append(_record(network, path, role, self._recorded))
                training = network.training
                with torch.no_grad():
                    network.eval()(torch.zeros(1, 3, *input_hw, device=device))
                network.train(training)
        except NetworkError:
            self.stop()
            raise
        self.adapters = nn.ModuleList(
            nn.Identity() if wanted == given else nn.Conv2d(given, wanted, 1)
            for wanted, given in ((self._recorded[t].shape[1], self._recorded[p].shape[1]) for t, p in self._pairs)
        ).to(device)

    def forward(self) -> Tensor:
        """The loss of the last batch both networks saw. Gradients flow to the student and the adapters."""
        terms = []
        for adapter, (teacher, student) in zip(self.adapters, self._pairs, strict=True):
            wanted, given = (
                self._recorded[teacher].detach().float(),
                adapter(self._recorded[student].float()),
            )  # bfloat16 or float16 under autocast
            if given.shape[2:] != wanted.shape[2:]:
                given = F.interpolate(given, size=wanted.shape[2:], mode="bilinear", align_corners=False)
            terms.append((given - wanted).square().mean() / wanted.var().clamp(min=1e-6))
        return torch.stack(terms).mean()

    def stop(self) -> None:
        """Both networks are as they were."""
        for handle in self._handles:
            handle.remove()
        self._recorded.clear()


def _record(network: nn.Module, path: str, role: str, recorded: dict[str, Tensor]) -> torch.utils.hooks.RemovableHandle:
    try:
        module = network.get_submodule(path)
    except AttributeError:
        raise NetworkError(
            f"the {role} must have the module that its features are taken from",
            place="distillation.features",
            value=path,
            remedy="`compress profile` lists the layers' paths",
        ) from None

    def hook(module: nn.Module, inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise NetworkError(
                "features are taken from a module with one [B,C,h,w] output",
                place=f"distillation.features: {role} {path}",
                value=type(output).__name__,
                remedy="name a layer inside it",
            )
        recorded[f"{role} {path}"] = output

    return module.register_forward_hook(hook)

"""From what a module computed on real pictures to a replacement that computes nearly the same.

`fit` builds a rule's replacement and brings its output near the given module's, in three steps that the report shows:
random weights; weights carried over, with the last convolution solved for by least squares on what reaches it; and a
short reconstruction (Adam on the squared error of the site's output, as BRECQ, Li et al., ICLR 2021, does block by
block). The weights are fitted to the first three quarters of the pictures; the last quarter is held out, and what is
worse there than what was before is undone.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import DataError, NetworkError, nearest
from compress.rewriting.rule import Rule
from compress.rewriting.sites import Rewrite, place, rule_named

_AT_ONCE = 16  # pictures that pass through a module together
_STATISTICS = 64  # pictures that batch-norm statistics are of, at most
_ROWS, _ROWS_AT_ONCE = 16384, 2048  # sampled positions of a least-squares problem, about, and of one part of it
_UNKNOWNS = 2400  # per output channel, at most: 3x3 of 256 channels, some 10 s on one core
_RIDGE = 1e-6  # of the mean squared input
_ROUNDS = 3  # of least squares behind a ReLU
_LINEAR = 1e-3  # relative error at which a response still counts as linear
_DEAD = 1e-6  # of the largest slope: outputs that a convolution does not move
_BATCH, _RATE, _LOOKS = 8, 2e-3, 10  # Adam: pictures per step, learning rate at first, times that the error is taken


@dataclass(frozen=True)
class Seen:
    """What went into a module and what came out, [N,C,h,w] each, row by row of the same pictures.

    For a site behind others that are rewritten already, take the inputs from `record` on the partly rewritten network
    and the outputs from `record` on the given one: the replacement then also makes up for what the earlier ones lost.
    """

    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class Fitted:
    """A site's output error with random, carried-over and reconstructed weights, on held-out pictures.

    Mean squared error over the variance of the given outputs around their channels' means: 0 is the same output, 1 no
    better than a constant per channel. Constant outputs are compared with their mean square instead, zeros with 1.
    """

    random: float
    carried: float
    reconstructed: float


def record(network: nn.Module, paths: Sequence[str], batches: Iterable[Tensor], *, limit: int) -> dict[str, Seen]:
    """Inputs and outputs of the modules at these dotted paths, in evaluation mode. The network is left as it was.

    batches: of pictures [B,3,H,W]; limit: pictures that are recorded. A module that runs several times has as many
    times the rows. Raises NetworkError for a path that is none, and a module that is not one tensor in, one out.
    """
    copied = copy.deepcopy(network).eval()
    modules = dict(copied.named_modules(remove_duplicate=False))
    recorders = {path: _Recorder(path) for path in paths}
    for path, recorder in recorders.items():
        if path not in modules:
            raise NetworkError("the network has no such module", place=path, remedy=nearest(path, modules))
        modules[path].register_forward_pre_hook(recorder.before, with_kwargs=True)
        modules[path].register_forward_hook(recorder.after)
    left = limit
    with torch.no_grad():
        for batch in batches:
            copied(batch[:left])
            left -= len(batch)
            if left <= 0:
                break
    return {path: recorder.seen() for path, recorder in recorders.items()}


def fit(rule: Rule, given: nn.Module, seen: Seen, *, steps: int, seed: int) -> tuple[nn.Module, Fitted]:
    """The rule's replacement of the given module, in evaluation mode, and its errors. The given module is not changed.

    seen: at least 2 rows, on the module's device; see Seen for chains of sites. steps: of reconstruction, 0 for none.
    Exact rules and replacements without weights are not fitted. Raises DataError for too few or unpaired rows,
    NetworkError if the replacement gives another shape or anything is not finite.
    """
    devices = [seen.inputs.device] if seen.inputs.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        replacement = rule.build(given).eval()
        fitted_to, held_out = _parted(rule, replacement, seen)
        random = _error(replacement, held_out)
        rule.carry(given, replacement)
        best = _Best(replacement, held_out)
        if rule.exact or not any(parameter.requires_grad for parameter in replacement.parameters()):
            return replacement, _finite(rule, Fitted(random, best.error, best.error))
        _set_statistics(replacement, fitted_to.inputs, keep_function=False)
        best.keep_better()
        _solve_end(replacement, fitted_to)
        best.keep_better()
        carried = best.error
        if steps:
            _reconstruct(replacement, fitted_to, steps, best.keep_if_better)
            _solve_end(replacement, fitted_to)
            best.keep_better()
        _set_statistics(replacement, fitted_to.inputs, keep_function=True)
    return replacement, _finite(rule, Fitted(random, carried, best.error))


def fit_sites(
    network: nn.Module,
    rewrites: Iterable[Rewrite],
    pictures: Sequence[Tensor],
    *,
    limit: int,
    steps: int,
    seed: int,
    progress: Callable[[str], None] = lambda path: None,
) -> tuple[nn.Module, dict[str, Fitted]]:
    """A copy of the network with fitted replacements, and the errors of each that has weights: path → Fitted.

    One site after the other, in the network's order, is fitted to the given module's outputs, from what reaches it
    behind those before it; see Seen. One by one, so that what many modules saw does not lie in memory together.
    pictures: batches [B,3,H,W], of which `limit` pictures count. progress: called with the path of every site that is
    done. Raises what `record` and `fit` do.
    """
    order = {path: number for number, (path, _) in enumerate(network.named_modules())}
    copied, errors = copy.deepcopy(network), {}
    for one in sorted(rewrites, key=lambda one: order[one.at]):
        rule, old = rule_named(one.rule), copied.get_submodule(one.at)
        new = rule.build(old)
        if any(True for _ in new.parameters()):
            inputs = record(copied, [one.at], pictures, limit=limit)[one.at].inputs
            outputs = record(network, [one.at], pictures, limit=limit)[one.at].outputs
            new, errors[one.at] = fit(rule, old, Seen(inputs, outputs), steps=steps, seed=seed)
        place(copied, old, new)
        progress(one.at)
    return copied, errors


# --- Recording -------------------------------------------------------------------------------------------------------


class _Recorder:
    """Hooks of one module, and what they saw. Copies: what runs later may work in place."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def before(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if named or len(given) != 1 or not isinstance(given[0], Tensor):
            what = f"{len(named)} by name" if named else ", ".join(type(one).__name__ for one in given)
            raise self._refused(f"reads {what}")
        self.inputs.append(given[0].clone())

    def after(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            raise self._refused(f"gives {type(output).__name__}")
        self.outputs.append(output.clone())

    def seen(self) -> Seen:
        shapes = {(before.shape[1:], after.shape[1:]) for before, after in zip(self.inputs, self.outputs, strict=True)}
        if len(shapes) != 1:
            raise self._refused(f"runs with {len(shapes)} sizes of maps" if shapes else "never runs")
        return Seen(torch.cat(self.inputs), torch.cat(self.outputs))

    def _refused(self, value: str) -> NetworkError:
        return NetworkError(
            "a module that is replaced reads one tensor and gives one, of the same size in every picture",
            place=self.path,
            value=value,
            remedy="leave this site as it is",
        )


# --- The error -------------------------------------------------------------------------------------------------------


def _parted(rule: Rule, replacement: nn.Module, seen: Seen) -> tuple[Seen, Seen]:
    """The rows that weights are fitted to, and the last quarter, which is held out. Raises what `fit` does."""
    rows = len(seen.inputs)
    if rows < 2 or rows != len(seen.outputs):
        raise DataError(
            "a replacement is fitted to 2 pictures or more, inputs and outputs of the same ones",
            place=f"rule {rule.name}",
            value=f"{rows} inputs, {len(seen.outputs)} outputs",
            remedy="record more pictures",
        )
    if not (seen.inputs.isfinite().all() and seen.outputs.isfinite().all()):
        raise NetworkError("activations must be finite", place=f"rule {rule.name}", remedy="mend the network's weights")
    shape = _output(replacement, seen.inputs[:1]).shape[1:]
    if shape != seen.outputs.shape[1:]:
        raise NetworkError(
            f"a replacement must give the shape of the given module, {tuple(seen.outputs.shape[1:])}",
            place=f"rule {rule.name}",
            value=tuple(shape),
            remedy="leave this site as it is",
        )
    first = rows - max(1, rows // 4)
    return Seen(seen.inputs[:first], seen.outputs[:first]), Seen(seen.inputs[first:], seen.outputs[first:])


def _finite(rule: Rule, fitted: Fitted) -> Fitted:
    """Raises NetworkError for errors that are not."""
    if not all(math.isfinite(error) for error in (fitted.random, fitted.carried, fitted.reconstructed)):
        raise NetworkError(
            "a replacement must give finite outputs",
            place=f"rule {rule.name}",
            value=fitted,
            remedy="leave this site as it is",
        )
    return fitted


def _output(module: nn.Module, inputs: Tensor) -> Tensor:
    """The module's output. The inputs stay as they are, also where the module works in place."""
    with torch.no_grad():
        output: Tensor = module(inputs.clone())
    return output


def _chunks(seen: Seen) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and outputs of a few pictures at a time."""
    yield from zip(torch.split(seen.inputs, _AT_ONCE), torch.split(seen.outputs, _AT_ONCE), strict=True)


def _error(module: nn.Module, seen: Seen) -> float:
    """See Fitted; infinite where the module's output is not finite."""
    squares = sum(float((_output(module, x) - y).double().square().sum()) for x, y in _chunks(seen))
    error = squares / seen.outputs.numel() / _scale(seen.outputs)
    return error if math.isfinite(error) else math.inf


def _scale(outputs: Tensor) -> float:
    """What squared errors are relative to: the variance of [N,C,...] around the channels' means, see Fitted."""
    channels = outputs.double().transpose(0, 1).flatten(1)
    variance, square = float(channels.var(1, correction=0).mean()), float(channels.square().mean())
    return variance if variance > 1e-12 * square else square or 1.0


class _Best:
    """The least error on the held-out pictures so far, and the state of the replacement that had it."""

    def __init__(self, replacement: nn.Module, held_out: Seen) -> None:
        self._replacement, self._held_out = replacement, held_out
        self.error = _error(replacement, held_out)
        self._state = copy.deepcopy(replacement.state_dict())

    def keep_if_better(self) -> None:
        """Remembers the present state if it is the best."""
        error = _error(self._replacement, self._held_out)
        if error < self.error:
            self.error, self._state = error, copy.deepcopy(self._replacement.state_dict())

    def keep_better(self) -> None:
        """Remembers the present state if it is the best, else goes back to the best."""
        self.keep_if_better()
        self._replacement.load_state_dict(self._state)


# --- Batch norms -----------------------------------------------------------------------------------------------------


def _set_statistics(module: nn.Module, inputs: Tensor, *, keep_function: bool) -> None:
    """Sets every batch norm's statistics to those of what reaches it. Changes the module.

    keep_function: scale and shift are changed with them, so that the output stays what it was; then a later
    recalibration of the network changes nothing either. Else channels that are constant keep theirs: there is no scale
    to learn from them, and 1/sqrt(eps) is none.
    """

    def adapt(norm: nn.Module, given: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(given[0], (0, 2, 3), correction=0)
        if keep_function:
            slope = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias.add_(slope * (mean - norm.running_mean))
            norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        alive = torch.ones_like(variance, dtype=torch.bool) if keep_function else variance > norm.eps
        norm.running_mean[alive] = mean[alive]
        norm.running_var[alive] = variance[alive]

    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.affine and m.track_running_stats]
    with _hooks([norm.register_forward_pre_hook(adapt) for norm in norms]):
        _output(module, inputs[:_STATISTICS])


@contextmanager
def _hooks(handles: Sequence[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Removes the hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- Least squares ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _End:
    """How a module ends: the convolution that runs last, and what runs behind it.

    norm: a batch norm. relu: what gives the module's output.
    """

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    relu: nn.ReLU | None


def _solve_end(module: nn.Module, seen: Seen) -> None:
    """Changes the last convolution by what brings the output nearest, by ridge regression towards what it is now.

    Only where the output, before a ReLU, is linear in the convolution's, channel by channel: behind it may be batch
    norm and adding a shortcut. Elsewhere, and where the problem would be too large, the module stays as it is. Behind
    a ReLU, what shall be 0 may be anything negative: its target is where it is now, and it is solved for anew, in
    turns (Zhang et al., CVPR 2015).
    """
    end = _end(module, seen.inputs[:1])
    if end is None or end.conv.weight[0].numel() >= _UNKNOWNS:
        return
    slope = _slope(module, end, seen.inputs[:2])
    if slope is None:
        return
    for _ in range(_ROUNDS if end.relu else 1):
        _improve(module, end, slope, seen)


def _improve(module: nn.Module, end: _End, slope: Tensor, seen: Seen) -> None:
    """One least-squares problem on a sample of all positions, see `_solve_end`."""
    conv, intercept = end.conv, _intercept(end)
    unknowns, outputs = conv.weight[0].numel() + 1, conv.out_channels // conv.groups
    share = _ROWS / seen.outputs[:, 0].numel()
    gram = torch.zeros(conv.groups, unknowns, unknowns, dtype=torch.float64)
    right = torch.zeros(conv.groups, unknowns, outputs, dtype=torch.float64)
    for x, wanted in _chunks(seen):
        found, read = _outcome(module, end, x)
        if end.relu:
            wanted = torch.where(wanted > 0, wanted, found.clamp(max=0))
        missing = ((wanted - found) / slope[:, None, None]).movedim(1, -1)  # [N,h,w,O]
        sampled = (torch.rand(missing.shape[:3], device=found.device) < share).nonzero()
        for positions in torch.split(sampled, _ROWS_AT_ONCE):
            rows = _rows(conv, read, positions)
            targets = missing[tuple(positions.T)].double().cpu().view(-1, conv.groups, outputs).transpose(0, 1)
            gram += rows.mT @ rows
            right += rows.mT @ targets
    if intercept is None:
        gram, right = gram[:, :-1, :-1], right[:, :-1]
    ridge = (_RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)).clamp_min(torch.finfo(torch.float64).tiny)
    change = torch.linalg.solve(gram + ridge[:, None, None] * torch.eye(gram.shape[1]), right).mT.flatten(0, 1)
    with torch.no_grad():
        conv.weight += change[:, : unknowns - 1].reshape(conv.weight.shape).to(conv.weight)
        if intercept is not None:
            intercept += change[:, -1].to(intercept) * (1 if intercept is conv.bias else -1)


def _intercept(end: _End) -> Tensor | None:
    """What shifts the convolution's output by a constant per channel: its bias, or the mean that a norm subtracts."""
    if end.conv.bias is not None:
        return end.conv.bias
    return end.norm.running_mean if end.norm else None


def _end(module: nn.Module, inputs: Tensor) -> _End | None:
    """None if no convolution runs in the module, or the last one runs several times."""
    ran: list[nn.Module] = []
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.ReLU)]
    with _hooks([layer.register_forward_pre_hook(lambda layer, _: ran.append(layer)) for layer in layers]):
        output = _output(module, inputs)
    places = [place for place, layer in enumerate(ran) if isinstance(layer, nn.Conv2d)]
    if not places or ran.count(ran[places[-1]]) > 1:
        return None
    conv, *behind = ran[places[-1] :]
    assert isinstance(conv, nn.Conv2d)
    norm = next((layer for layer in behind if isinstance(layer, nn.BatchNorm2d)), None)
    relu = behind[-1] if behind and isinstance(behind[-1], nn.ReLU) else None
    end = _End(conv, norm, relu)
    rectified = relu is not None and torch.equal(_outcome(module, end, inputs)[0].relu(), output)
    return end if rectified else _End(conv, norm, None)


def _outcome(
    module: nn.Module, end: _End, inputs: Tensor, move: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The module's output, before the ReLU if it ends in one, and what the last convolution reads.

    move: added to the convolution's output, which it is given.
    """
    read: list[Tensor] = []
    before: list[Tensor] = []
    handles = [end.conv.register_forward_pre_hook(lambda _, given: read.append(given[0].clone()))]
    if move is not None:
        handles.append(end.conv.register_forward_hook(lambda _, given, output: output + move(output)))
    if end.relu is not None:
        handles.append(end.relu.register_forward_pre_hook(lambda _, given: before.append(given[0].clone())))
    with _hooks(handles):
        output = _output(module, inputs)
    return before[-1] if before else output, read[-1]


def _slope(module: nn.Module, end: _End, inputs: Tensor) -> Tensor | None:
    """How much each channel of the output moves with the convolution's, [O]; infinite for those that do not move.

    None unless all move linearly.
    """
    steps: list[Tensor] = []

    def at_random(output: Tensor) -> Tensor:
        steps.append(torch.randn_like(output) * (1 + output.abs().max()))
        return steps[0]

    still, one, far = (_outcome(module, end, inputs, move)[0] for move in (None, torch.ones_like, at_random))
    if still.shape != steps[0].shape:
        return None
    slope = (one - still).mean((0, 2, 3))
    expected, found = slope[:, None, None] * steps[0], far - still
    linear = (found - expected).norm() <= _LINEAR * found.norm()
    return torch.where(slope.abs() > _DEAD * slope.abs().max(), slope, torch.inf) if bool(linear) else None


def _rows(conv: nn.Conv2d, x: Tensor, positions_p3: Tensor) -> Tensor:
    """What the convolution reads at positions n, row, column of its output, and a 1: [groups,P,I·kh·kw + 1]."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = F.pad(x, conv._reversed_padding_repeated_twice, mode)
    picture, *corner = positions_p3.T
    rows, columns = (
        at[:, None] * conv.stride[dim] + torch.arange(conv.kernel_size[dim], device=x.device) * conv.dilation[dim]
        for dim, at in enumerate(corner)
    )
    patches = padded[picture[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [P,kh,kw,I]
    grouped = patches.movedim(-1, 1).reshape(len(picture), conv.groups, conv.weight[0].numel()).transpose(0, 1)
    return F.pad(grouped.double().cpu(), (0, 1), value=1.0)


# --- Reconstruction --------------------------------------------------------------------------------------------------


def _reconstruct(module: nn.Module, seen: Seen, steps: int, look: Callable[[], None]) -> None:
    """Adam with a cosine schedule on the outputs' squared error, batch norms at their statistics. Changes the module.

    look: called now and then, and after the last step.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    scale = _scale(seen.outputs)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _RATE * (1 + math.cos(math.pi * step / steps)) / 2
        rows = torch.randint(len(seen.inputs), (_BATCH,)).to(seen.inputs.device)
        loss = F.mse_loss(module(seen.inputs[rows]), seen.outputs[rows]) / scale
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % max(1, steps // _LOOKS) == 0 or step + 1 == steps:
            look()
    for parameter in parameters:
        parameter.grad = None

"""`compress prune --compare torch-pruning`: another pruner's network for the same goal, beside ours.

Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, https://github.com/VainF/Torch-Pruning, used as its
README shows it: its dependency graph, its group magnitude importance, one ratio for all layers, no rounding. Layers
that make the network's outputs, and those that the recipe protects, keep their channels. The ratio is corrected until
the goal is met, with the same tries, counts and timings as ours; then the network is tuned, scored, exported and timed
as ours is. The only file that imports torch-pruning.
"""

import copy
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from compress.artefacts.artefact import CHANNELS_PRUNED, Edit, edited, give_weights
from compress.artefacts.results import OtherPruner
from compress.errors import NetworkError
from compress.jobs.change import tune_changed
from compress.jobs.finalise import Finalist, finish
from compress.jobs.prune.goal import Task, Try, Unit, meet, requested_share, time_share
from compress.measure.counting import count
from compress.pruning.structured import TOLERANCE, difference, maps_of, precise, random_weights

SECONDS = 300.0
"""After which torch-pruning counts as failed: on channel shuffles its search for dependent layers does not end."""

_LINE = 300  # characters of a failure

Removal = tuple[str, bool, list[int]]
"""One entry of torch-pruning's history: a layer's name, whether its outputs (else its inputs) lose channels, which."""


def prune_by_torch_pruning(task: Task) -> OtherPruner:
    """Its network, scored, saved and exported in the folder `torch_pruning` of the run, or why there is none.

    Raises nothing that it or the network does: the job goes on without it.
    """
    original = task.original
    pruner = f"torch-pruning {version('torch-pruning')}"
    edits = original.edits if CHANNELS_PRUNED in original.edits else (*original.edits, CHANNELS_PRUNED)
    try:
        network = original.module
        for number in range(1, task.recipe.pruning.steps + 1):
            choose = partial(choose_removals, task, network, number)
            removals = task.run.once(f"torch_pruning_choice_{number}", choose, list[Removal])
            network = checked(network, removals, original.input_hw)
            title = f"fine-tuning torch-pruning's network, step {number}"
            tune_changed(task, network, f"torch_pruning_tuned_{number}", title)
        check_rebuilt(network, original.architecture.build(), edits, original.input_hw)
        finalist = Finalist(
            name="torch_pruning",
            role="compared",
            network=network,
            architecture=original.architecture,
            edits=edits,
            folder="torch_pruning",
            provenance=f"pruned by {pruner} and fine-tuned" if task.learning else f"pruned by {pruner}, not tuned",
            made_from=original.name,
        )
        return OtherPruner(pruner, finish(task.tail, finalist))
    except OSError:  # a full disk is ours too
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        return OtherPruner(pruner, None, failure=f"{type(error).__name__}: {text}"[:_LINE])


def choose_removals(task: Task, network: nn.Module, number: int) -> list[Removal]:
    """What torch-pruning takes from the network in this step to come to the goal."""
    requested, input_hw = task.recipe.pruning, task.original.input_hw

    def remove(ratio: float) -> list[Removal]:
        return removals_of(network, ratio, input_hw, requested.protect)

    if requested.ratio is not None:
        return remove(1 - (1 - requested.ratio) ** (1 / requested.steps))
    given = count(task.original.module, input_hw).macs

    def true_share(removals: list[Removal]) -> float:
        smaller = replayed(network, removals, input_hw)
        if requested.macs is not None:
            return count(smaller, input_hw).macs / given
        return time_share(task, smaller)

    goal = (requested.macs or requested_share(task)) ** (number / requested.steps)
    # predicted: a layer that loses a share of its inputs and outputs costs the square of what stays
    start = Try[list[Removal]]([], 1.0, true_share([]))
    unit: Unit = "time" if requested.macs is None else "multiply-adds"
    removals, _ = meet(task, goal, unit, start, lambda aim: remove(1 - min(aim, 1.0) ** 0.5), [], true_share)
    return removals


def removals_of(
    network: nn.Module, ratio: float, input_hw: tuple[int, int], protected: Sequence[str] = ()
) -> list[Removal]:
    """What torch-pruning takes from every layer at this ratio of channels. The network stays as it is."""
    pruned = _trainable_copy(network)
    ignored = [module for name, module in pruned.named_modules() if any(fnmatchcase(name, one) for one in protected)]
    with _at_work():
        pruner = torch_pruning.pruner.BasePruner(
            pruned,
            _image(input_hw),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[*ignored, *_output_layers(pruned, input_hw)],
            # its defaults are shared by all pruners of a process, and it writes into them
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
        )
        pruner.step()
    return [(name, bool(outputs), [int(n) for n in channels]) for name, outputs, channels in pruner.pruning_history()]


def replayed(network: nn.Module, removals: Sequence[Removal], input_hw: tuple[int, int]) -> nn.Module:
    """A copy of the network without these channels, as torch-pruning removes them."""
    pruned = _trainable_copy(network)
    with _at_work():
        _graph(pruned, input_hw).load_pruning_history(removals)
    return pruned


def checked(network: nn.Module, removals: Sequence[Removal], input_hw: tuple[int, int]) -> nn.Module:
    """replayed, compared with the network in which the removed weights are zero, with its and with random weights.

    Raises NetworkError if the outputs differ.
    """
    kept = _kept_weights(network, removals, input_hw)
    for seed, weights in enumerate((copy.deepcopy(network).cpu().eval(), random_weights(network))):
        silenced, image = precise(copy.deepcopy(weights), input_hw, seed)
        for name, parameter in silenced.named_parameters():
            if parameter.ndim > 1:  # nobody reads what biases and norms make of removed channels
                parameter.data *= kept[name]
        pruned = replayed(weights, removals, input_hw).to(image.dtype).eval()
        found = difference(silenced, pruned, image)
        if not found <= TOLERANCE:
            raise NetworkError(
                "a pruned network must do what the given one does without these channels",
                place="torch-pruning",
                value=f"its outputs differ by {found:.1e}",
                remedy="it cannot be compared on this network",
            )
    return replayed(network, removals, input_hw)


def check_rebuilt(network: nn.Module, fresh: nn.Module, edits: Sequence[Edit], input_hw: tuple[int, int]) -> None:
    """Raises an error unless the network's artefact can be read again. fresh: of its architecture; it changes."""
    rebuilt = edited(fresh, edits)
    give_weights(rebuilt, edits, network.state_dict())
    found = difference(network.eval(), rebuilt.eval(), torch.randn(1, 3, *input_hw))
    if not found <= TOLERANCE:
        raise NetworkError(
            "weights and architecture must give the network again",
            place="torch-pruning",
            value=f"outputs differ by {found:.1e}",
            remedy="it cannot be compared on this network",
        )


def _kept_weights(network: nn.Module, removals: Sequence[Removal], input_hw: tuple[int, int]) -> dict[str, Tensor]:
    """Parameter's name → 1 where a weight stays, 0 where it is removed: every weight is replaced by its own place in
    the parameter, and the places that are left after pruning are read off."""
    coded = _trainable_copy(network)
    given = dict(coded.named_parameters())
    kept = {name: torch.zeros(parameter.shape) for name, parameter in given.items()}
    with _at_work():
        graph = _graph(coded, input_hw)
        for parameter in given.values():
            parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape)
        graph.load_pruning_history(removals)
    for name, parameter in coded.named_parameters():
        kept[name].view(-1)[parameter.detach().flatten().long()] = 1
    return kept


def _trainable_copy(network: nn.Module) -> nn.Module:
    """On the CPU; torch-pruning follows gradients."""
    return copy.deepcopy(network).cpu().requires_grad_()


def _image(input_hw: tuple[int, int]) -> Tensor:
    return torch.randn(1, 3, *input_hw, generator=torch.Generator().manual_seed(0))


def _graph(network: nn.Module, input_hw: tuple[int, int], output_transform: Any = None) -> Any:
    """torch-pruning's dependency graph."""
    return torch_pruning.DependencyGraph().build_dependency(
        network, _image(input_hw), output_transform=output_transform
    )


def _output_layers(network: nn.Module, input_hw: tuple[int, int]) -> list[nn.Module]:
    """Layers whose channels reach the outputs, by torch-pruning's graph.

    An output that a layer makes has no node of its own there; a product with 1 gets one.
    """
    graph = _graph(network, input_hw, lambda outputs: [output * 1 for output in maps_of(outputs)])
    outputs = torch_pruning.ops.OPTYPE.OUTPUT
    return [
        group[0].dep.target.module
        for group in graph.get_all_groups()
        if any(item.dep.target.type == outputs for item in group)
    ]


@contextmanager
def _at_work() -> Iterator[None]:
    """While torch-pruning works: without its warnings, which are for those who call it, and for SECONDS at most.

    Other threads than the main one have no limit. Raises NetworkError.
    """

    def stop(*_: object) -> None:
        raise NetworkError(
            f"a network must be pruned within {SECONDS:.0f} s",
            place="torch-pruning",
            value="still at work",
            remedy="it cannot be compared on this network",
        )

    limited = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, stop) if limited else None
    try:
        if limited:
            signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)  # again and again: it catches whatever its tracing raises
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if limited:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

"""Parameters and multiply-adds of a network, in plain MACs and in each paper family's own convention.

The network runs once on the meta device, so nothing is computed. Plain MACs are counted operator by operator, wherever
an operator is called from; the papers' conventions module by module, as their tools do. An operator that has no rule
here is listed in `uncounted`, never taken as zero in silence.

Conventions
mac    multiply-adds of convolutions and matrix products; a transposed convolution at its input positions. Everything
       else (norms, activations, pools, sums, resizing) is none.
hrsum  (HRNet and HigherHRNet repositories) every convolution module, transposed too, = weights x output positions.
mmcv   (mmcv and old ptflops; DIR-BHRNet) modules: mac + biases, norms 2 per element, ReLU, ReLU6, PReLU, LeakyReLU, ELU
       1, pooling 1 per input element, upsampling 1 per output element; other activations none.
ptflops (older ptflops; Lite Pose) like mmcv, but a transposed convolution at its output positions.
ts     (torchstat as the Lite- and Dite-HRNet repositories have it) like mmcv, but pooling is window x output elements,
       adaptive pooling has windows one too large on each side, upsampling counts one channel, linear layers have no
       bias, a convolution with computed kernels counts as one, and a module that is called twice counts its last call.
"""

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from compress.measure.peak_memory import Lifetimes

Convention = Literal["mac", "hrsum", "mmcv", "ts", "ptflops"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORMS = (*_BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm)
_RELUS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.ELU)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE_POOLS = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)

# Operators without multiply-adds that torch does not tag as pointwise, reduction or view: norms, pools, resizing, data
# movement, and making tensors.
_FREE_OPERATORS = set(
    """
    native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm _batch_norm_no_update native_layer_norm
    native_group_norm _softmax _safe_softmax _log_softmax cumsum sort topk
    hardswish hardswish_ log_sigmoid_forward _prelu_kernel rrelu_with_noise glu
    avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
    upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d
    _upsample_bilinear2d_aa upsample_bicubic2d pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    _to_copy clone copy_ contiguous cat stack repeat unsafe_split unsafe_split_with_sizes _unsafe_view _reshape_copy
    transpose_ t_ squeeze_ unsqueeze_
    constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d flip roll tril triu
    index index_select index_put index_put_ gather scatter scatter_ embedding im2col col2im argmax argmin max min
    arange linspace full full_like zeros zeros_like ones ones_like empty empty_like empty_strided new_zeros new_ones
    new_full new_empty scalar_tensor lift_fresh detach rand_like randn_like bernoulli _local_scalar_dense
    """.split()  # noqa: SIM905
)

# Operators that work element by element and that torch does not tag so.
_BY_ELEMENT = set(
    """
    native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm _batch_norm_no_update
    hardswish hardswish_ log_sigmoid_forward _prelu_kernel rrelu_with_noise
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Layer:
    """One call of a module without submodules, or one operator that another module calls itself.

    path: of that module; '' is the network. kind: the module's class, or the operator's name, such as `add`. module:
    None for an operator. params: its own; 0 if an earlier layer has them. inputs, outputs: shapes of the first tensors.
    output_bytes: of all its outputs as they are, 0 for a view. operators: torch's names of what ran in it, in order.
    uncounted: those of them without a rule.
    """

    path: str
    kind: str
    module: nn.Module | None
    params: int
    macs: int
    hrsum: int
    mmcv: int
    ts: int
    ptflops: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_bytes: int
    operators: tuple[str, ...]
    uncounted: tuple[str, ...]


@dataclass(frozen=True)
class Trace:
    """One forward pass of a batch of one. layers: in the order they ran. outputs: shapes of the returned tensors.

    peak_bytes: of the activations that are needed at once, see compress.measure.peak_memory.
    """

    layers: tuple[Layer, ...]
    outputs: tuple[tuple[int, ...], ...]
    peak_bytes: int


@dataclass(frozen=True)
class Count:
    """One forward pass of a batch of one.

    params: all of the network's. macs, hrsum, mmcv, ts, ptflops: see the conventions. uncounted: operators without a
    rule.
    params_by_class_name: what tools find that add up every module whose class name contains Conv, BatchNorm or Linear,
    so that a block named like that counts once itself and once for its parts (EfficientHRNet's published figures).
    """

    params: int
    macs: int
    hrsum: int
    mmcv: int
    ts: int
    ptflops: int
    params_by_class_name: int
    uncounted: tuple[str, ...]

    def flops(self, convention: Convention) -> int:
        """The figure of that convention."""
        figures = {"mac": self.macs, "hrsum": self.hrsum, "mmcv": self.mmcv, "ts": self.ts, "ptflops": self.ptflops}
        return figures[convention]


def count(network: nn.Module, input_hw: tuple[int, int]) -> Count:
    """Counts one forward pass on a [1,3,H,W] input. The given network is left exactly as it was."""
    return total(network, trace(network, input_hw).layers)


def total(network: nn.Module, found: Sequence[Layer]) -> Count:
    """The sum of a network's layers."""
    last_call = {layer.path if layer.module else (layer.path, n): layer.ts for n, layer in enumerate(found)}
    by_class_name = sum(
        sum(parameter.numel() for parameter in module.parameters())
        for module in network.modules()
        if module is not network and any(word in type(module).__name__ for word in ("Conv", "BatchNorm", "Linear"))
    )
    return Count(
        params=sum(parameter.numel() for parameter in network.parameters()),
        macs=sum(layer.macs for layer in found),
        hrsum=sum(layer.hrsum for layer in found),
        mmcv=sum(layer.mmcv for layer in found),
        ts=sum(last_call.values()),
        ptflops=sum(layer.ptflops for layer in found),
        params_by_class_name=by_class_name,
        uncounted=tuple(sorted({name for layer in found for name in layer.uncounted})),
    )


def trace(network: nn.Module, input_hw: tuple[int, int]) -> Trace:
    """Every layer of one forward pass on a [1,3,H,W] input. The network is left as it was.

    A network that cannot run on the meta device (it reads a tensor's values, or makes tensors on the CPU) runs on the
    CPU. Its own exceptions pass through.
    """
    tensors = network.state_dict().values()
    if tensors and all(tensor.is_meta for tensor in tensors):
        return _run(network, input_hw, "meta")
    try:
        return _run(_without_values(network), input_hw, "meta")
    except Exception:
        return _run(copy.deepcopy(network).to("cpu"), input_hw, "cpu")


def _without_values(network: nn.Module) -> nn.Module:
    """A copy on the meta device in which one tensor of several modules is still one, as it is not after `.to`."""
    memo: dict[int, Tensor] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in network.buffers():
        memo.setdefault(id(buffer), buffer.to("meta"))
    return copy.deepcopy(network, memo)


def _run(network: nn.Module, input_hw: tuple[int, int], device: str) -> Trace:
    training = {module for module in network.modules() if module.training}
    recorder = _Recorder(network.eval())
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator where it is on
    try:
        # torch.device: tensors that a forward makes lie where the others are
        with torch.no_grad(), torch.device(device), sdpa_kernel(SDPBackend.MATH), recorder:
            picture = torch.zeros(1, 3, *input_hw, device=device)
            recorder.lifetimes.given(picture)
            outputs = network(picture)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        recorder.remove_hooks()
        for module in training:
            module.training = True
    returned = _tensors(outputs)
    peak_bytes = recorder.lifetimes.peak_bytes(returned)
    return Trace(tuple(recorder.layers), tuple(tuple(output.shape) for output in returned), peak_bytes)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Turns the operators of a forward pass into layers. Inside a module without submodules they are one layer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []
        self.lifetimes = Lifetimes()
        self._paths = {module: path for path, module in network.named_modules()}
        self._running: list[nn.Module] = [network]
        self._operators: list[tuple[str, int, tuple[str, ...]]] = []  # of the running module without submodules
        self._moves = False  # whether any of them is more than a view
        self._functional_ts = 0
        self._seen: set[int] = set()  # parameters that a layer has already
        self._hooks = [
            hook
            for module in network.modules()
            for hook in (module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave))
        ]

    def remove_hooks(self) -> None:
        """Leaves the modules as they were."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._running.append(module)
        self._operators, self._functional_ts, self._moves = [], 0, False

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._running.pop()
        if list(module.children()) or not self._operators:
            return
        inputs, outputs = _tensors(args), _tensors(output)
        x, y = (inputs or outputs)[0], outputs[0]
        of_module = _module_counts(module, x, y)
        self.layers.append(
            Layer(
                path=self._paths[module],
                kind=type(module).__name__,
                module=module,
                params=self._new_params(module),
                macs=sum(macs for _, macs, _ in self._operators),
                hrsum=of_module["hrsum"],
                mmcv=of_module["mmcv"],
                ts=of_module["ts"] if type(module).__module__.startswith("torch.nn") else self._functional_ts,
                ptflops=of_module["ptflops"] or of_module["mmcv"],
                inputs=tuple(x.shape),
                outputs=tuple(y.shape),
                output_bytes=_bytes(outputs) if self._moves else 0,
                operators=tuple(name for name, _, _ in self._operators),
                uncounted=tuple(sorted({name for _, _, names in self._operators for name in names})),
            )
        )
        self._operators = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator and counts it."""
        module, name = self._running[-1], func._schema.name.removeprefix("aten::")
        result = _result(func, name, args, kwargs or {})
        given, made = _tensors(args), _tensors(result)
        if not given or name == "detach":  # makes a constant
            if not given:
                self.lifetimes.constants(made)
            return result
        self.lifetimes.operator(given, made, by_element=torch.Tag.pointwise in func.tags or name in _BY_ELEMENT)
        macs, uncounted = _operator_macs(func, name, args, kwargs or {}, result)
        ts = _convolution_ts(args, result) if name == "convolution" else 0
        view = func.is_view or name == "_unsafe_view"
        if not list(module.children()):
            self._operators.append((name, macs, uncounted))
            self._functional_ts += ts
            self._moves |= not view
            return result
        if view:
            return result
        inputs, outputs = _tensors(args), _tensors(result)
        self.layers.append(
            Layer(
                path=self._paths[module],
                kind=name,
                module=None,
                params=self._new_params(module),
                macs=macs,
                hrsum=0,
                mmcv=0,
                ts=ts,
                ptflops=0,
                inputs=tuple(inputs[0].shape),
                outputs=tuple(outputs[0].shape) if outputs else (),
                output_bytes=_bytes(outputs),
                operators=(name,),
                uncounted=uncounted,
            )
        )
        return result

    def _new_params(self, module: nn.Module) -> int:
        """Of the module itself, without its submodules, as far as no earlier layer has them."""
        new = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in self._seen]
        self._seen.update(map(id, new))
        return sum(parameter.numel() for parameter in new)


def _result(func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, object]) -> Any:
    """What the operator returns. Of the commonest that keep the shape, on the meta device, that shape: torch derives it
    in Python, which takes most of the time of a count."""
    if name == "native_batch_norm" and args[0].is_meta and not args[5]:
        nothing = args[0].new_empty(0)
        return torch.empty_like(args[0]), nothing, nothing
    if name.removesuffix("_") in _KEEP_SHAPE and "out" not in kwargs:
        given = [one for one in args if isinstance(one, Tensor)]
        kinds = {(one.shape, one.dtype, one.device.type) for one in given}
        if len(kinds) == 1 and given[0].is_meta and given[0].is_floating_point():
            return args[0] if name.endswith("_") else torch.empty_like(given[0])
    return func(*args, **kwargs)


_KEEP_SHAPE = {"relu", "sigmoid", "hardtanh", "silu", "hardswish", "hardsigmoid", "elu", "gelu", "add", "mul"}
"""Operators whose result has the shape and type of a floating tensor that they are given, or of two alike."""


def _operator_macs(
    func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, object], result: Any
) -> tuple[int, tuple[str, ...]]:
    """Multiply-adds of one operator, and its name if it has no rule."""
    if name == "convolution":
        x, weight, transposed = args[0], args[1], args[6]
        positions = x if transposed else result
        return weight.numel() * (positions.numel() // positions.shape[1]), ()
    if name in ("mv", "dot", "vdot", "addmv"):
        return args[1 if name == "addmv" else 0].numel(), ()
    if name == "mkldnn_rnn_layer":  # x [T,B,I], weights of input and state
        return args[0].shape[:2].numel() * (args[1].numel() + args[2].numel()), ()
    if func.overloadpacket in flop_registry:  # torch's own formulas count multiplications and additions apart
        return flop_registry[func.overloadpacket](*args, **kwargs, out_val=result) // 2, ()
    free = torch.Tag.pointwise in func.tags or torch.Tag.reduction in func.tags or func.is_view
    return 0, () if free or name in _FREE_OPERATORS else (name,)


def _module_counts(module: nn.Module, x: Tensor, y: Tensor) -> Counter[str]:
    """hrsum, mmcv and ts of one call, and ptflops where it is not mmcv. Modules that the papers' tools do not know
    count nothing there."""
    bias = y.numel() if getattr(module, "bias", None) is not None else 0
    if isinstance(module, _CONVOLUTIONS):
        macs = module.weight.numel() * (y.numel() // y.shape[1])
        return Counter(hrsum=macs, mmcv=macs + bias, ts=macs + bias)
    if isinstance(module, _TRANSPOSED):
        weights = module.weight.numel()
        macs = weights * (x.numel() // x.shape[1])
        at_outputs = weights * (y.numel() // y.shape[1])
        return Counter(hrsum=at_outputs, mmcv=macs + bias, ts=macs + bias, ptflops=at_outputs + bias)
    if isinstance(module, nn.Linear):
        macs = module.weight.numel() * (y.numel() // y.shape[-1])
        return Counter(hrsum=macs, mmcv=macs + bias, ts=macs)
    if isinstance(module, _NORMS):
        affine = getattr(module, "affine", True) and getattr(module, "elementwise_affine", True)
        elements = x.numel() * (2 if affine else 1)
        return Counter(mmcv=elements, ts=elements if isinstance(module, nn.BatchNorm2d) else 0)
    if isinstance(module, _RELUS):
        return Counter(mmcv=x.numel(), ts=x.numel())
    if isinstance(module, _POOLS):
        return Counter(mmcv=x.numel(), ts=_pool_ts(module, x) if x.dim() == 4 else 0)
    if isinstance(module, _ADAPTIVE_POOLS):
        return Counter(mmcv=x.numel(), ts=_adaptive_pool_ts(x, y) if x.dim() == 4 else 0)
    if isinstance(module, nn.Upsample):
        return Counter(mmcv=y.numel(), ts=math.prod(y.shape[2:]))
    return Counter()


def _convolution_ts(args: tuple[Any, ...], y: Tensor) -> int:
    weight, bias = args[1], args[2]
    positions = args[0] if args[6] else y
    return int(weight.numel() * (positions.numel() // positions.shape[1]) + (y.numel() if bias is not None else 0))


def _pool_ts(module: Any, x: Tensor) -> int:
    """torchstat's window count; it rounds the output size down whatever ceil_mode says."""
    (kh, kw), (sh, sw), (ph, pw) = (_pair(value) for value in (module.kernel_size, module.stride, module.padding))
    height, width = x.shape[2:]
    outputs = ((height + 2 * ph - kh) // sh + 1) * ((width + 2 * pw - kw) // sw + 1)
    return int(x.shape[0] * x.shape[1] * outputs * kh * kw)


def _adaptive_pool_ts(x: Tensor, y: Tensor) -> int:
    """torchstat's windows reach one cell too far in both directions."""
    sides = []
    for size, cells in zip(x.shape[2:], y.shape[2:], strict=True):
        sides.append(sum(math.ceil((i + 1) * size / cells) - i * size // cells + 1 for i in range(cells)))
    return int(x.shape[0] * x.shape[1] * sides[0] * sides[1])


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, tuple | list) else (value, value)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

"""Stacked hourglass: princeton-vl/pytorch_stacked_hourglass (models/posenet.py, models/layers.py).

Every residual there has a 1x1 of its input, also where the width stays and nothing reads it.
"""

from compress.data.normalisation import Normalisation
from compress.networks.checkpoints.table import Rename, Source
from compress.pose.codec import Codec


def _residual(place: str, kind: str, number: int) -> str:
    """Batch norm, ReLU, convolution, three times."""
    return f"{place}.layers.{3 * number - (3 if kind == 'bn' else 1)}"


def _inside(stack: int, deeper: str, part: str) -> str:
    """deeper: `low2.` once for every halving."""
    name = {"up1": "across", "low1": "down.1", "low2": "inner", "low3": "up.0"}[part]
    return f"hourglasses.{stack}.0.{deeper.replace('low2', 'inner')}{name}"


_RENAMES: tuple[Rename, ...] = (
    ("pre.0.(conv|bn)", lambda leaf: f"stem.0.{('conv', 'bn').index(leaf)}"),
    ("pre.#.(bn)#", lambda i, kind, n: _residual(f"stem.{i}", kind, n)),
    ("pre.#.(conv)#.conv", lambda i, kind, n: _residual(f"stem.{i}", kind, n)),
    ("pre.([14]).skip_layer.conv", lambda i: f"stem.{i}.skip"),
    (
        "hgs.#.0.((?:low2.)*)(up1|low[123]).(bn)#",
        lambda stack, deeper, part, kind, n: _residual(_inside(stack, deeper, part), kind, n),
    ),
    (
        "hgs.#.0.((?:low2.)*)(up1|low[123]).(conv)#.conv",
        lambda stack, deeper, part, kind, n: _residual(_inside(stack, deeper, part), kind, n),
    ),
    ("features.#.0.(bn)#", lambda stack, kind, n: _residual(f"hourglasses.{stack}.1", kind, n)),
    ("features.#.0.(conv)#.conv", lambda stack, kind, n: _residual(f"hourglasses.{stack}.1", kind, n)),
    ("features.#.1.(conv|bn)", lambda stack, leaf: f"hourglasses.{stack}.2.{('conv', 'bn').index(leaf)}"),
    ("outs.#.conv", lambda stack: f"maps.{stack}"),
    ("merge_features.#.conv.conv", lambda stack: f"features_back.{stack}"),
    ("merge_preds.#.conv.conv", lambda stack: f"maps_back.{stack}"),
)

SOURCES = (
    Source(
        "stacked hourglass in PyTorch",
        "hourglass",
        _RENAMES,
        ("(?:hgs|features).<any>.skip_layer.conv.(?:weight|bias)", "pre.3.skip_layer.conv.(?:weight|bias)"),
        normalisation=Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        codec=Codec(sigma=1.0),
    ),
)

"""What tells two networks apart."""

from dataclasses import replace

import torch
from torch import nn

from compress.artefacts.artefact import CHANNELS_PRUNED
from compress.artefacts.network import network_digest, read_subject
from compress.networks.mobile_openpose import MobileOpenPose
from compress.networks.own import PythonNetwork
from compress.recipe import PruneRecipe
from compress.rewriting.sites import Rewrite

RECORD = MobileOpenPose(blocks=(1, 1), width=4, features=8)
OWN = PythonNetwork("own:network", "top-down", 17, 4, (4,))


def built(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return RECORD.build()


def test_the_digest_is_of_record_edits_and_weights() -> None:
    one = network_digest(RECORD, built(0), trained=True)
    assert one == network_digest(RECORD, built(0), trained=True)
    others = [
        network_digest(RECORD, built(1), trained=True),
        network_digest(replace(RECORD, refinements=RECORD.refinements + 1), built(0), trained=True),
        network_digest(RECORD, built(0), (CHANNELS_PRUNED,), trained=True),
        network_digest(RECORD, built(0), (Rewrite("conv_to_3x3", "features"),), trained=True),
        network_digest(RECORD, built(0), (Rewrite("conv_to_3x3", "refinements"),), trained=True),
    ]
    assert len({one, *others}) == 6
    nudged = built(0)
    with torch.no_grad():
        next(nudged.buffers()).add_(1e-3)  # a batch norm's statistics
    assert network_digest(RECORD, nudged, trained=True) != one


def test_fresh_weights_of_a_known_network_do_not_count_and_own_ones_do() -> None:
    assert network_digest(RECORD, built(0), trained=False) == network_digest(RECORD, built(1), trained=False)
    assert network_digest(OWN, built(0), trained=False) != network_digest(OWN, built(1), trained=False)


def test_tensors_of_every_kind_count() -> None:
    class Odd(nn.Module):
        def __init__(self, last: float) -> None:
            super().__init__()
            self.register_buffer("scalar", torch.tensor(3))
            self.register_buffer("flags", torch.tensor([True, False]))
            self.register_buffer("halves", torch.tensor([[1.0, 2.0], [3.0, last]], dtype=torch.bfloat16).T)
            self.register_buffer("none", torch.empty(0))

    assert network_digest(OWN, Odd(4), trained=True) == network_digest(OWN, Odd(4), trained=True)
    assert network_digest(OWN, Odd(4), trained=True) != network_digest(OWN, Odd(5), trained=True)


def test_a_network_by_name_is_its_record() -> None:
    recipe = PruneRecipe.model_validate({"input_hw": [128, 128]})
    subject = read_subject("mobilenet_v2", recipe, 2)
    assert subject.digest == network_digest(subject.architecture, nn.Identity(), trained=False)

"""Every test starts from the same random state, so that none passes or fails by chance."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_random_state() -> None:
    torch.manual_seed(0)

"""Every test starts from the same random state, so that none passes or fails by chance."""

import os
from collections.abc import Iterator
from math import inf

import pytest
import torch

from compress.engines import ENGINES, Engine
from compress.errors import EngineError
from compress.measure import latency_table


def pytest_configure() -> None:
    """Each of pytest-xdist's processes keeps to a core of its own and one thread: two that time networks beside each
    other would else measure each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_state() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def any_scale() -> Iterator[None]:
    """A table is not refused because something else ran on the machine while its few small networks were timed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency_table, "WORST_ERROR", inf)
        patch.setattr(latency_table, "WORST_FACTOR", inf)
        yield


@pytest.fixture
def litert() -> Engine:
    """The engine `litert`, where its runtime and its converter are installed: the extra `test` has neither."""
    try:
        ENGINES["litert"].describe()
    except EngineError as error:
        pytest.skip(error.rule)
    return ENGINES["litert"]

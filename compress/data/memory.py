"""What the garbage collector need not look at."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled_heap() -> Iterator[None]:
    """Keeps the garbage collector off what exists already while the block runs; blocks may be nested.

    torch, its exporters and a set of labelled pictures are 400 thousand objects that live as long as the job. Looking
    through all of them took a tenth of a supernet's training and of a trial's scoring, and three quarters of learning
    DIR-BHRNet's large space for its latencies. What is frozen is freed by its reference count as ever; cycles among it
    wait for the end of the outermost block.
    """
    outermost = gc.get_freeze_count() == 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if outermost:
            gc.unfreeze()

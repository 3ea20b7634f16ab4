"""Work in a second process beside this one."""

import os
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def beside(work: Callable[[], T]) -> Iterator[Callable[[], T | None]]:
    """Does the work in a copy of this process while the block runs. Yields what waits for the result.

    The result is None if the copy failed, whatever the reason: the caller then does the work itself. For work on the
    CPU, on one thread (those of OpenMP are not copied), that neither prints nor writes; its result must be picklable.
    """
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: other threads are not copied
        child = os.fork()
    if not child:
        try:
            os.closerange(3, write)  # the run folder's lock among them
            os.closerange(write + 1, os.sysconf("SC_OPEN_MAX"))
            with open(write, "wb") as answer:
                pickle.dump(work(), answer)
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(write)
    waited = False

    def result() -> T | None:
        nonlocal waited
        found = pipe.read()
        waited = True
        return pickle.loads(found) if os.waitpid(child, 0)[1] == 0 else None

    with open(read, "rb") as pipe:
        try:
            yield result
        finally:
            if not waited:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

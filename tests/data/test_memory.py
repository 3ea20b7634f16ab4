import gc
import os
import subprocess
import sys
import weakref

import pytest

from compress.data.memory import settled_heap


class Knot:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_comes_later_is_still_collected_and_what_was_there_afterwards() -> None:
    before = Knot()
    old = weakref.ref(before)
    with settled_heap():
        assert gc.get_freeze_count() > 0
        with settled_heap():
            del before
            new = weakref.ref(Knot())
            gc.collect()
            assert new() is None
            assert old() is not None
        assert gc.get_freeze_count() > 0  # the outer block still runs
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert old() is None


def test_it_ends_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), settled_heap():
        _ = 1 / 0
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "2000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")]
)
def test_the_commands_threads_spin_briefly_unless_told_otherwise(given: dict[str, str], spins: str) -> None:
    """Before torch is loaded, which reads it once."""
    code = (
        "import os, sys; from compress import cli; cli.app = lambda **_: print(os.environ.get('GOMP_SPINCOUNT'),"
        "'torch' in sys.modules); cli.sys.argv = ['compress']\n"
        "try: cli.main()\nexcept SystemExit: pass"
    )
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[0] == f"{spins} False"

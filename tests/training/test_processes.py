"""Work in a copy of the process."""

import fcntl
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.data.beside import beside

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def test_both_work_and_the_result_comes_over() -> None:
    here = os.getpid()
    with beside(lambda: (os.getpid(), {"a": [1.5]})) as result:
        found = result()
    assert found is not None
    assert found[0] != here
    assert found[1] == {"a": [1.5]}


def test_networks_answer_alike_in_the_copy() -> None:
    network, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), torch.randn(4, 3, 16, 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            network(images)  # the parent's threads run already
            torch.set_num_threads(1)
            with beside(lambda: network(images).numpy()) as result:
                here = network(images)
                there = result()
    finally:
        torch.set_num_threads(threads)
    assert there is not None
    assert torch.equal(here, torch.from_numpy(there))


def failing() -> int:
    raise ValueError


@pytest.mark.parametrize("work", [failing, lambda: os._exit(3), lambda: os.kill(os.getpid(), 9), lambda: lambda: 1])
def test_a_copy_that_fails_gives_nothing(work: object, capfd: pytest.CaptureFixture[str]) -> None:
    with beside(work) as result:  # type: ignore[arg-type]
        assert result() is None
    assert capfd.readouterr() == ("", "")


def test_the_copy_ends_with_the_block(tmp_path: Path) -> None:
    def endless() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        while True:
            pass

    def interrupted() -> None:
        with beside(endless):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_copy_does_not_hold_the_run_folders_lock(tmp_path: Path) -> None:
    """A killed run's folder is free at once, though its copy may live a moment longer."""

    def waits() -> None:
        (tmp_path / "ready").touch()
        while not (tmp_path / "go").exists():
            pass

    lock = (tmp_path / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    with beside(waits) as result:
        while not (tmp_path / "ready").exists():
            pass
        lock.close()
        with (tmp_path / "lock").open("w") as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tmp_path / "go").touch()
        assert result() is None

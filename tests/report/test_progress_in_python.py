"""Progress where Python code calls jobs: bars in a terminal and in a notebook, nowhere else."""

import builtins
import importlib.util
import io
import sys
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import pytest

from compress.progress import Silent
from compress.report.progress import Terminal, progress_in_python


class ZMQInteractiveShell:
    """What runs a notebook's cells, by the name that rich looks for."""


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def in_notebook(monkeypatch: pytest.MonkeyPatch, widgets: bool) -> list[object]:
    """As if a notebook ran, with ipywidgets or without; what it displays."""
    displayed: list[object] = []

    class Output:
        def __enter__(self) -> AbstractContextManager[None]:
            return nullcontext()

        def __exit__(self, *error: object) -> None: ...

        def clear_output(self, wait: bool) -> None: ...

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    for name, content in {
        "IPython": {},
        "IPython.display": {"display": displayed.append},
        "ipywidgets": {"Output": Output},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: (widgets or None) if name == "ipywidgets" else found(name)
    )
    return displayed


def report(progress: Terminal | Silent) -> None:
    with progress.phase("training", 2) as phase:
        phase.advance(2)


def test_nobody_is_shown_anything_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    progress = progress_in_python()
    assert isinstance(progress, Silent)
    report(progress)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = progress_in_python()
    assert isinstance(progress, Terminal)
    report(progress)
    assert "training" in screen.getvalue()
    assert "2/2" in screen.getvalue()


def test_a_notebook_shows_bars_in_a_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    displayed = in_notebook(monkeypatch, widgets=True)
    progress = progress_in_python()
    assert isinstance(progress, Terminal)
    report(progress)
    assert type(displayed[0]).__name__ == "Output"


def test_a_notebook_without_widgets_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    displayed = in_notebook(monkeypatch, widgets=False)
    progress = progress_in_python()
    assert isinstance(progress, Terminal)
    report(progress)
    assert capsys.readouterr().out.startswith("training: 2 steps\ntraining: done, 2/2")
    assert not displayed

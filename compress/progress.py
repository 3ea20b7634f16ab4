"""How long work tells the outside how far it is. Libraries and jobs report; only the edge prints."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Phase(Protocol):
    """One phase of a job while it runs."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """So many more steps are done. note: what is worth seeing now, such as the loss."""
        ...


class Progress(Protocol):
    """Where a job reports to."""

    def phase(self, name: str, total: int) -> AbstractContextManager[Phase]:
        """Opens a phase of `total` steps."""
        ...

    def say(self, message: str) -> None:
        """One line worth keeping, such as 'trials 1-40 were done before'."""
        ...


class Silent:
    """Reports to nobody."""

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Phase]:
        """See Progress."""
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """See Phase."""

    def say(self, message: str) -> None:
        """See Progress."""

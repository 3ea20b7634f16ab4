"""How jobs report their progress. Libraries and jobs report; only the command line and notebooks show it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Stage:
    """A phase that is still to come. name: the phase's.

    work: in a unit that the job's stages share, such as pictures that pass through a network.
    """

    name: str
    work: float


class Phase(Protocol):
    """One phase of a job while it runs."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Counts so many more steps as done. note: a figure to show now, such as the loss."""
        ...


class Progress(Protocol):
    """Where a job reports to."""

    def plan(self, stages: Sequence[Stage]) -> None:
        """The stages of the job in their order, from which the time left of all of it is estimated.

        A stage that is left out counts as done when a later one opens; phases that are no stage may come in between.
        """
        ...

    def phase(self, name: str, total: int) -> AbstractContextManager[Phase]:
        """Opens a phase of `total` steps."""
        ...

    def say(self, message: str) -> None:
        """Prints one line that stays, such as 'trials 1-40 were done before'."""
        ...


class Silent:
    """Shows nothing."""

    def plan(self, stages: Sequence[Stage]) -> None:
        """See Progress."""

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Phase]:
        """See Progress."""
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """See Phase."""

    def say(self, message: str) -> None:
        """See Progress."""

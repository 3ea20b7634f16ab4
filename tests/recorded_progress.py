"""A progress that remembers what it was told."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from compress.progress import Phase, Silent, Stage


class Recorded(Silent):
    """planned: names of the stages. opened: of the phases that are stages, in the order they were opened."""

    def __init__(self) -> None:
        self.planned: list[str] = []
        self._opened: list[str] = []

    @property
    def opened(self) -> list[str]:
        return [name for name in self._opened if name in self.planned]

    def plan(self, stages: Sequence[Stage]) -> None:
        assert all(stage.work > 0 for stage in stages)
        self.planned = [stage.name for stage in stages]

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Phase]:
        self._opened.append(name)
        yield self

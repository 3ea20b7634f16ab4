from pathlib import Path

import pytest

from compress.artefacts.results import SearchResult, read_results


@pytest.fixture(scope="session")
def result() -> SearchResult:
    """A real search of 14 candidates, on a few hundred synthetic pictures of 64x64."""
    return read_results(Path(__file__).parent / "search" / "results.json", "search", SearchResult)

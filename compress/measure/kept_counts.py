"""Counts of every published network, which take a minute to count and are kept in `networks/counts.json`.

`python -m compress.jobs.networks` writes the file anew, after a network or a rule of counting has changed; a test
counts again and compares.
"""

import json
from pathlib import Path

from compress.measure.counting import Count
from compress.networks.published import Published

COUNTS = Path(__file__).parent.parent / "networks" / "counts.json"


def kept_counts() -> dict[str, dict[str, Count]]:
    """Of every known network, by the `size_key` of a published row."""
    data = json.loads(COUNTS.read_text(encoding="utf-8"))
    return {
        name: {key: Count(**{**one, "uncounted": tuple(one["uncounted"])}) for key, one in sizes.items()}
        for name, sizes in data.items()
    }


def size_key(row: Published) -> str:
    """Input size and number of joints that a row's network is counted with, such as `256x192, 17 joints`."""
    assert row.input_hw is not None
    return f"{row.input_hw[0]}x{row.input_hw[1]}, {row.keypoints} joints"

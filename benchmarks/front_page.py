"""The README's five commands, run as they stand: what they print, whole.

    python -m benchmarks.front_page photos [--out reports/front_page]

For the output that the README shows, on an idle machine: what other programs disturb is marked `(?)` in it. `photos` is
a folder with pictures. The commands are read from the README, so that what is shown and what is run are the same.
"""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from compress.engines.engine import describe_machine

README = Path(__file__).parent.parent / "README.md"


def commands() -> list[str]:
    """Those of the `sh` blocks under "Five commands", each on one line."""
    section = README.read_text(encoding="utf-8").partition("## Five commands")[2].partition("\n## ")[0]
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S))
    return [" ".join(line.split()) for line in blocks.replace("\\\n", " ").splitlines()]


def printed(command: str) -> str:
    """What the command prints on stdout, and its exit code. Progress goes to the terminal."""
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(f"$ {command}\n{done.stdout}\n")
    sys.stdout.flush()
    return f"{done.stdout}exit code {done.returncode}\n"


def main() -> None:
    """Writes README.md of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, default=Path("reports/front_page"))
    arguments = parser.parse_args()
    device = describe_machine("", "").device
    lines = ["# The README's five commands", "", f"`python -m benchmarks.front_page {arguments.photos}`, {device}.", ""]
    for command in commands():
        shown = command.replace(" photos ", f" {shlex.quote(str(arguments.photos))} ")
        lines += ["```", f"$ {command}", printed(shown).rstrip(), "```", ""]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "README.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

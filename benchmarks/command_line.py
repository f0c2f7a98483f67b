"""How long the command line takes to answer: `python -m benchmarks.command_line [REPEATS]`.

`sharelm --help` beside the help of a bare Typer app with two commands, and `sharelm plan` of the quickstart, each in
fresh interpreters, taking turns so that whatever else the machine does hits all of them alike. Prints a table and
ends with one JSON line.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import typer

app = typer.Typer()


@app.command()
def one(name: str) -> None:
    "The first command."


@app.command()
def two(name: str) -> None:
    "The second command."


app()
"""
QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.toml"


def seconds(command: list[str]) -> float:
    """Wall seconds of one run."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main(repeats: int) -> None:
    """Measure, print the table and the JSON line."""
    with tempfile.TemporaryDirectory(prefix="sharelm-") as folder:
        bare = Path(folder, "bare.py")
        bare.write_text(BARE, encoding="utf-8")
        commands = {
            "bare Typer app --help": [sys.executable, str(bare), "--help"],
            "sharelm --help": [sys.executable, "-m", "cluster.cli", "--help"],
            "sharelm plan quickstart": [sys.executable, "-m", "cluster.cli", "plan", str(QUICKSTART)],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(repeats + 1):  # the first round fills the file cache and does not count
            for name, command in commands.items():
                took = seconds(command)
                if number:
                    taken[name].append(took)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    print(f"{'command':<26}{'median s':>10}{'best s':>10}{'worst s':>10}")
    for name, times in taken.items():
        print(f"{name:<26}{medians[name]:>10.3f}{min(times):>10.3f}{max(times):>10.3f}")
    bare_help, our_help, plan = medians.values()
    print(f"help takes {our_help / bare_help:.2f} times the bare app's")
    result = {"bare_help_seconds": bare_help, "help_seconds": our_help, "help_ratio": our_help / bare_help}
    print(json.dumps({**result, "plan_seconds": plan, "repeats": repeats}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)

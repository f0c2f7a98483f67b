"""A study's tasks before anything is spent: `python -m jobs.check_tasks --study FILE` makes the items of files.

What needs the study's tokenizer is checked when its data are prepared: `check_room`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sharelm.errors import ShareLMError
from sharelm.study import load_study


def check_tasks(path: Path) -> int:
    """The number of items in the study's files of items; raises `InputError` for what cannot be asked."""
    from sharelm.evaluation import file_items

    base = path.resolve().parent
    tasks = [task for task in load_study(path).evaluation.task if task.traits.reads != "documents"]
    return sum(len(file_items(task, base)) for task in tasks)


def main(arguments: list[str] | None = None) -> int:
    """Check a study's tasks from the command line; returns the exit code: 0 well, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m jobs.check_tasks", description="Check a study's tasks.")
    parser.add_argument("--study", type=Path, required=True, help="the study's TOML file")
    options = parser.parse_args(arguments)
    try:
        print(check_tasks(options.study))
    except ShareLMError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

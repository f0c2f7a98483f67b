"""What the programs of this room share: their arguments, what they print and their exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from sharelm.errors import ShareLMError
from sharelm.store import Manifest


def program(
    name: str,
    description: str,
    work: Callable[[Path, str], tuple[Manifest, bool]],
    say: Callable[[str, Manifest, bool], None],
    arguments: list[str] | None,
) -> int:
    """Do this work on a study and a store, and print what came of it and whether it was there already.

    Returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument("--study", type=Path, required=True, help="the study's TOML file (or its name, to judge it)")
    parser.add_argument("--store", required=True, help="a folder or s3://bucket/prefix")
    parser.add_argument("--json", action="store_true", help="end with one JSON line instead of text")
    options = parser.parse_args(arguments)
    try:
        manifest, was_there = work(options.study, options.store)
    except ShareLMError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was committed stays, run again to carry on", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps({"store": options.store, "study": manifest.study, "step": manifest.step, **manifest.facts}))
    else:
        say(options.store, manifest, was_there)
    return 0

"""The driver of a study: `python -m jobs.study --study FILE --store URI`.

The same program runs embedded (`sharelm run`), as a Ray job and every night. Exit codes: 0 done, 1 failed, 2 bad
input, 130 interrupted; what was committed stays, and running again carries on from there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from jobs.load import LoadOfOthers
from jobs.prepare import check_recorded, prepare_data, read_request
from jobs.program import program
from jobs.progress import Progress
from sharelm.errors import ShareLMError, StoreError
from sharelm.formats import duration
from sharelm.steps import report_step
from sharelm.store import Manifest, Store, open_store
from sharelm.store.logs import commit_log
from sharelm.store.studies import record_study


def run_study(path: Path, uri: str, night: str | None = None) -> tuple[Manifest, bool]:
    """Run the study (its night) to its report; returns the report's manifest and whether it was there already.

    Where steps failed for good, the report of all the others is committed and `ShareLMError` names both.

    Whatever can be wrong with study, data and store is found before Ray is started; the study is recorded once it
    is known that it can run.
    """
    started, load = time.time() if night else psutil.Process().create_time(), LoadOfOthers()
    request = read_request(path, uri)
    study, base, store, data = request
    step = report_step(study, data, base, night)
    found = store.find("reports", study.name, step)
    if found is not None:
        return found, True
    check_recorded(study, store, str(path))
    with Progress() as progress:
        _, items = prepare_data(request, progress)
        progress.show("starting Ray")
        from jobs.driver import Driver, not_finished  # these import Ray, which a finished study does without
        from jobs.session import ray_session

        with ray_session(load, progress.stage):
            driver = Driver(request, items, progress, night)
            revision = record_study(store, study, str(path))
            with _log_kept(store, study.name, progress, driver.last_words):
                plan, steps = driver.run()
                report = driver.finish(plan, steps, step, revision, started)
                if driver.failed:
                    raise ShareLMError(
                        f"{not_finished(driver.failed)}; of what there is tells {store.address(report, 'report.html')}"
                    )
                return report, False


@contextmanager
def _log_kept(store: Store, study: str, progress: Progress, failures: Mapping[str, str]) -> Iterator[None]:
    """Keep what the run says, and the last words of what fails in it, in the store."""
    outcome = "done"
    try:
        yield
    except BaseException as error:
        outcome = " ".join(str(error).split()) or type(error).__name__
        raise
    finally:
        with suppress(StoreError):  # a store that fails has said so already
            commit_log(store, study, [*progress.lines, outcome], failures, {"outcome": outcome})


def _say(store: str, report: Manifest, was_there: bool) -> None:
    facts = report.facts
    print("\n".join(facts["headline"]))
    if was_there:
        print(f"time: nothing to do, study {report.study!r} was finished on {report.committed_at[:19]} UTC")
    else:
        wall, compute = facts["wall_seconds"], facts["compute_seconds"]
        parts = ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in facts["seconds"].items())
        print(f"time: {duration(wall)} in all; {parts}; everything else {max(0.0, 1 - compute / wall):.0%}")
    print(f"report: {open_store(store).address(report, 'report.html')}")


def main(arguments: list[str] | None = None) -> int:
    """Run a study from the command line; returns the exit code."""
    return program("jobs.study", "Run a study on Ray.", run_study, _say, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""A finished study judged by this commit's statistics: `python -m benchmarks.judge_again --store S --study NAME`.

Comparisons, verdicts and report are made anew from the rows that the newest report rests on; nothing is trained, and
what the study committed stays. Prints the verdict's lines and where the report lies.
"""

from __future__ import annotations

import argparse

from jobs.conclude import REPORTS, conclude
from sharelm.digest import digest, package_digest
from sharelm.store import open_store
from sharelm.store.studies import latest_study

MADE = {"comparisons", "sharing_worth", "verdicts"}


def main() -> None:
    """Judge and say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="a folder or s3://bucket/prefix")
    parser.add_argument("--study", required=True)
    options = parser.parse_args()
    store = open_store(options.store)
    study, reports = latest_study(store, options.study), store.manifests(REPORTS, options.study)
    if study is None or not reports:
        raise SystemExit(f"{options.store} has no finished study {options.study!r}")
    if study.training.tune is not None or "time" in study.twins.axes:
        raise SystemExit(f"study {options.study!r} has tuned rates or a time axis, which its tables alone do not give")
    newest = max(reports, key=lambda manifest: manifest.committed_at)
    steps = {table: names for table, names in newest.facts["steps"].items() if table not in MADE}
    name = digest({"step": "report", "again": newest.step, "code": package_digest("sharelm", "jobs")})
    facts = {key: value for key, value in newest.facts.items() if key not in ("headline", "steps")}
    report = store.find(REPORTS, options.study, name) or conclude(study, store, name, steps, facts)
    print("\n".join(report.facts["headline"]))
    print(f"report: {store.address(report, 'report.html')}")


if __name__ == "__main__":
    main()

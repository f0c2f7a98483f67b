"""The command line: one function a command. What a command needs is imported when it runs, so that help is quick."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cluster.options import (
    DEFAULT_ADDRESS,
    DEFAULT_STORE,
    Address,
    Insecure,
    Json,
    NameOrFile,
    OptionalAddress,
    OptionalImage,
    OptionalStore,
    Profile,
    Store,
    StudyFile,
    StudyName,
)
from sharelm.errors import InputError, ShareLMError

ASK, WORK, ANSWER = "Ask", "Work on a cluster", "Answers"

app = typer.Typer(
    help="Does a language model need all its parameters? A study goes in; tables, a verdict and a report come out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)


@app.command(rich_help_panel=ASK)
def plan(
    study: StudyFile,
    store: OptionalStore = None,
    profile: Profile = None,
    pilot: Annotated[
        str | None,
        typer.Option(
            "--pilot", metavar="NAME", help="Reckon power with this study of the store, not with STUDY's own."
        ),
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Draw which depth of each arm reads which block.")] = False,
    json: Json = False,
) -> None:
    """Show what a study would train, store and cost; spends nothing."""
    from cluster.plan import check_tasks, drawings, plan_study, plan_text
    from cluster.power import power_of, power_text
    from cluster.show import print_json
    from sharelm.study import load_study

    asked = load_study(study)
    check_tasks(study, asked)
    planned = plan_study(asked)
    planned["power"] = power_of(asked, planned, store, pilot)
    if store is not None:
        from cluster.evidence import committed_trials

        planned["committed_trials"] = committed_trials(store, asked.name)
    if json:
        print_json(planned)
        return
    print(plan_text(planned))
    print(f"\n{power_text(planned['power'], asked.cost.currency)}")
    if draw:
        print(f"\n{drawings(planned)}")
    if store is not None:
        print(f"\nAlready in {store}: {', '.join(planned['committed_trials']) or 'nothing of this study'}.")


@app.command(rich_help_panel=ASK)
def schemes(json: Json = False) -> None:
    """List the named sharing schemes, with their sources and a drawing of each."""
    from cluster.schemes import list_schemes, schemes_text
    from cluster.show import print_json

    found = list_schemes()
    if json:
        print_json(found)
    else:
        print(schemes_text(found))


@app.command(rich_help_panel=ASK)
def run(study: StudyFile, store: Store = DEFAULT_STORE, profile: Profile = None, json: Json = False) -> None:
    """Run a study here: on an embedded Ray, or on the one RAY_ADDRESS names."""
    _study_program("jobs.study", study, store, json)


@app.command(rich_help_panel=ASK)
def prepare(study: StudyFile, store: Store = DEFAULT_STORE, profile: Profile = None, json: Json = False) -> None:
    """Prepare and commit a study's data without GPU or Ray; `run` and `submit` find them."""
    _study_program("jobs.prepare", study, store, json)


@app.command(rich_help_panel=ASK)
def nightly(
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY", help="Study files (TOML).", show_default=False)],
    store: Store = DEFAULT_STORE,
    profile: Profile = None,
    night: Annotated[
        str | None, typer.Option("--night", metavar="DATE", help="The night; today's date (UTC) without it.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be measured anew; spends nothing.")] = False,
    accept: Annotated[
        str | None,
        typer.Option("--accept", metavar="METRIC", help="Make the newest night this metric's baseline; runs nothing."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why it is accepted; kept in the store.")
    ] = None,
    json: Json = False,
) -> None:
    """Run studies anew and say what got worse. Exit code 0: nothing, 3: something, 1: a study could not run."""
    from datetime import UTC, datetime

    from cluster.nightly import accept as accept_baseline
    from cluster.nightly import nightly_plan, nightly_plan_text
    from cluster.show import print_json

    night = night or datetime.now(UTC).date().isoformat()
    if (accept is None) != (reason is None):
        raise InputError("--accept and --reason belong together")
    if accept is not None and reason is not None:
        if len(studies) != 1:
            raise InputError("--accept takes one STUDY")
        row = accept_baseline(str(studies[0]), store, accept, reason)
        print(f"the baseline of {row.metric} is night {row.night} from now on")
    elif plan:
        planned = nightly_plan(studies, store, night)
        if json:
            print_json(planned)
        else:
            print(nightly_plan_text(planned))
    else:
        named = [part for study in studies for part in ("--study", str(study))]
        _become_program("jobs.nightly", [*named, "--store", store, "--night", night], json)


def _study_program(program: str, study: Path, store: str, json: bool) -> NoReturn:
    from sharelm.study import load_study

    load_study(study)  # bad input is refused before anything heavy is loaded
    _become(program, str(study), store, json)


def _become(program: str, study: str, store: str, json: bool) -> NoReturn:
    _become_program(program, ["--study", study, "--store", store], json)


def _become_program(program: str, options: list[str], json: bool) -> NoReturn:
    # The program takes this process's place: its exit code, its terminal and Ctrl-C are then its own.
    # -P keeps a folder called jobs in the current directory from being run instead.
    arguments = ["-P", "-m", program, *options, *(["--json"] if json else [])]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])


@app.command(rich_help_panel=ASK)
def doctor(
    store: Store = DEFAULT_STORE,
    address: OptionalAddress = None,
    profile: Profile = None,
    image: OptionalImage = None,
    json: Json = False,
) -> None:
    """Check this machine, the store and, by a job that trains nothing, a cluster's nodes; say what to do about each."""
    from cluster.doctor import diagnose
    from cluster.findings import diagnosis_text
    from cluster.show import print_json

    findings = diagnose(store, address, image)
    if json:
        print_json(findings)
    else:
        print(diagnosis_text(findings))
    if any(finding["status"] == "fail" for finding in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel=WORK)
def submit(
    study: StudyFile,
    store: Store = DEFAULT_STORE,
    address: Address = DEFAULT_ADDRESS,
    profile: Profile = None,
    insecure: Insecure = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end and exit as it does.")] = False,
    json: Json = False,
) -> None:
    """Send a study to a Ray cluster as a job; one that runs or has finished there is not sent twice."""
    from cluster.access import check_asks_for_token, check_insecure, check_release, greet
    from cluster.show import print_json
    from sharelm.study import load_study

    if wait and json:
        raise InputError("--wait and --json exclude each other: what --wait follows is text")
    asked = load_study(study)
    check_insecure(address, insecure)
    release = greet(address)
    check_asks_for_token(address, insecure)
    check_release(address, release)
    from cluster import submission  # after all that can be known without it: this imports Ray

    destination = submission.store_for_cluster(store, address)
    client = submission.connect(address)
    job, known = submission.submit(client, study, asked, destination)
    if json:
        print_json({"study": asked.name, "job": job, "submitted": known is None, "store": destination})
        return
    print(f"study {asked.name!r} {known or 'is submitted'}: job {job}")
    if wait:
        raise typer.Exit(submission.wait_for(client, job))
    if known is None:
        print(f"follow it with `sharelm logs {asked.name} --follow`; its tables will be in {destination}")


@app.command(rich_help_panel=WORK)
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A study's name; all without it.")] = None,
    address: Address = DEFAULT_ADDRESS,
    store: OptionalStore = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """List studies submitted to a cluster; with a store also the steps that are committed there."""
    from cluster.access import greet

    greet(address)
    from cluster import submission
    from cluster.show import print_json
    from cluster.status import status_text

    jobs = [asdict(job) for job in submission.study_jobs(submission.connect(address), name)]
    committed = None
    if store is not None:
        from cluster.evidence import committed_steps

        committed = committed_steps(store, name)
    if json:
        print_json({"jobs": jobs, "committed": committed})
    else:
        print(status_text(jobs, committed))


@app.command(rich_help_panel=WORK)
def logs(
    name: StudyName,
    address: Address = DEFAULT_ADDRESS,
    store: OptionalStore = None,
    profile: Profile = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print what the newest job of a study has written; with a store also where the cluster has forgotten it."""
    from cluster.access import TokenRefusedError, greet

    try:
        greet(address)
        from cluster import submission

        client = submission.connect(address)
        submission.print_logs(client, submission.find_job(client, name).id, follow)
    except ShareLMError as error:
        if store is None or isinstance(error, TokenRefusedError):
            raise
        from cluster.evidence import stored_log

        print(f"sharelm: {error}; this is what the store keeps", file=sys.stderr)
        print(stored_log(store, name), end="")


@app.command(rich_help_panel=WORK)
def stop(name: StudyName, address: Address = DEFAULT_ADDRESS, profile: Profile = None) -> None:
    """Stop the newest job of a study; what it has committed stays."""
    from cluster.access import greet

    greet(address)
    from cluster import submission

    client = submission.connect(address)
    job = submission.find_job(client, name)
    if job.over:
        print(f"job {job.id} has ended already: {job.status}")
    else:
        print(f"job {job.id}: {submission.stop(client, job.id)}; submit again to carry on")


@app.command(rich_help_panel=ANSWER)
def verdict(
    study: NameOrFile,
    store: Store = DEFAULT_STORE,
    profile: Profile = None,
    gate: Annotated[
        str | None, typer.Option("--gate", metavar="STAGE", help="Exit 3 unless this roll-out stage is supported.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a study's verdict from its store."""
    from cluster.evidence import check_gate, stored_verdict
    from cluster.show import print_json

    found = stored_verdict(store, study)
    if json:
        print_json(found)
    else:
        print("\n".join(found["headline"]))
    if found["differs"]:
        print(f"sharelm: {study} is not what was last recorded; this is the recorded study's verdict", file=sys.stderr)
    if gate is not None:
        supported = check_gate(found, gate)
        if not json:
            print(f"Gate {gate} is met by {', '.join(supported)}.")


@app.command(rich_help_panel=ANSWER)
def judge(study: NameOrFile, store: Store = DEFAULT_STORE, profile: Profile = None, json: Json = False) -> None:
    """Judge a finished study again by this version's statistics; trains nothing and keeps the old report."""
    _become("jobs.judge", study, store, json)


@app.command(rich_help_panel=ANSWER)
def report(
    study: NameOrFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to.")],
    store: Store = DEFAULT_STORE,
    profile: Profile = None,
) -> None:
    """Copy a study's newest report (HTML, Markdown, JSON) into a folder."""
    from cluster.evidence import export_report

    for path in export_report(store, study, out):
        print(path)


@app.command(rich_help_panel=ANSWER)
def tables(
    table: Annotated[str | None, typer.Argument(metavar="[TABLE]", help="One table; a list without it.")] = None,
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", help="Only this study.")] = None,
    store: Store = DEFAULT_STORE,
    profile: Profile = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print all rows as CSV.")] = False,
    files: Annotated[bool, typer.Option("--files", help="Print the addresses of the Parquet files.")] = False,
) -> None:
    """List the tables in a store, or print one."""
    from cluster import evidence
    from cluster.show import columns, first_rows, print_csv, print_json

    if json + csv + files > 1:
        raise InputError("--json, --csv and --files exclude each other; give one")
    if table is None:
        if csv or files:
            raise InputError("--csv and --files need a TABLE, for example `sharelm tables trials --csv`")
        overview = evidence.table_overview(store, study)
        if json:
            print_json(overview)
        elif overview:
            print(columns([list(row.values()) for row in overview], list(overview[0])))
        else:
            print(f"{store} has no tables")
    elif files:
        addresses = evidence.table_files(store, table, study)
        print(*addresses, sep="\n")
    else:
        rows = evidence.table_rows(store, table, study)
        if json:
            print_json(rows.to_pylist())
        elif csv:
            print_csv(rows.column_names, rows.to_pylist())
        else:
            print(first_rows(rows.column_names, rows.to_pylist()))


def main() -> None:
    """The entry point: an error is one sentence on stderr and the exit code of its kind."""
    try:
        app()
    except ShareLMError as error:
        print("sharelm:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

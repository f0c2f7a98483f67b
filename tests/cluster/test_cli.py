"""The surface of the command line: frozen, and quick to start."""

import subprocess
import sys

import typer

from cluster.cli import app

# Changing this list is changing what users type: say so in the changelog.
SURFACE = {
    "plan": ["STUDY", "--store", "--profile", "--pilot", "--draw", "--json"],
    "schemes": ["--json"],
    "run": ["STUDY", "--store", "--profile", "--json"],
    "nightly": ["STUDY", "--store", "--profile", "--night", "--plan", "--accept", "--reason", "--json"],
    "prepare": ["STUDY", "--store", "--profile", "--json"],
    "doctor": ["--store", "--address", "--profile", "--image", "--json"],
    "submit": ["STUDY", "--store", "--address", "--profile", "--insecure", "--wait", "--json"],
    "status": ["[NAME]", "--address", "--store", "--profile", "--json"],
    "logs": ["NAME", "--address", "--store", "--profile", "--follow", "-f"],
    "stop": ["NAME", "--address", "--profile"],
    "verdict": ["NAME|STUDY", "--store", "--profile", "--gate", "--json"],
    "judge": ["NAME|STUDY", "--store", "--profile", "--json"],
    "report": ["NAME|STUDY", "--out", "--store", "--profile"],
    "tables": ["[TABLE]", "--study", "--store", "--profile", "--json", "--csv", "--files"],
}
HEAVY = {"torch", "deepspeed", "ray", "pyarrow", "pydantic", "numpy", "s3fs", "fsspec", "requests"}


def test_commands_and_options_are_frozen():
    commands = typer.main.get_command(app).commands
    found = {
        name: [
            word
            for parameter in command.params
            if parameter.name != "help"
            for word in (parameter.opts if parameter.param_type_name == "option" else [parameter.metavar])
        ]
        for name, command in commands.items()
    }
    assert found == SURFACE


def loaded_by(code):
    """The top-level modules in a fresh interpreter after this code."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def run_by(*arguments):
    return (
        f"import sys\nsys.argv = ['sharelm', *{list(map(str, arguments))!r}]\n"
        "from cluster.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )


def test_help_loads_nothing_heavy():
    assert not loaded_by(run_by("--help")) & HEAVY
    assert loaded_by(run_by("submit", "--help")) & HEAVY <= {"pydantic"}  # which Typer itself loads for arguments


def test_plan_loads_no_framework_and_no_arrow(study_file):
    assert loaded_by(run_by("plan", study_file())) & HEAVY == {"pydantic"}


def test_every_command_that_needs_a_store_or_an_address_takes_a_profile():
    assert [name for name, words in SURFACE.items() if "--profile" not in words] == ["schemes"]


def test_help_names_every_command(sharelm):
    done = sharelm("--help")
    assert done.returncode == 0
    for command in SURFACE:
        assert f" {command} " in done.stdout

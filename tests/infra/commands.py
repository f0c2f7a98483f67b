"""Shell commands in manifests, workflows and pages, parsed by the command lines that would read them."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import typer

from cluster.cli import app
from tests.infra.built import ROOT

NIGHTLY = "nightly"  # comes with the command that this infrastructure calls; checked as soon as it is there
COMMENT = re.compile(r"(^|(?<=\s))#.*$", re.MULTILINE)
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")


class _Parsed(Exception):
    """Raised in the place of running what was parsed."""


def shell_blocks(page: str) -> Iterator[str]:
    """The blocks of shell in a Markdown page."""
    yield from re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def simple_commands(script: str) -> Iterator[list[str]]:
    """The words of every simple command of a script: without comments, assignments before it, or what joins them."""
    plain = COMMENT.sub("", script).replace("\\\n", " ")
    lexer = shlex.shlex(plain, posix=True, punctuation_chars=";&|\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";&|\n"):
            while words and ASSIGNMENT.fullmatch(words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(word)


def ours(words: list[str]) -> Iterator[list[str]]:
    """The parts of a command that our own programs or Ray's read: itself, what follows `--`, or a container's."""
    starts = [0, *(number + 1 for number, word in enumerate(words) if word == "--")]
    if words[:2] == ["docker", "run"]:
        starts += [number + 1 for number, word in enumerate(words) if word.startswith("sharelm:")]
    for rest in (words[start:] for start in starts):
        name = Path(rest[0]).name if rest else ""
        if name == "python" and rest[1] == "-m" and rest[2].partition(".")[0] in ("jobs", "sharelm", "cluster"):
            yield rest
        elif name in ("sharelm", "ray"):
            yield [name, *rest[1:]]


def parse(words: list[str]) -> None:
    """Parse one command of `ours`; `AssertionError` where its program would refuse the words. Nothing runs."""
    if words[0] == "sharelm":
        _parse_click(typer.main.get_command(app), words[1:])
    elif words[0] == "ray":
        from ray.scripts.scripts import cli

        end = words.index("--") + 1 if "--" in words else len(words)
        _parse_click(cli, [*words[1:end], *(["entrypoint"] if end < len(words) else [])])
    else:
        _parse_module(words[2], words[3:])


def _parse_click(command: Any, words: list[str]) -> None:
    while hasattr(command, "commands"):
        if not words or words[0].startswith("--"):
            assert words in ([], ["--help"]), words
            return
        name, *words = words
        if name not in command.commands:
            _not_there_yet(name)
            raise AssertionError(f"there is no command {name}")
        command = command.commands[name]
    try:
        with patch("cluster.profile.use_profile"):  # whether this machine has the profile is not asked
            command.make_context(command.name, list(words))
    except Exception as error:  # click's or, with the same names, Typer's own copy of it
        raise AssertionError(f"{command.name}: {error}") from error


def _parse_module(module: str, words: list[str]) -> None:
    spec = importlib.util.find_spec(module)
    if spec is None or not Path(str(spec.origin)).is_relative_to(ROOT):  # or another checkout's, installed here
        _not_there_yet(module.rpartition(".")[2])
        raise AssertionError(f"there is no module {module}")
    original = argparse.ArgumentParser.parse_args

    def parse_only(self: Any, *given: Any, **more: Any) -> Any:
        raise _Parsed(original(self, *given, **more))

    with patch.object(argparse.ArgumentParser, "parse_args", parse_only):
        try:
            importlib.import_module(module).main(words)
        except _Parsed:
            return
        except SystemExit as refused:
            raise AssertionError(f"{module} refuses {words}") from refused
    raise AssertionError(f"{module} parses nothing")


def _not_there_yet(name: str) -> None:
    if name == NIGHTLY:
        pytest.xfail("`sharelm nightly` and jobs.nightly are not there yet; this passes or fails once they are")

"""Profiles: a cluster by name. What wins over what, and files that are refused."""

import os

import pytest
from typer.testing import CliRunner

from cluster import cli
from cluster.options import DEFAULT_ADDRESS
from cluster.profile import config_file, load_config
from sharelm.errors import InputError

LAB = """
default_profile = "{default}"

[profile.lab]
address = "http://lab:8265"
store = "lab-store"
token_file = "/lab/token"
image = "lab:1"

[profile.other]
address = "http://other:8265"
store = "other-store"
"""
OF_A_USER = ("SHARELM_", "RAY_", "XDG_CONFIG_HOME")


def write(home, text):
    path = home / ".config" / "sharelm" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in [*os.environ, "RAY_AUTH_TOKEN_PATH"]:
        if name.startswith(OF_A_USER):
            monkeypatch.setenv(name, "")  # so that it is put back
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


class Asked(Exception):
    """Address, store and token file that a command came to."""


@pytest.fixture
def asked(home, monkeypatch):
    """Call it with a command's arguments: address, store and token file that it speaks to a cluster with."""

    def connect(address):
        raise Asked(address, None, os.environ.get("RAY_AUTH_TOKEN_PATH"))

    def committed(store, name):
        raise Asked(None, store, os.environ.get("RAY_AUTH_TOKEN_PATH"))

    monkeypatch.setattr("cluster.access.greet", connect)
    monkeypatch.setattr("cluster.evidence.stored_verdict", committed)

    def call(*arguments):
        result = CliRunner().invoke(cli.app, list(arguments))
        if not isinstance(result.exception, Asked):
            raise result.exception or AssertionError(result.output)
        return result.exception.args

    return call


def test_a_flag_wins_over_the_environment_over_the_profile_over_the_default(home, asked, monkeypatch):
    def address(*flags):
        return asked("logs", "x", *flags)[0]

    def store(*flags):
        return asked("verdict", "x", *flags)[1]

    assert (address(), store()) == (DEFAULT_ADDRESS, cli.DEFAULT_STORE)
    write(home, LAB.format(default="lab"))
    assert (address(), store()) == ("http://lab:8265", "lab-store")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://env:8265")
    monkeypatch.setenv("SHARELM_STORE", "env-store")
    assert (address(), store()) == ("http://env:8265", "env-store")
    assert address("--address", "http://flag:8265") == "http://flag:8265"
    assert store("--store", "flag-store") == "flag-store"


def test_which_profile_is_a_question_of_flag_environment_and_default(home, asked, monkeypatch):
    write(home, LAB.format(default="lab"))
    assert asked("logs", "x")[0] == "http://lab:8265"
    monkeypatch.setenv("SHARELM_PROFILE", "other")
    assert asked("logs", "x")[0] == "http://other:8265"
    assert asked("logs", "x", "--profile", "lab")[0] == "http://lab:8265"
    write(home, LAB.format(default="lab").replace('default_profile = "lab"', ""))
    monkeypatch.delenv("SHARELM_PROFILE")
    assert asked("logs", "x")[0] == DEFAULT_ADDRESS


@pytest.mark.parametrize(
    ("variable", "value", "seen"),
    [
        (None, "", "/lab/token"),
        ("RAY_AUTH_TOKEN_PATH", "/my/token", "/my/token"),
        ("RAY_AUTH_TOKEN", "abc", None),  # which Ray reads before any file
    ],
)
def test_the_environments_token_wins_over_the_profiles(home, asked, monkeypatch, variable, value, seen):
    write(home, LAB.format(default="other"))
    if variable:
        monkeypatch.setenv(variable, value)
    assert asked("status", "--profile", "lab")[2] == seen


def test_a_command_that_speaks_to_no_cluster_gets_no_token(home, asked):
    write(home, LAB.format(default="lab"))
    assert asked("verdict", "x") == (None, "lab-store", None)
    assert asked("logs", "x")[2] == "/lab/token"


def test_home_is_filled_in_and_xdg_config_home_is_honoured(home, asked, monkeypatch):
    write(home, '[profile.a]\ntoken_file = "~/.ray/a"\n')
    assert asked("logs", "x", "--profile", "a")[2] == f"{home}/.ray/a"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # the standard: to be ignored
    assert config_file() == home / ".config" / "sharelm" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{home}/elsewhere")
    assert config_file() == home / "elsewhere" / "sharelm" / "config.toml"
    with pytest.raises(InputError, match=r"elsewhere/sharelm/config\.toml cannot be read: No such file"):
        asked("logs", "x", "--profile", "a")


SECRET = "0123456789abcdef" * 4
BAD = [
    ('[profile.a]\nstor = "x"', ["profile.a.stor = 'x' is not a known key", "did you mean 'store'"]),
    ('[profil.a]\nstore = "x"', ["profil is not a known key", "did you mean 'profile'"]),
    ('[profile.a]\naddress = "head:8265"', ["profile.a.address = 'head:8265'", "http://HEAD:8265"]),
    ("[profile.a]\nstore = 3", ["profile.a.store = 3", "string"]),
    ('[profile.a]\nstore = " "', ["profile.a.store = ' '", "empty"]),
    ('[profile.a]\ntoken_file = "token"', ["profile.a.token_file = 'token'", "absolute path"]),
    ('default_profile = "b"\n[profile.a]', ["default_profile = 'b'", "there are a"]),
    ("[profile.a", ["is not TOML"]),
    # what a secret may be is not repeated
    (f'[profile.a]\ntoken = "{SECRET}"', ["profile.a.token", "token_file", "only you can read"]),
    (f'token = "{SECRET}"', ["token: a token has no place in this file"]),
    (f'[profile.a]\ntokn = "{SECRET}"', ["profile.a.tokn is not a known key"]),
    ('[profile.a]\naws_secret_access_key = "short"', ["profile.a.aws_secret_access_key is not a known key"]),
    (f'[profile.a]\ntoken_file = "{SECRET}"', ["profile.a.token_file: ", "absolute path"]),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=[text.splitlines()[-1][:24] for text, _ in BAD])
def test_a_file_that_is_not_right_is_one_sentence(home, text, words):
    path = write(home, text)
    with pytest.raises(InputError) as refused:
        load_config(path)
    said = str(refused.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert SECRET not in said
    assert "short" not in said
    for word in words:
        assert word in said


def test_at_the_terminal_it_is_exit_code_2(sharelm, tmp_path):
    def refused(*arguments, **environment):
        done = sharelm("tables", *arguments, XDG_CONFIG_HOME=str(tmp_path / ".config"), **environment)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        return done.stderr

    assert "--profile = 'lab': " in refused("--profile", "lab")
    path = write(tmp_path, '[profile.lab]\ntoken = "abc"')
    said = refused("--profile", "lab")
    assert f"sharelm: {path}: profile.lab.token: a token has no place" in said
    assert "abc" not in said
    write(tmp_path, '[profile.lab]\nstore = "there"')
    assert "--profile = 'lba' is not in" in refused(SHARELM_PROFILE="lba")
    done = sharelm("tables", "--profile", "lab", XDG_CONFIG_HOME=str(tmp_path / ".config"))
    assert done.stdout == "there has no tables\n"

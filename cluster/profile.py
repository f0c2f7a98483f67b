"""Clusters by name: the profiles of `~/.config/sharelm/config.toml`. They never hold a token, only its file's name.

An option wins over the environment, the environment over the profile, the profile over the default.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sharelm.errors import InputError, nearest

_SECRET_WORDS = ("token", "secret", "password", "key", "credential")


class Profile(BaseModel):
    """What is to be known of a cluster to send a study there."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    address: str | None = None  # of its job server
    store: str | None = None
    token_file: str | None = None
    image: str | None = None  # that its nodes are meant to run

    @field_validator("address")
    @classmethod
    def _a_url(cls, address: str | None) -> str | None:
        if address is not None and not address.startswith(("http://", "https://")):
            raise ValueError("it is the job server's URL, for example http://HEAD:8265")
        return address

    @field_validator("token_file")
    @classmethod
    def _the_same_everywhere(cls, file: str | None) -> str | None:
        if file is not None and not Path(file).expanduser().is_absolute():
            raise ValueError("it is an absolute path, or begins with ~/")
        return file

    @field_validator("store", "image")
    @classmethod
    def _something(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError("it is empty; leave it out instead")
        return text


class Config(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    default_profile: str | None = None
    profile: dict[str, Profile] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _default_is_there(self) -> Config:
        if self.default_profile is not None and self.default_profile not in self.profile:
            raise ValueError(f"default_profile = {self.default_profile!r} is no profile{_there(self, None)}")
        return self


def _there(config: Config, name: str | None) -> str:
    known = sorted(config.profile)
    if not known:
        return "; there are none"
    return nearest(name, known) if name is not None else f"; there are {', '.join(known)}"


def config_file() -> Path:
    """Where the profiles are: below `XDG_CONFIG_HOME`, or `~/.config` without it."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".config"  # a relative one is to be ignored
    return folder / "sharelm" / "config.toml"


def _sentence(error: Any) -> str:
    """What is wrong, with field and value; the value of what may be a secret is not repeated."""
    location = [str(key) for key in error["loc"]]
    field, value = ".".join(location), error.get("input")
    if error["type"] == "extra_forbidden":
        key = location[-1]
        if key == "token":
            return (
                f"{field}: a token has no place in this file, which is copied, shared and shown; keep it in a file of "
                "its own that only you can read, and name that as token_file"
            )
        known = Profile.model_fields if len(location) > 1 else Config.model_fields
        shown = "" if any(word in key.lower() for word in _SECRET_WORDS) else _value(value)
        return f"{field}{shown} is not a known key{nearest(key, known)}"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if message[:2].istitle() else message
    return f"{field}{_value(value)}: {message}" if field else message


def _value(value: object) -> str:
    """` = VALUE` for a message; nothing for a table, and for what is as long and unbroken as tokens and keys are."""
    if not isinstance(value, str | int | float | bool | list):
        return ""
    text = str(value)
    return "" if len(text) >= 20 and not any(mark in text for mark in " /:.") else f" = {value!r}"


def load_config(path: Path) -> Config:
    """The profiles in this file; `InputError`, one sentence, where it cannot be read or is not right."""
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        first, *others = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        more = f" (and {len(others)} more)" if others else ""
        raise InputError(f"{path}: {_sentence(first)}{more}") from None


def find_profile(name: str | None) -> Profile | None:
    """The profile of this name; without a name the default one, or None where there is no file or no default.

    Raises `InputError` for a name that the file does not have.
    """
    path = config_file()
    if name is None and not path.exists():
        return None
    if name is not None and not path.exists():
        raise InputError(f"--profile = {name!r}: {path} cannot be read: No such file or directory")
    config = load_config(path)
    chosen = config.default_profile if name is None else name
    if chosen is None:
        return None
    if chosen not in config.profile:
        raise InputError(f"--profile = {chosen!r} is not in {path}{_there(config, chosen)}")
    return config.profile[chosen]


def use_profile(context: typer.Context, name: str | None) -> None:
    """Make the profile's values the defaults of this command's options, and its token file the one that Ray reads.

    A command that speaks to no cluster gets no token: a Ray of this machine's own is not to take a cluster's.
    """
    profile = find_profile(name)
    if profile is None:
        return
    context.default_map = profile.model_dump(include={"address", "store", "image"}, exclude_none=True)
    if profile.token_file is None or not any(parameter.name == "address" for parameter in context.command.params):
        return
    if not os.environ.get("RAY_AUTH_TOKEN") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(Path(profile.token_file).expanduser())

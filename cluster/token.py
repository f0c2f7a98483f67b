"""Ray's token authentication as seen from the environment, without importing Ray."""

from __future__ import annotations

import os
from pathlib import Path


def token_file() -> Path:
    """Where Ray looks for its token: `RAY_AUTH_TOKEN_PATH`, or its own default."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def token() -> str | None:
    """The token that Ray would send, or None."""
    given = os.environ.get("RAY_AUTH_TOKEN")
    if given:
        return given
    try:
        return token_file().read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def use_token_if_there() -> None:
    """Make Ray send the token if there is one, as its command line does; a RAY_AUTH_MODE that is set is kept.

    Ray's job client, unlike its `ray start`, does not look for a token by itself. To be called before Ray is imported.
    """
    if token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")

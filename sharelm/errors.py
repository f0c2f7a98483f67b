"""The kinds of failure a user can meet. One root; the exit code belongs to the kind."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause for the message about an unknown word: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """An error's kind and the first line that it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


class ShareLMError(Exception):
    """Something went wrong while working; the message is one sentence for the user."""

    exit_code = 1


class InputError(ShareLMError):
    """Bad input: the message names the file, the field and the value. Nothing was spent."""

    exit_code = 2


class StoreError(ShareLMError):
    """The store cannot be reached, read or written."""

    exit_code = 2


class IntegrityError(StoreError):
    """An object in the store is not what its manifest says it is; nothing of it was used."""

    exit_code = 1


class DivergedError(ShareLMError):
    """Training met a loss or gradient that is not finite; the last checkpoint was kept."""

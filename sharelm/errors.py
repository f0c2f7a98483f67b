"""The kinds of failure a user can meet. One root; the exit code belongs to the kind."""


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

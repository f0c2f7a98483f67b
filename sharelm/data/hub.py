"""`hf:NAME[:SPLIT]`: documents through the `datasets` library, from the Hugging Face hub or a local folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharelm.errors import InputError
from sharelm.study.data import Source


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError("an hf: source needs the datasets library: pip install 'sharelm[hf]'") from error
    datasets.disable_progress_bars()
    return datasets


def _parsed(uri: str, base: Path) -> tuple[str, str | None, str]:
    """Path or name, configuration and split of `hf:OWNER/NAME[/CONFIG][:SPLIT]`; a local folder is preferred."""
    name, _, split = uri.removeprefix("hf:").partition(":")
    local = base / Path(name).expanduser()
    if local.exists():
        return str(local), None, split or "train"
    parts = name.split("/")
    return "/".join(parts[:2]), "/".join(parts[2:]) or None, split or "train"


def _builder(uri: str, base: Path) -> tuple[Any, str]:
    path, config, split = _parsed(uri, base)
    try:
        return _library().load_dataset_builder(path, config), split
    except InputError:
        raise
    except Exception as error:  # the library raises its own kinds, OSError, ValueError, and what its readers raise
        raise InputError(f"{uri} cannot be opened: {str(error).splitlines()[0]}") from error


def fingerprint(uri: str, base: Path) -> str:
    """The revision or, for local files, the hash of their content as `datasets` names its cache."""
    builder, split = _builder(uri, base)
    return f"{builder.hash} {split}"


def texts(source: Source, base: Path) -> Iterator[str]:
    """The text field of every row."""
    builder, split = _builder(source.uri, base)
    try:
        builder.download_and_prepare()
        rows = builder.as_dataset(split=split)
    except Exception as error:
        raise InputError(f"{source.uri} cannot be read: {str(error).splitlines()[0]}") from error
    if source.text_field not in rows.column_names:
        raise InputError(f"{source.uri} has no column {source.text_field!r}; there are {', '.join(rows.column_names)}")
    for number, row in enumerate(rows.select_columns([source.text_field]), 1):
        text = row[source.text_field]
        if not isinstance(text, str):
            raise InputError(f"{source.uri}, row {number}: {source.text_field!r} is not text")
        if text.strip():
            yield text

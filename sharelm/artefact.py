"""A model as the store keeps it: its weights with their shape and sharing, its tokenizer, its origin.

What scores, measures or exports a model takes this, and nothing of how the model came to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelm.errors import IntegrityError
from sharelm.store import Manifest, Store

MODELS = "models"
WEIGHTS = "weights.safetensors"  # shape and sharing are in its header
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Artefact:
    """A committed model.

    `weights` is a local file to be memory-mapped, `tokenizer` is JSON of the library tokenizers. `origin` says how the
    model came to be, its `kind` first; the digest of it names the model (`sharelm.steps.model_step`).
    """

    weights: Path
    tokenizer: str
    origin: Mapping[str, Any]


def commit_model(
    store: Store,
    study: str,
    name: str,
    weights: Path,
    tokenizer: str,
    origin: Mapping[str, Any],
    labels: Mapping[str, Any],
) -> Manifest:
    """Commit a model under the digest of its origin. `labels` tell people what it is; nothing is found by them."""
    files: dict[str, bytes | Path] = {WEIGHTS: weights, TOKENIZER: tokenizer.encode()}
    return store.commit(MODELS, study, name, files, facts={**labels, "origin": dict(origin)})


def open_model(store: Store, study: str, name: str) -> Artefact:
    """The committed model of this name; `IntegrityError` where there is none."""
    manifest = store.find(MODELS, study, name)
    if manifest is None:
        raise IntegrityError(f"study {study!r} has no model {name} in {store.uri}")
    tokenizer = store.read_bytes(manifest, TOKENIZER).decode()
    return Artefact(store.fetch(manifest, WEIGHTS), tokenizer, manifest.facts["origin"])

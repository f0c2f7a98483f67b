"""Object storage: commit, read, list."""

from sharelm.store.manifest import FileRecord, Manifest
from sharelm.store.store import Attempt, Store, open_store

__all__ = ["Attempt", "FileRecord", "Manifest", "Store", "open_store"]

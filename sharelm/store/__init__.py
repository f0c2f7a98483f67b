"""Object storage: commit, read, list; the tables' schemas."""

from sharelm.store.manifest import FileRecord, Manifest
from sharelm.store.schemas import SCHEMA_VERSION, TABLES
from sharelm.store.store import Attempt, Store, open_store

__all__ = ["SCHEMA_VERSION", "TABLES", "Attempt", "FileRecord", "Manifest", "Store", "open_store"]

"""The tables a study's evidence stands in: their schemas, and the page that describes them."""

from sharelm.tables.schemas import PARTITIONS, SCHEMA_VERSION, TABLES

__all__ = ["PARTITIONS", "SCHEMA_VERSION", "TABLES"]

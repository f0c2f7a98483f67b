"""`python -m sharelm.tables.describe`: the page `docs/tables.md`, from the schemas themselves."""

from __future__ import annotations

from sharelm.tables.schemas import PARTITIONS, SCHEMA_VERSION, TABLES

_ROW_OF = {
    "trials": "one training run of one arm with one seed",
    "steps": "one optimizer step of one trial",
    "distances": "one matrix of one depth of a softly tied trial, when it is trained",
    "scores": "one scored item of one trial",
    "costs": "one measured workload of one trial",
    "tunings": "one learning rate that an arm was tried with, where the study tunes them",
    "comparisons": "a variant beside one of its twins, on one task and domain",
    "sharing_worth": "one quantity of a variant: the depth it is worth, phi, or a price of storage",
    "verdicts": "one finding about a variant: on an axis, a KPI or a roll-out stage",
    "history": "one metric of one night beside its accepted baseline",
    "baselines": "a baseline that somebody moved to a later night, and why",
}

_HEAD = """\
# The tables

<!-- Written by `python -m sharelm.tables.describe > docs/tables.md`; a test fails when it is out of date. -->

What a study finds lies in {tables} Arrow tables, schema version {version}, as zstd Parquet in the store: a local folder
or `s3://bucket/prefix`. Units stand in the names of the columns. `--store` says where; below it the keys are

    <table>/study=<name>/step=<digest>/manifest.json
    <table>/study=<name>/step=<digest>/<attempt>-<part of the file's sha256>-rows.parquet
    studies/study=<name>/revision-0001.json

The same layout holds what is not a table (token shards, checkpoints, weights). `study` and `step` are hive partitions:
they stand in the path, not in the files, and every reader adds them as columns.

## Reading

```python
from sharelm.store import open_store

store = open_store("results")  # or s3://bucket/prefix
scores = store.read("scores", "quickstart")  # a pyarrow.Table; every file was checked against its manifest
```

DuckDB reads the same files. Give it the committed ones:

```python
import duckdb

files = store.files("trials", "quickstart")
duckdb.sql(
    "select arm, avg(final_loss_nats) from read_parquet($files, hive_partitioning = true) group by arm",
    params={{"files": files}},
)
```

For an S3 store say first `duckdb.register_filesystem(s3fs.S3FileSystem())` (or load DuckDB's own httpfs extension).
A glob is shorter, but it also finds the files of an attempt that was killed or is still under way, and checks nothing:

```sql
select * from read_parquet('results/trials/*/*/*.parquet', hive_partitioning = true) where study = 'quickstart'
```

## Manifests

A step's files exist once `manifest.json` names them. It holds the version of its own format, the schema version (null
for what is not a table), table, study, step, attempt, the number of rows, small facts, the time of the commit (UTC),
and of every file the name, key, size in bytes and sha256. Readers read only what a manifest names, all of it, and
check each file's size and sha256 first; a file that is missing, truncated or altered is named and nothing is read.

A writer must never:

1. Write to the final key of a file before the whole file is in local memory or on local disk.
2. Stream into an open S3 handle: leaving it by an exception publishes what was written so far.
3. Use one attempt's id for two tries at a step, or put a file under another attempt's id.
4. Put the manifest before every file it names was put.
5. Put the manifest without `If-None-Match: *` (in a folder: other than by a hard link), or in several parts.
6. Replace or edit a manifest, or a file that a manifest names.
7. Remove a step's files before its manifest.
8. Name a step by anything but the digest of all that its result depends on.
9. Add, drop or redefine a column without raising the schema version.
10. Trust a store whose second conditional put of one key succeeds (`sharelm doctor` tries it).

An attempt that finds a manifest in its place takes that result for its own and removes its own files.
"""


def page() -> str:
    """The whole page, in Markdown."""
    parts = [_HEAD.format(version=SCHEMA_VERSION, tables=len(TABLES))]
    for table, schema in TABLES.items():
        rows = [(field.name, str(field.type), field.metadata[b"meaning"].decode()) for field in schema]
        rows += [(name, "string, partition", meaning) for name, meaning in PARTITIONS.items()]
        lines = "\n".join(f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in rows)
        parts.append(
            f"## {table}\n\nA row is {_ROW_OF[table]}.\n\n| column | type | meaning |\n|---|---|---|\n{lines}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")

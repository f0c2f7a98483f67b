"""Committing and reading, on a folder and on a real S3 server."""

import json
import pickle
import uuid

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharelm.errors import InputError, IntegrityError, StoreError
from sharelm.store import FileRecord, open_store
from sharelm.tables import SCHEMA_VERSION, TABLES
from sharelm.tables.rows import Finding, SharingWorthRow
from sharelm.tables.rows import rows_of as typed_rows
from sharelm.words import spoken, why
from tests.sharelm.store_helpers import rows_of


@pytest.fixture
def store(store_uri):
    return open_store(store_uri)


def overwrite(store, key, data):
    store.objects.delete([key])
    store.objects.put(key, data)


def test_a_step_is_found_only_once_committed(store, tmp_path):
    assert store.find("weights", "s", "a1") is None
    file = tmp_path / "weights.bin"
    file.write_bytes(b"\0\1" * 5000)
    manifest = store.commit("weights", "s", "a1", {"w.bin": file, "note": b"hi"}, facts={"loss": 1.5})
    assert store.find("weights", "s", "a1") == manifest
    assert store.read_bytes(manifest, "note") == b"hi"
    assert store.fetch(manifest, "w.bin").read_bytes() == file.read_bytes()
    assert manifest.facts == {"loss": 1.5}
    assert [record.name for record in manifest.files] == ["note", "w.bin"]
    assert manifest.schema_version is None


def test_the_second_commit_returns_the_first_and_leaves_nothing(store):
    first = store.attempt("tokens", "s", "a1")
    second = store.attempt("tokens", "s", "a1")
    records = [first.put("x", b"first"), first.put("y", b"same")]
    losers = [second.put("x", b"second"), second.put("y", b"same")]
    done = first.commit(records)
    assert second.commit(losers) == done
    assert store.commit("tokens", "s", "a1", {"x": b"third"}) == done
    assert store.read_bytes(done, "x") == b"first"
    keys = store.objects.list("tokens")
    assert sorted(keys) == sorted([*(r.key for r in done.files), "tokens/study=s/step=a1/manifest.json"])


def test_processes_of_one_attempt_put_and_one_commits(store):
    ranks = [store.attempt("checkpoints", "s", "a1", "shared") for _ in range(3)]
    messages = [json.dumps(rank.put(f"rank{i}.pt", b"%d" % i).as_json()) for i, rank in enumerate(ranks)]
    manifest = ranks[0].commit([FileRecord(**json.loads(message)) for message in messages], facts={"step": 7})
    assert [store.read_bytes(manifest, f"rank{i}.pt") for i in range(3)] == [b"0", b"1", b"2"]


def test_no_put_alters_a_committed_file(store):
    manifest = store.attempt("tokens", "s", "a1", "again").commit(
        [store.attempt("tokens", "s", "a1", "again").put("x", b"committed")]
    )
    store.attempt("tokens", "s", "a1", "again").put("x", b"a late put of an attempt that was thought dead")
    assert store.read_bytes(manifest, "x") == b"committed"


def test_manifests_are_listed_by_study_and_step(store):
    for study, step in (("b", "2"), ("a", "3"), ("b", "1")):
        store.commit("tokens", study, step, {"x": step.encode()})
    store.attempt("tokens", "a", "4").put("x", b"never committed")
    assert [(m.study, m.step) for m in store.manifests("tokens")] == [("a", "3"), ("b", "1"), ("b", "2")]
    assert [m.step for m in store.manifests("tokens", "b")] == ["1", "2"]
    assert store.manifests("tokens", "nobody") == []


def two_a_page(store):
    """Let this S3 store's listings have pages of two keys."""
    whole = store.objects._fs._call_s3

    async def call(method, **arguments):
        return await whole(method, **arguments, **({"MaxKeys": 2} if method == "list_objects_v2" else {}))

    store.objects._fs._call_s3 = call


@pytest.mark.s3
def test_more_steps_than_a_page_of_a_listing(s3_uri):
    store = open_store(s3_uri)
    for number in range(7):
        store.commit("tokens", "s", str(number), {"x": b"x"})
    two_a_page(store)
    assert len(store.manifests("tokens")) == 7
    assert len(store.objects.list("tokens")) == 14


names = st.text(st.sampled_from("09afgzA.-_"), min_size=1, max_size=4).filter(lambda name: name[0].isalnum())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    committed=st.sets(names, max_size=8),
    half=st.sets(names, max_size=4),
    near=st.sets(names, max_size=2),
    small=st.booleans(),
)
def test_steps_are_those_that_have_a_manifest(store, committed, half, near, small):
    """Listed by keys, of any names and in pages of any size: what `find` and the manifests say."""
    study = uuid.uuid4().hex
    for step in committed:
        store.commit("tokens", study, step, {"x": b"x"})
    for step in half - committed:
        store.attempt("tokens", study, step).put("x", b"never committed")
    for step in near:
        store.commit("tokens", f"{study}.", step, {"x": b"of a study whose name begins alike"})
    fresh = open_store(store.uri)
    if small and store.uri.startswith("s3://"):
        two_a_page(fresh)
    assert fresh.steps("tokens", study) == committed
    assert {step for step in committed | half if fresh.find("tokens", study, step)} == committed
    assert [m.step for m in fresh.manifests("tokens", study)] == sorted(committed)
    some = {*sorted(committed)[::2], *half}
    assert [m.step for m in fresh.manifests("tokens", study, some)] == sorted(committed & some)


def test_a_step_is_listed_from_its_manifest_to_its_removal(store):
    attempt = store.attempt("tokens", "s", "a1")
    record = attempt.put("manifest.json", b"a file of this name is no manifest")
    assert store.steps("tokens", "s") == set()
    manifest = attempt.commit([record])
    assert store.steps("tokens", "s") == {"a1"}
    assert store.steps("tokens", "other") == store.steps("weights", "s") == set()
    store.remove(manifest)
    assert store.steps("tokens", "s") == set()


@pytest.mark.parametrize("table", TABLES)
def test_rows_come_back_with_their_partitions(store, table):
    store.commit_rows(table, "s", "b", rows_of(table, 3))
    store.commit_rows(table, "s", "a", rows_of(table, 2, start=3))
    store.commit_rows(table, "t", "c", rows_of(table, 1))
    read = store.read(table, "s")
    assert read.column("step").to_pylist() == ["a", "a", "b", "b", "b"]
    assert set(read.column("study").to_pylist()) == {"s"}
    expected = pa.concat_tables([rows_of(table, 2, start=3), rows_of(table, 3)])
    assert read.drop_columns(["study", "step"]).to_pylist() == expected.to_pylist()
    assert len(store.read(table)) == 6
    assert store.find(table, "s", "b").rows == 3


def test_rows_of_named_steps_only(store):
    for step in ("a", "b", "c"):
        store.commit_rows("scores", "s", step, rows_of("scores", 2))
    assert store.read("scores", "s", steps=["c", "a"]).column("step").to_pylist() == ["a", "a", "c", "c"]
    assert len(store.read("scores", "s", steps=[])) == 0
    manifest = store.find("scores", "s", "b")
    assert store.files("scores", "s", steps=["b"]) == [store.address(manifest, "rows.parquet")]


def test_a_table_without_rows_has_its_schema(store):
    empty = store.read("costs", "nobody")
    assert empty.schema.names == [*TABLES["costs"].names, "study", "step"]
    assert len(empty) == 0
    store.commit_rows("costs", "s", "a", rows_of("costs", 1))
    assert store.read("costs").schema == empty.schema


values = {
    pa.string(): st.none() | st.text(max_size=20),
    pa.float64(): st.none() | st.floats(allow_nan=False),
    pa.int64(): st.none() | st.integers(-(2**63), 2**63 - 1),
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({f.name: values[f.type] for f in TABLES["scores"]}), max_size=5))
def test_any_rows_survive(store, rows):
    table = pa.Table.from_pylist(rows, schema=TABLES["scores"])
    study = uuid.uuid4().hex
    manifest = store.commit_rows("scores", study, "a", table)
    read = store.read("scores", study).drop_columns(["study", "step"])
    assert read.to_pylist() == rows
    assert manifest.rows == len(rows)


def test_rows_that_do_not_fit_are_refused(store):
    good = rows_of("verdicts", 2)
    for bad, words in [
        (good.drop_columns(["code"]), "0 columns 'code'"),
        (good.append_column("extra", good.column("value")), "'extra' that its schema does not know"),
        (good.append_column("value", good.column("value")), "2 columns 'value'"),
        (good.set_column(6, "value", pa.array(["a", "b"])), "'value' is not double"),
    ]:
        with pytest.raises(StoreError, match=words):
            store.commit_rows("verdicts", "s", "a", bad)
    with pytest.raises(StoreError, match="'nothing' is not a table"):
        store.commit_rows("nothing", "s", "a", good)
    assert store.manifests("verdicts") == []


def test_columns_are_put_in_order_and_cast(store):
    rows = rows_of("verdicts", 2).set_column(6, "value", pa.array([1, 2])).set_column(7, "threshold", pa.nulls(2))
    store.commit_rows("verdicts", "s", "a", rows.select(rows.column_names[::-1]))
    read = store.read("verdicts")
    assert read.column("value").to_pylist() == [1.0, 2.0]
    assert read.column("threshold").to_pylist() == [None, None]


def test_a_newer_schema_is_refused(store):
    manifest = store.commit_rows("scores", "s", "a", rows_of("scores", 1))
    key = "scores/study=s/step=a/manifest.json"
    newer = json.loads(store.objects.get(key)) | {"schema_version": SCHEMA_VERSION + 1}
    overwrite(store, key, json.dumps(newer).encode())
    with pytest.raises(StoreError, match=f"table scores.*schema version {SCHEMA_VERSION + 1}.*upgrade"):
        store.read("scores")
    overwrite(store, key, json.dumps(newer | {"version": 99, "new_key": 1}).encode())
    with pytest.raises(StoreError, match=r"manifest of version 99.*upgrade"):
        store.find("scores", "s", "a")
    overwrite(store, key, manifest.to_json()[:40])
    with pytest.raises(IntegrityError, match=r"step=a/manifest\.json is not a manifest"):
        store.manifests("scores")


def test_a_column_that_an_older_schema_lacked_is_null(store, tmp_path):
    rows = rows_of("trials", 2)
    pq.write_table(rows.drop_columns(["epochs"]), tmp_path / "rows.parquet")
    files = {"rows.parquet": (tmp_path / "rows.parquet").read_bytes()}
    store.commit("trials", "s", "a", files, rows=2)
    with pytest.raises(StoreError, match="does not have the columns of table trials"):
        store.read("trials")
    key = "trials/study=s/step=a/manifest.json"
    older = json.loads(store.objects.get(key)) | {"schema_version": 1}
    overwrite(store, key, json.dumps(older).encode())
    store.commit_rows("trials", "s", "b", rows)
    assert store.read("trials")["epochs"].to_pylist() == [None, None, *rows["epochs"].to_pylist()]
    assert store.read("trials")["tokens"].to_pylist() == 2 * rows["tokens"].to_pylist()


def commit_older(store, path, table, row, version):
    """Commit a row as an older version wrote it."""
    pq.write_table(pa.Table.from_pylist([row]), path)
    store.commit(table, "s", "a", {"rows.parquet": path.read_bytes()}, rows=1)
    key = f"{table}/study=s/step=a/manifest.json"
    overwrite(store, key, json.dumps(json.loads(store.objects.get(key)) | {"schema_version": version}).encode())


def test_a_verdict_of_an_older_schema_is_read_and_says_so(store, tmp_path):
    """Before version 4 a row held its sentence, which later versions make of a code and figures."""
    row = {"variant": "cycle", "kind": "kpi", "name": "upkeep", "outcome": "met", "measure": "loss spikes"}
    row |= {"value": 0.0, "threshold": 0.0, "reason": "0 loss spikes (at most 0)."}
    commit_older(store, tmp_path / "rows.parquet", "verdicts", row, version=3)
    (read,) = typed_rows(Finding, store.read("verdicts"))
    assert (read.outcome, read.value, read.code, read.figures) == ("met", 0.0, None, {})
    assert spoken(read)["sentence"] == "An older ShareLM recorded this; its report says why."


def test_a_worth_of_an_older_schema_is_read_without_its_sentence(store, tmp_path):
    """Before version 5 a row held the sentence why a figure is missing."""
    row = {"variant": "cycle", "quantity": "phi", "value": None, "interval_low": None, "interval_high": None}
    row |= {"confidence": 0.95, "against": ["independent"], "removed_percent": None, "seeds": 0, "documents": 0}
    commit_older(store, tmp_path / "rows.parquet", "sharing_worth", row | {"reason": "it was not scored"}, version=4)
    (read,) = typed_rows(SharingWorthRow, store.read("sharing_worth"))
    assert (read.quantity, read.confidence, read.against, read.code, read.figures) == (
        "phi", 0.95, ["independent"], None, {},
    )  # fmt: skip
    assert why(read) is None


def damage_truncate(store, key):
    overwrite(store, key, store.objects.get(key)[:-1])


def damage_alter(store, key):
    data = bytearray(store.objects.get(key))
    data[len(data) // 2] ^= 1
    overwrite(store, key, bytes(data))


def damage_remove(store, key):
    store.objects.delete([key])


@pytest.mark.parametrize(
    ("damage", "words"),
    [(damage_truncate, "bytes but"), (damage_alter, "was altered"), (damage_remove, "is missing")],
)
def test_a_damaged_file_is_named_and_not_read(store, damage, words):
    manifest = store.commit_rows("scores", "s", "a", rows_of("scores", 20))
    store.commit_rows("scores", "s", "b", rows_of("scores", 20))
    key = manifest.files[0].key
    damage(store, key)
    for reading in (
        lambda: store.read("scores"),
        lambda: store.read_bytes(manifest, "rows.parquet"),
        lambda: store.fetch(manifest, "rows.parquet"),
    ):
        with pytest.raises(IntegrityError, match=words) as raised:
            reading()
        assert key in str(raised.value)


def test_a_file_damaged_after_it_was_fetched_is_noticed(tmp_path):
    store = open_store(str(tmp_path))
    manifest = store.commit("tokens", "s", "a", {"x": b"12345"})
    path = store.fetch(manifest, "x")
    damage_alter(store, manifest.files[0].key)
    with pytest.raises(IntegrityError, match="was altered"):
        store.fetch(manifest, "x")
    assert path == tmp_path / manifest.files[0].key


@pytest.mark.s3
def test_a_damaged_copy_in_the_cache_is_fetched_again(s3_uri, tmp_path):
    store = open_store(s3_uri)
    manifest = store.commit("tokens", "s", "a", {"x": b"12345"})
    path = store.fetch(manifest, "x")
    assert path.parent == tmp_path / "cache"
    inode = path.stat().st_ino
    assert store.fetch(manifest, "x").stat().st_ino == inode
    path.write_bytes(b"12346")
    assert store.fetch(manifest, "x").read_bytes() == b"12345"


def test_remove_takes_the_manifest_first(store, monkeypatch):
    manifest = store.commit("checkpoints", "s", "a", {"x": b"1", "y": b"2"})
    removed = []
    delete = store.objects.delete
    monkeypatch.setattr(store.objects, "delete", lambda keys: [(removed.append(k), delete([k])) for k in keys])
    store.remove(manifest)
    assert removed[0].endswith("manifest.json")
    assert store.find("checkpoints", "s", "a") is None
    assert store.objects.list("checkpoints") == []
    store.remove(manifest)


@pytest.mark.s3
def test_a_large_file_goes_up_and_comes_down_in_parts(s3_uri, tmp_path):
    store = open_store(s3_uri)
    large = tmp_path / "large"
    with large.open("wb") as file:
        for block in range(105):
            file.write(block.to_bytes(4, "big") * (1 << 18))
    manifest = store.commit("weights", "s", "a", {"w": large})
    (parts,) = [store.objects._fs.info(store.objects.address(r.key))["ETag"].count("-") for r in manifest.files]
    assert parts == 1  # the mark of an upload in parts
    assert store.fetch(manifest, "w").read_bytes() == large.read_bytes()
    store.remove(manifest)


def test_a_store_travels_to_other_processes(store):
    store.commit("tokens", "s", "a", {"x": b"1"})
    assert pickle.loads(pickle.dumps(store)).find("tokens", "s", "a") == store.find("tokens", "s", "a")


def test_duckdb_agrees_with_arrow(store):
    for step in ("a", "b"):
        store.commit_rows("scores", "s", step, rows_of("scores", 40, start=ord(step)))
    store.commit_rows("scores", "other", "a", rows_of("scores", 5))
    connection = duckdb.connect()
    if store.uri.startswith("s3://"):
        connection.register_filesystem(s3fs.S3FileSystem(skip_instance_cache=True))
    wanted = store.read("scores", "s")
    by_files = connection.sql(
        f"select * from read_parquet({store.files('scores', 's')!r}, hive_partitioning = true) order by step, seed"
    )
    glob = f"{store.uri}/scores/*/*/*.parquet"
    by_glob = connection.sql(
        f"select * from read_parquet('{glob}', hive_partitioning = true) where study = 's' order by step, seed"
    )
    for rows in (by_files, by_glob):
        assert rows.to_arrow_table().select(wanted.column_names).to_pylist() == wanted.to_pylist()


@pytest.mark.parametrize("uri", ["", "  ", "gs://bucket/x", "s3://", "s3:///prefix"])
def test_a_uri_that_is_no_store_is_refused(uri):
    with pytest.raises(InputError, match="store"):
        open_store(uri)


def test_names_cannot_leave_their_folder(store):
    for table, study, step in [("../x", "s", "a"), ("t", "s/../../x", "a"), ("t", "s", ""), ("t", ".hidden", "a")]:
        with pytest.raises(StoreError, match="cannot be part of a key"):
            store.commit(table, study, step, {"x": b"1"})
    with pytest.raises(StoreError, match="cannot be part of a key"):
        store.commit("t", "s", "a", {"../../x": b"1"})

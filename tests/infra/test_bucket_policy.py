"""The bucket's policy on a real S3 server: somebody who has it and nothing else can use the store, and only there."""

import json
import os
import uuid

import pytest

from sharelm.errors import StoreError
from sharelm.store.s3 import S3Objects
from tests.infra.built import INFRA

pytestmark = pytest.mark.s3


@pytest.fixture
def bucket(s3_uri):
    """A client of the owner, and a bucket of its own."""
    from botocore.session import get_session

    owner = get_session().create_client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    name = f"policy-{uuid.uuid4().hex}"
    owner.create_bucket(Bucket=name)
    yield owner, name
    for entry in owner.list_objects_v2(Bucket=name).get("Contents", []):
        owner.delete_object(Bucket=name, Key=entry["Key"])
    owner.delete_bucket(Bucket=name)


def apply_policy(bucket, change=lambda text: text):
    """The policy for whoever sends no credentials: what such a request may do, it may by the policy alone."""
    owner, name = bucket
    policy = json.loads(change((INFRA / "s3-policy.json").read_text().replace("BUCKET", name)))
    # the test's server speaks HTTP, which the last statement rightly refuses
    policy["Statement"] = [statement for statement in policy["Statement"] if statement["Effect"] == "Allow"]
    for statement in policy["Statement"]:
        statement["Principal"] = {"AWS": ["*"]}
    owner.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))


def stranger(bucket, prefix):
    """The store's own client below a prefix, without credentials."""
    return S3Objects(bucket[1], prefix, anonymous=True)


def test_the_store_works_below_the_prefix(bucket, tmp_path):
    apply_policy(bucket)
    store = stranger(bucket, "sharelm")
    store.check("check")
    store.put("a/one", b"1")
    assert store.put_new("a/two", b"2")
    assert not store.put_new("a/two", b"3")
    large = tmp_path / "large"
    large.write_bytes(bytes(120 * 2**20))  # s3fs sends it in parts
    store.put("a/large", large)
    assert store.get_many(["a/one", "a/none", "a/two"]) == [b"1", None, b"2"]  # missing, not refused
    assert store.list("a") == ["a/large", "a/one", "a/two"]
    store.delete(["a/one", "a/two", "a/large"])
    assert store.list("a") == []


def test_nothing_works_beside_the_prefix(bucket):
    owner, name = bucket
    owner.put_object(Bucket=name, Key="other/a/one", Body=b"1")
    apply_policy(bucket)
    other = stranger(bucket, "other")
    for refused in (
        lambda: other.put("a/two", b"2"),
        lambda: other.put_new("a/two", b"2"),
        lambda: other.get_many(["a/one"]),
        lambda: other.list("a"),
        lambda: other.delete(["a/one"]),
    ):
        with pytest.raises(StoreError, match="refuses these credentials"):
            refused()


def test_with_stringlike_a_missing_key_would_be_refused(bucket):
    """Why the policy says StringLikeIfExists."""
    apply_policy(bucket, lambda text: text.replace("StringLikeIfExists", "StringLike"))
    store = stranger(bucket, "sharelm")
    store.put("a/one", b"1")
    assert store.list("a") == ["a/one"]
    with pytest.raises(StoreError, match="refuses these credentials"):
        store.get_many(["a/none"])

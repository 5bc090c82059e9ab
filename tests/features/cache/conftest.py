"""A bucket for caches."""

import pytest

from tests.object_store import ObjectStore

URL = "s3://bucket/features"


@pytest.fixture
def bucket(object_store: ObjectStore) -> ObjectStore:
    """Return a store with the empty bucket of `URL`."""
    object_store.client.create_bucket(Bucket="bucket")
    return object_store

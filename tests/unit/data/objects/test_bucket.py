# SPDX-License-Identifier: Apache-2.0
"""What a place in a store must do before it is used."""

import obstore
import pytest
from finetree_data.objects.bucket import Bucket
from finetree_data.objects.errors import ObjectStoreRefusedError
from obstore.store import MemoryStore


def test_a_store_that_only_creates_where_it_is_asked_to_is_taken_and_left_empty():
    bucket = Bucket(MemoryStore())
    bucket.probe()
    assert bucket.keys("probe/") == []
    assert bucket.create("a", b"1")
    assert not bucket.create("a", b"2")
    assert bucket.read("a") == b"1"


def test_a_store_that_forgets_the_condition_of_a_write_is_refused(monkeypatch):
    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, key, content, **_: put(store, key, content))
    bucket = Bucket(MemoryStore())
    with pytest.raises(ObjectStoreRefusedError) as error:
        bucket.probe()
    assert error.value.problem == "UNSUPPORTED"
    assert bucket.keys("probe/") == []

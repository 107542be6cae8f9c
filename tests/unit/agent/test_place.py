"""Where a finished pull is shown."""

from __future__ import annotations

import pytest

from p2pcache.agent.args import Args
from p2pcache.agent.get import get_request
from p2pcache.agent.place import place
from p2pcache.sources.port import ListedFile, Listing
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.resolve import Resolution, manifest_of
from tests.support.stored import small_items

COMMIT = "c" * 40


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", StoreOptions(reserve_bytes=0)) as store:
        yield store


def test_a_hub_ref_is_shown_in_its_cache_and_in_a_folder_when_both_are_asked_for(store, tmp_path):
    (blob,) = store.publish_small(small_items(store, [b"hello"]))
    to, cache = tmp_path / "out", tmp_path / "hub"
    args = Args({"ref": "hf://org/name", "to": str(to), "hf_cache": str(cache)})
    request = get_request(args, links=True)
    file = ListedFile("a.txt", 5, blob.digest, "key", oid="a" * 40)
    listing = Listing("hf", "https://huggingface.co", COMMIT, True, (file,))
    resolution = Resolution(
        request.ref, "hf://org/name@main", listing, manifest_of(listing), 0.0, False
    )
    placed = place(request, resolution, [file], {"a.txt": blob})
    assert placed.path == to
    assert (to / "a.txt").read_bytes() == b"hello"
    snapshot = cache / "models--org--name" / "snapshots" / COMMIT
    assert (snapshot / "a.txt").read_bytes() == b"hello"

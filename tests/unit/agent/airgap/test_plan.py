"""What goes into a bundle, what stays at home, and what needs the user's word."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from p2pcache.agent.airgap import plan as plan_module
from p2pcache.agent.airgap.plan import plan
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.signed import parse_resolution, sign_resolution
from p2pcache.errors import Denied, NotFound, UsageError
from p2pcache.store.layout import StoreOptions
from p2pcache.store.records import Resolution
from p2pcache.store.rights import OTHERS
from p2pcache.store.store import Store
from p2pcache.transfer.resolve import ResolveOptions, Resolver
from tests.support.bundles import put
from tests.support.gated import ME, PEER

MAIN = "hf://org/model@main"


class World:
    """A store and what `plan` needs of an agent. `holds`: what was kept from eviction."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.parts = SimpleNamespace(
            store=store, resolver=Resolver([], store, ResolveOptions(), lambda: 1000.0)
        )
        self.held: set[bytes] = set()
        self.keys = 0

    def have(self, files: dict[str, bytes], *names: str, gated: bool = False, source: str = "hf"):
        manifest = put(self.store, files).manifest
        self.store.put_manifest(manifest)
        for name in names:
            self.store.record_resolution(
                Resolution(name, manifest.cid(), None, source, "https://hub", 1000.0, gated=gated)
            )
        return manifest

    def plan(self, *texts: str, gated: bool = False):
        def signer():
            self.keys += 1
            return ME

        return plan(self.parts, texts, gated, signer, self.held.update)

    def heard(self, name: str, manifest: bytes, *, restricted: bool = False) -> None:
        word = sign_resolution(
            PEER, canonical=name, manifest=manifest, immutable=None, source="hf",
            endpoint="https://hub", mutable=True, restricted=restricted, resolved_at=900.0,
        )  # fmt: skip
        self.store.others.put_word(word, 950.0)


@pytest.fixture
def world(tmp_path):
    with Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0)) as store:
        yield World(store)


def test_our_word_is_signed_and_that_of_others_goes_along(world):
    manifest = world.have({"f": b"1"}, MAIN)
    world.heard(MAIN, manifest.cid())
    world.heard(MAIN + "/other", manifest.cid())  # of a name that is not known here
    (one,) = world.plan("hf://org/model")
    assert [word.signer for word in one.names] == [ME.peer_id, PEER.peer_id]
    assert all(parse_resolution(word.to_wire()) == word for word in one.names)
    assert world.held == {blob.sha256 for blob in one.blobs.values()}


def test_a_word_of_others_is_not_given_as_ours(world):
    manifest = world.have({"f": b"1"}, MAIN, source=OTHERS)
    world.heard(MAIN, manifest.cid())
    (one,) = world.plan(MAIN)
    assert [word.signer for word in one.names] == [PEER.peer_id]
    assert world.keys == 0


def test_paths_of_this_machine_and_addresses_that_were_not_typed_stay_at_home(world):
    secret = refs.canonical(refs.parse_ref("https://host/f?token=secret"))
    path = "file:/home/me/model"
    manifest = world.have({"f": b"1"}, MAIN, secret, path, "hf://org/model@v1")
    by_name = {word.canonical for word in world.plan(MAIN)[0].names}
    assert by_name == {MAIN, "hf://org/model@v1"}
    typed = {word.canonical for word in world.plan(secret)[0].names}
    assert typed == {MAIN, "hf://org/model@v1", secret}
    by_cid = {word.canonical for word in world.plan(cids.format_cid(manifest.cid()))[0].names}
    assert by_cid == by_name
    assert {word.canonical for word in world.plan("/home/me/model")[0].names} == by_name


def test_what_is_restricted_needs_the_users_word_under_each_of_its_names(world):
    manifest = world.have({"f": b"secret"}, MAIN, gated=True)
    sha256 = refs.canonical(refs.DigestRef(manifest.files[0].digest))
    listed_elsewhere = world.have({"g": b"secret", "h": b"open"})
    texts = [MAIN, cids.format_cid(manifest.cid()), sha256]
    for text in [*texts, cids.format_cid(listed_elsewhere.cid())]:
        with pytest.raises(Denied):
            world.plan(text)
        assert world.plan(text, gated=True)[0].restricted
    world.have({"f": b"secret"}, "hf://org/open@main")  # an origin names it
    for text in texts:
        with pytest.raises(Denied):
            world.plan(text)
    world.store.rights.give(manifest.cid(), [manifest.files[0].digest])  # and has it
    for text in texts:
        assert not world.plan(text)[0].restricted


def test_a_word_that_says_restricted_of_open_content_stays_at_home(world):
    manifest = world.have({"f": b"1"}, MAIN)
    world.heard(MAIN, manifest.cid(), restricted=True)
    (one,) = world.plan(MAIN)
    assert [word.signer for word in one.names] == [ME.peer_id]


def test_two_names_of_one_manifest_are_one_ref_of_the_bundle(world):
    world.have({"f": b"1"}, MAIN, "hf://org/model@v1")
    assert len(world.plan(MAIN, "hf://org/model@v1")) == 1


def test_a_blob_by_its_digest_has_no_name_but_its_own(world):
    manifest = world.have({"f": b"1"})
    (one,) = world.plan(refs.canonical(refs.DigestRef(manifest.files[0].digest)))
    assert one.names == ()
    assert len(one.manifest.files) == 1


def test_what_is_not_here_is_named(world):
    with pytest.raises(NotFound):
        world.plan("hf://never/heard")
    manifest = Manifest.from_entries([FileEntry("gone", 1, b"\x12\x20" + bytes(32))])
    world.store.put_manifest(manifest)
    with pytest.raises(NotFound, match="gone"):
        world.plan(cids.format_cid(manifest.cid()))


def test_a_list_over_a_block_and_folders_too_deep_are_not_supported(world, monkeypatch):
    manifest = world.have({"a/" * 201 + "f": b"1"})
    with pytest.raises(UsageError, match="folders in each other"):
        world.plan(cids.format_cid(manifest.cid()))
    monkeypatch.setattr(plan_module, "MAX_BLOCK_BYTES", 100)
    with pytest.raises(UsageError, match="more than a block"):
        world.plan(cids.format_cid(manifest.cid()))

"""Restricted content is for whoever proves its own access, or holds the admin's grant."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from p2pcache.agent.access import (
    CHALLENGE_HOLDS_S,
    NOT_HERE,
    PROOF_HOLDS_S,
    NeedsProof,
    open_to_all,
    without_restricted,
)
from p2pcache.agent.airgap.plan import is_restricted
from p2pcache.content import signed
from p2pcache.content.digests import sha256_digest
from p2pcache.content.grants import revoked
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.verify import verify
from p2pcache.errors import NotFound
from p2pcache.store.adoptions import AdoptedFile, AdoptedFolder, FileState
from p2pcache.store.index import _SCHEMA, _SCHEMA_2
from p2pcache.store.records import Resolution, salvage
from p2pcache.store.rights import OTHERS
from p2pcache.store.store import Store
from tests.support.gated import ADMIN, OPEN, PEER, REF, SECRET, STRANGER, World

DIGEST_OF_NONE = sha256_digest(hashlib.sha256().digest())


@pytest.fixture
def world(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield World(store)


def test_open_content_is_for_everybody_and_restricted_for_nobody_unproven(world):
    peer = STRANGER.peer_id
    assert world.access.may(peer, world.public)
    assert not world.access.may(peer, world.gated)
    assert world.access.readable(peer, [world.secret, world.open]) == [world.open]


def test_what_a_private_folder_alone_shows_is_for_nobody(world):
    """But for what an origin gives to everybody, wherever else it lies."""
    adoptions = world.store.adoptions
    blobs = [
        world.open,
        world.store.put_bytes(verify(sha256_digest(hashlib.sha256(b"mine").digest()), b"mine")),
    ]
    files = {blob.digest.hex(): AdoptedFile(FileState(1, 2, 3, 4), blob.sha256) for blob in blobs}
    adoptions.add(AdoptedFolder("/theirs", "folder", False, 1.0))
    adoptions.put("/theirs", files)
    for peer in (PEER.peer_id, STRANGER.peer_id):
        assert world.access.readable(peer, blobs) == blobs
    adoptions.add(AdoptedFolder("/theirs", "folder", True, 1.0))
    for peer in (PEER.peer_id, STRANGER.peer_id):
        assert world.access.readable(peer, blobs) == blobs[:1]
    assert [open_to_all(world.store, lambda: world.now)(blob) for blob in blobs] == [True, False]


def test_a_folder_of_this_machine_opens_nothing_that_is_restricted_at_its_origin(world):
    """`get hf://org/gated --to DIR`, then `adopt DIR` or `push DIR`."""
    both = Manifest.from_entries(
        [
            FileEntry("f", len(SECRET), world.secret.digest),
            FileEntry("g", len(OPEN), world.open.digest),
        ]
    )
    world.store.put_manifest(both)
    blobs = [world.secret, world.open]
    for at, cid in enumerate((world.gated, both.cid())):
        world.resolve(f"file:///theirs/{at}", cid, gated=False, source="file")
        assert not world.access.may(STRANGER.peer_id, world.gated)
        assert world.access.readable(STRANGER.peer_id, blobs) == [world.open]
        assert without_restricted(world.store, [cid, world.public]) == [world.public]
    found = {"f": world.secret, "g": world.open}
    assert is_restricted(world.store, both, found), "`push DIR s3://...` wants --allow-gated"


def test_who_fetched_the_bytes_itself_may_read_until_the_proof_is_old(world):
    world.prove(PEER, world.challenge(PEER))
    assert world.access.may(PEER.peer_id, world.gated)
    assert world.access.readable(PEER.peer_id, [world.secret]) == [world.secret]
    assert not world.access.may(STRANGER.peer_id, world.gated)
    world.now += PROOF_HOLDS_S
    assert not world.access.may(PEER.peer_id, world.gated)


def test_wrong_bytes_late_answers_and_answers_of_others_prove_nothing(world):
    challenge = world.challenge(PEER)
    with pytest.raises(NeedsProof):
        world.prove(PEER, challenge, b"x" * len(SECRET))
    again = world.challenge(PEER)
    assert again.nonce != challenge.nonce, "one guess for each question"
    with pytest.raises(NotFound):
        world.prove(STRANGER, again)
    world.now += CHALLENGE_HOLDS_S
    with pytest.raises(NeedsProof):
        world.prove(PEER, again)
    assert not world.access.may(PEER.peer_id, world.gated)


def test_asking_again_gives_the_same_question(world):
    assert world.challenge(PEER) == world.challenge(PEER)


def test_a_grant_that_the_admin_took_back_counts_no_more_and_nobody_else_can(world):
    others, reader = world.store.others, STRANGER.peer_id

    def put(signer, repo, until):
        others.put_grant(signed.sign_grant(signer, repo, reader, until))
        return world.access.may_hear(reader, world.gated)

    assert put(ADMIN, "hf://org/gated", 2000.0)
    assert put(PEER, revoked("hf://org/gated"), 9e9), "not the admin's word"
    with world.store.others._index.write("forget it") as connection:
        connection.execute("DELETE FROM grants WHERE expires_at > 8e9")
    assert not put(ADMIN, revoked("hf://org/gated"), 2000.0)
    assert not world.access.may(reader, world.gated), "also for who was told before"
    assert not put(ADMIN, "hf://org/gated", 2000.0), "the old grant, told once more"
    assert put(ADMIN, "hf://org/gated", 2001.0), "a later one"


def test_the_admins_grant_counts_until_it_ends_and_nobody_elses_does(world):
    others = world.store.others
    others.put_grant(signed.sign_grant(PEER, "hf://org/gated", PEER.peer_id, 9e9))
    assert not world.access.may(PEER.peer_id, world.gated)
    others.put_grant(signed.sign_grant(ADMIN, "hf://org/gate", STRANGER.peer_id, 9e9))
    assert not world.access.may(STRANGER.peer_id, world.gated)
    grant = signed.sign_grant(ADMIN, "hf://org/gated", STRANGER.peer_id, 2000.0)
    others.put_grant(grant)
    assert not world.access.may(STRANGER.peer_id, world.gated), "not before it asked for the name"
    assert world.access.may_hear(STRANGER.peer_id, world.gated)
    assert world.access.may(STRANGER.peer_id, world.gated)
    world.now = 2000.0
    assert not world.access.may(STRANGER.peer_id, world.gated)
    assert not world.access.may_hear(STRANGER.peer_id, world.gated)


def test_a_blob_that_an_open_repository_has_too_is_open(world):
    blob, _ = world.put(SECRET, "hf://org/mirror@main", gated=False)
    assert world.access.readable(STRANGER.peer_id, [blob]) == [blob]


def test_what_is_not_here_cannot_be_asked_about(world):
    manifest = Manifest.from_entries([FileEntry("gone", 5, b"\x12\x20" + bytes(32))])
    world.store.put_manifest(manifest)
    world.store.record_resolution(
        Resolution("hf://org/other@main", manifest.cid(), None, "hf", "", 0.0, gated=True)
    )
    world.access.ask_for_proof(PEER.peer_id, manifest.cid(), [f.digest for f in manifest.files])
    with pytest.raises(NotFound):
        world.access.demand(PEER.peer_id, manifest.cid(), None)


def test_the_cid_of_a_manifest_alone_tells_nobody_that_it_is_here(world):
    with pytest.raises(NotFound) as of_gated:
        world.access.demand(STRANGER.peer_id, world.gated, None)
    assert of_gated.value.message == NOT_HERE, "as of what is not here (`Sharing.ticket`)"
    for names in ([], world.names(OPEN), [b"\x12\x20" + bytes(32)]):
        world.access.ask_for_proof(STRANGER.peer_id, world.gated, names)
    with pytest.raises(NotFound):
        world.access.demand(STRANGER.peer_id, world.gated, bytes(32))
    world.challenge(PEER)
    with pytest.raises(NeedsProof):
        world.access.demand(PEER.peer_id, world.gated, None)


def test_gated_content_stays_gated_when_its_branch_moves(world):
    _, new = world.put(b"new weights", REF, gated=True)
    assert not world.access.may(STRANGER.peer_id, world.gated)
    assert world.access.readable(STRANGER.peer_id, [world.secret]) == []
    assert set(without_restricted(world.store, [world.gated, new, world.public])) == {world.public}
    world.store.forget_ref(REF)
    assert not world.access.may(STRANGER.peer_id, new)


def test_only_our_own_resolution_at_an_origin_opens_what_was_gated(world):
    world.resolve(REF, world.gated, gated=False, source=OTHERS)
    assert not world.access.may(STRANGER.peer_id, world.gated)
    world.resolve(REF, world.gated, gated=False)
    assert world.access.may(STRANGER.peer_id, world.gated)
    world.put(b"new weights", REF, gated=False)
    assert world.access.may(STRANGER.peer_id, world.gated), "it was opened there, for good"


def test_a_mirror_that_moves_on_does_not_open_what_is_gated_elsewhere(world):
    world.resolve("hf://org/mirror@main", world.gated, gated=False)
    assert not world.access.may(STRANGER.peer_id, world.gated), "it is only named there"
    world.store.rights.give(world.gated, world.names())
    assert world.access.may(STRANGER.peer_id, world.gated), "somebody may read it without a token"
    world.put(b"new weights", "hf://org/mirror@main", gated=False)
    assert not world.access.may(STRANGER.peer_id, world.gated)


def test_gated_content_stays_gated_when_the_index_is_set_up_anew(world, tmp_path):
    world.put(b"new weights", REF, gated=True)
    old = tmp_path / "old.sqlite"
    with sqlite3.connect(tmp_path / "store" / "index.sqlite") as connection:
        connection.execute("VACUUM INTO ?", (str(old),))
    with Store.open(tmp_path / "other") as other:
        salvage(old, other._index)
        assert world.gated in other.restricted_manifests()


def test_an_index_from_before_it_was_remembered_knows_what_is_gated(tmp_path):
    with sqlite3.connect(tmp_path / "index.sqlite") as connection:
        connection.executescript(_SCHEMA + _SCHEMA_2)
        connection.execute(
            "INSERT INTO resolutions VALUES ('hf://o/n@main', x'01', NULL, 'hf', '', 1, 1, 0, x'')"
        )
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    old = tmp_path / "old.sqlite"
    shutil.copy(tmp_path / "index.sqlite", old)
    with Store.open(tmp_path) as store:
        assert store.restricted_manifests() == {b"\x01"}
    with Store.open(tmp_path / "other") as other:
        salvage(old, other._index)
        assert other.restricted_manifests() == {b"\x01"}


def test_another_agents_word_opens_and_announces_nothing_that_is_gated(world):
    stored = b"\x12\x20" + world.secret.sha256
    files = [FileEntry("mine", len(SECRET), stored), FileEntry("other", 8, world.open.digest)]
    listed = Manifest.from_entries(files)
    world.store.put_manifest(listed)
    for source in (None, OTHERS):  # by its CID, and as what a ref means
        if source is not None:
            world.resolve("hf://x@v2", listed.cid(), gated=False, source=source)
        assert world.access.readable(STRANGER.peer_id, [world.secret, world.open]) == [world.open]
        told = without_restricted(world.store, [world.gated, listed.cid(), world.public])
        assert told == [world.public]
    world.resolve("hf://x@v2", listed.cid(), gated=False)
    assert world.access.readable(STRANGER.peer_id, [world.secret]) == [], "an origin names it"
    assert without_restricted(world.store, [listed.cid()]) == []
    world.store.rights.give(listed.cid(), [stored])
    assert world.access.readable(STRANGER.peer_id, [world.secret]) == [world.secret]
    assert listed.cid() in without_restricted(world.store, [listed.cid()]), "its origin gives it"


def test_another_agents_word_on_open_content_hides_nothing(world):
    files = [FileEntry("f", len(OPEN), world.open.digest)]
    listed = Manifest.from_entries([*files, FileEntry("g", 8, b"\x12\x20" + bytes(32))])
    world.store.put_manifest(listed)
    world.resolve("hf://x@v2", listed.cid(), gated=False, source=OTHERS)
    assert without_restricted(world.store, [listed.cid()]) == [listed.cid()]


def test_a_file_that_goes_while_it_is_read_for_a_proof_proves_nothing(world, monkeypatch):
    challenge = world.challenge(PEER)
    find = world.store.find

    def find_and_remove(name):
        found = find(name)
        monkeypatch.setattr(world.store, "find", find)
        found.path.unlink()
        return found

    monkeypatch.setattr(world.store, "find", find_and_remove)
    with pytest.raises(NotFound):
        world.prove(PEER, challenge)
    assert not world.access.may(PEER.peer_id, world.gated)


def test_a_gateway_shows_what_everybody_may_read_and_nothing_else(world):
    """The IPFS gateway on loopback is open to every user and program of this machine."""
    shows = open_to_all(world.store, lambda: world.now)
    assert shows(world.open)
    assert shows(world.public)
    assert not shows(world.secret)
    assert not shows(world.gated)
    implied = world.store.implied
    secret, public = world.secret.sha256, world.open.sha256
    assert implied.read(secret) == SECRET
    assert implied.read(secret, shows) is None
    assert implied.length(secret, shows) is None
    assert implied.read(public, shows) == OPEN
    assert implied.read(world.gated[4:]) is not None
    assert implied.read(world.gated[4:], shows) is None


PLACES = [
    ("s3", "s3://public/weights"),
    ("http", "https://x.example/w"),
    ("oci", "oci://r.example/a:1"),
    ("hf", "hf://other/name@main"),
]


@pytest.mark.parametrize(("source", "ref"), PLACES)
@pytest.mark.parametrize("is_same", [True, False], ids=["the same list", "another list"])
def test_an_origin_without_a_login_that_names_gated_content_opens_nothing(
    world, source, ref, is_same
):
    """Metadata of a bucket, a record of a push, an image's manifest, a pin: all can write them."""
    cid, stranger = world.gated, STRANGER.peer_id
    if not is_same:
        named = [
            FileEntry("w", len(SECRET), world.secret.digest),
            FileEntry("z", 0, DIGEST_OF_NONE),
        ]
        cid = world.store.put_manifest(Manifest.from_entries(named))
    row = Resolution(ref, cid, None, source, "https://endpoint", world.now)
    world.store.record_resolution(row)
    assert not world.access.may(stranger, world.gated)
    assert world.access.readable(stranger, [world.secret, world.open]) == [world.open]
    grown = [((world.secret.digest,), cid)]
    assert world.access.may_read(stranger, grown) == [False], "nor while it arrives"
    assert without_restricted(world.store, [cid, world.public]) == [world.public]
    assert is_restricted(world.store, world.store.get_manifest(cid), {"w": world.secret})
    world.store.rights.give(cid, [world.secret.digest])
    assert world.access.readable(stranger, [world.secret]) == [world.secret], "it has the bytes"
    assert world.access.may(stranger, world.gated) is is_same, "else its list stays untold"
    world.store.record_resolution(replace(row, gated=True))
    assert world.access.readable(stranger, [world.secret]) == [], "it is for some there now, too"


def test_a_licence_that_an_open_repository_gave_stays_open_when_a_gated_one_has_it_too(world):
    both = [
        FileEntry("LICENSE", len(OPEN), world.open.digest),
        FileEntry("w", len(SECRET), world.secret.digest),
    ]
    cid = world.store.put_manifest(Manifest.from_entries(both))
    world.resolve("hf://org/second@main", cid, gated=True)
    assert world.access.readable(STRANGER.peer_id, [world.open, world.secret]) == [world.open]
    assert not world.access.may(STRANGER.peer_id, cid)
    assert world.public in without_restricted(world.store, [world.public, cid])


def test_the_repository_that_gated_it_opens_it_with_a_word_and_no_other(world):
    for ref, endpoint in ((REF, "https://other"), ("hf://org/fork@main", "")):
        row = Resolution(ref, world.gated, None, "hf", endpoint, world.now)
        world.store.record_resolution(row)
        assert not world.access.may(STRANGER.peer_id, world.gated)
    world.resolve("hf://org/gated@v2", world.gated, gated=False)
    assert world.access.may(STRANGER.peer_id, world.gated)


def test_what_a_bundle_marked_is_opened_by_no_word_alone(world):
    listed = Manifest.from_entries([FileEntry("f", len(SECRET), world.secret.digest)])
    other = Manifest.from_entries([FileEntry("g", len(SECRET), world.secret.digest)])
    world.store.restrict(other)
    for cid in (listed.cid(), other.cid()):
        world.resolve("hf://org/mirror@main", cid, gated=False)
        assert other.cid() in world.store.restricted_manifests()
    world.store.rights.give(other.cid(), [world.secret.digest])
    assert other.cid() not in world.store.restricted_manifests()


def test_an_index_from_before_bytes_were_noted_opens_what_it_restricts_for_nobody(tmp_path):
    """An older agent opened it when a bucket named it; the next look at that bucket tells."""
    store_path = tmp_path / "store"
    with Store.open(store_path) as store:
        world = World(store)
        world.resolve("s3://public/x", world.gated, gated=False, source="s3")
    with closing(sqlite3.connect(store_path / "index.sqlite")) as connection:
        for table in ("restricted_by", "given", "adopted_hubs", "adopted_open"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 10")
        connection.commit()
    with Store.open(store_path) as store:
        assert store.restricted_manifests() == {world.gated}
        assert store.rights.given([world.secret.digest]) == set()
        assert [one.digest for one in store.rights.shared(())] == [world.secret.digest]


def bucket_with_a_login_and_then_without(store, cid) -> set[bytes]:
    for gated in (True, False):
        store.record_resolution(Resolution("s3://bucket/y", cid, None, "s3", "e", 2.0, gated=gated))
    return store.restricted_manifests()


def test_who_restricted_what_an_older_index_has_is_not_the_next_who_does(tmp_path):
    """A bucket that wants a login, and then none, does not lift what a hub said before."""
    with Store.open(tmp_path / "store") as store:
        gated = World(store).gated
    with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite")) as connection:
        for table in ("restricted_by", "given", "adopted_hubs", "adopted_open"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 10")
        connection.commit()
    with Store.open(tmp_path / "store") as store:
        assert bucket_with_a_login_and_then_without(store, gated) == {gated}


def test_nor_is_it_where_a_damaged_index_lost_who_restricted(tmp_path):
    with Store.open(tmp_path / "damaged") as store:
        gated = World(store).gated
    with closing(sqlite3.connect(tmp_path / "damaged" / "index.sqlite")) as connection:
        connection.execute("DELETE FROM restricted_by")
        connection.commit()
    with Store.open(tmp_path / "new") as store:
        salvage(tmp_path / "damaged" / "index.sqlite", store._index)
        assert bucket_with_a_login_and_then_without(store, gated) == {gated}


def _gated_later(world) -> None:
    world.resolve("hf://org/public@main", world.public, gated=True)


def _moved_on(world) -> None:
    world.put(b"new weights", "s3://bucket/public", gated=False)


def _forgotten(world) -> None:
    world.store.forget_ref("s3://bucket/public")


@pytest.mark.parametrize(
    ("ref", "end"),
    [
        ("hf://org/public@main", _gated_later),
        ("s3://bucket/public", _moved_on),
        ("s3://bucket/public", _forgotten),
    ],
    ids=["gated", "moved on", "forgotten"],
)
def test_what_was_given_until_a_claim_ended_is_not_opened_by_the_next_who_names_it(world, ref, end):
    """The list is the same, to the byte: paths and digests are no secret."""
    data = b"was for everybody once"
    blob, world.public = world.put(data, ref, gated=False)
    world.resolve("hf://org/gated@v2", world.public, gated=True)
    assert world.access.readable(STRANGER.peer_id, [blob]) == [blob]
    end(world)
    world.resolve("s3://names/it", world.public, gated=False, source="s3")
    assert world.access.readable(STRANGER.peer_id, [blob]) == []
    assert not world.access.may(STRANGER.peer_id, world.public)


def test_a_repository_that_is_gated_now_is_so_by_its_other_refs(world):
    """Nobody asked again what a tag means; it is one repository."""
    data = b"was for everybody once"
    for revision in ("main", "v1", "c" * 40, "main/sub"):
        blob, cid = world.put(data, f"hf://org/turned@{revision}", gated=False)
    assert world.access.readable(STRANGER.peer_id, [blob]) == [blob]
    world.resolve("hf://org/turned@main", cid, gated=True)
    assert world.access.readable(STRANGER.peer_id, [blob]) == []
    assert not world.access.may(STRANGER.peer_id, cid)

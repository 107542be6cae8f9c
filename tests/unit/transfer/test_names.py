"""Names whose origin cannot be asked: whose word is taken, and what it may do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pcache.content import refs, signed
from p2pcache.content.digests import sha256_digest
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.peerid import peer_id_of
from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable
from p2pcache.sources.port import Credentials, ListedFile, Listing, SourceKind
from p2pcache.store.store import Store
from p2pcache.transfer.names import OTHERS, NameOptions, choose_word
from p2pcache.transfer.resolve import ResolveOptions, Resolver

REF = refs.parse_ref("hf://org/name")
NAME = refs.canonical(REF)
NOW = 1_000_000.0


class Key:
    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.peer_id = peer_id_of(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


ALICE, BOB = Key(), Key()


def manifest(seed: int) -> Manifest:
    return Manifest.from_entries([FileEntry("model.bin", 9, sha256_digest(bytes([seed]) * 32))])


HUB, MIRROR = "https://huggingface.co", "https://mirror.example"


def word(
    key: Key,
    at: float,
    *,
    name: str = NAME,
    seed: int = 1,
    restricted: bool = False,
    endpoint: str = HUB,
) -> signed.SignedResolution:
    return signed.sign_resolution(
        key, canonical=name, manifest=manifest(seed).cid(), immutable="abc", source="hf",
        endpoint=endpoint, mutable=True, restricted=restricted, resolved_at=at,
    )  # fmt: skip


class Origin:
    """A source that can be switched off."""

    name, kind = "hf", SourceKind.ORIGIN

    def __init__(self) -> None:
        self.up, self.mutable = False, True
        self.error: P2PCacheError = Unavailable("no route to the origin")
        self.asked = 0

    def accepts(self, ref: refs.Ref) -> bool:
        return isinstance(ref, refs.HfRef)

    def endpoint(self, ref: refs.Ref, credentials: Credentials) -> str:
        return credentials.hf_endpoint or HUB

    async def list(self, ref: refs.Ref, credentials: Credentials) -> Listing:
        self.asked += 1
        if not self.up:
            raise self.error
        file = ListedFile("model.bin", 9, sha256_digest(b"\x07" * 32), "org/name/model.bin")
        return Listing("hf", self.endpoint(ref, credentials), "def", self.mutable, (file,))

    async def locate(self, listing: Listing, key: str, credentials: Credentials):
        raise AssertionError("resolving asks for no bytes")

    async def aclose(self) -> None:
        pass


class Others:
    """The network, as far as names go."""

    def __init__(self, *heard: signed.SignedResolution) -> None:
        self.heard = list(heard)
        self.kept: list[signed.SignedResolution] = []
        self.asked: list[str] = []
        self.is_granted = False
        self.manifests = {manifest(seed).cid(): manifest(seed) for seed in (1, 2)}

    async def words(self, canonical: str):
        self.asked.append(canonical)
        return self.heard

    async def manifest(self, cid: bytes) -> Manifest | None:
        return self.manifests.get(cid)

    async def granted(self, canonical: str) -> bool:
        return self.is_granted and canonical == NAME

    def keep(self, word: signed.SignedResolution) -> None:
        self.kept.append(word)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield store


def resolver(store: Store, origin: Origin, others: Others, at: float = NOW) -> Resolver:
    return Resolver([origin], store, ResolveOptions(), lambda: at, others)


async def test_a_name_is_known_by_anothers_word_when_the_origin_is_gone(store):
    others = Others(word(ALICE, NOW - 3600))
    found = await resolver(store, Origin(), others).resolve(REF, Credentials())
    assert found.manifest == manifest(1)
    assert found.resolved_at == NOW - 3600
    assert any("1h00m old" in note for note in found.notes)
    assert [w.signer for w in others.kept] == [ALICE.peer_id]


async def test_offline_asks_others_and_never_the_origin(store):
    origin = Origin()
    found = await resolver(store, origin, Others(word(ALICE, NOW))).resolve(
        REF, Credentials(), offline=True
    )
    assert found.manifest == manifest(1)
    assert origin.asked == 0


async def test_the_origin_is_asked_first_and_its_answer_replaces_a_word(store):
    origin, others = Origin(), Others(word(ALICE, NOW - 5))
    first = await resolver(store, origin, others).resolve(REF, Credentials())
    assert first.listing.source == OTHERS
    origin.up = True
    second = await resolver(store, origin, others).resolve(REF, Credentials())
    assert second.listing.source == "hf"
    assert second.listing.immutable == "def"


async def test_our_own_newer_record_wins_over_an_older_word(store):
    origin, others = Origin(), Others(word(ALICE, NOW - 1000))
    origin.up = True
    mine = await resolver(store, origin, others, NOW - 500).resolve(REF, Credentials())
    origin.up = False
    again = await resolver(store, origin, others).resolve(REF, Credentials())
    assert again.manifest == mine.manifest
    others.heard = [word(BOB, NOW - 100)]
    newer = await resolver(store, origin, others).resolve(REF, Credentials())
    assert newer.manifest == manifest(1)


async def test_what_a_restricted_word_names_stays_restricted_here(store):
    others = Others(word(ALICE, NOW, restricted=True))
    await resolver(store, Origin(), others).resolve(REF, Credentials())
    (row,) = store.resolutions()
    assert row.gated


async def test_without_a_word_that_counts_the_origins_error_comes_out(store):
    for others, trust in (
        (Others(), None),
        (Others(word(ALICE, NOW)), NameOptions(trust=frozenset())),
        (Others(word(ALICE, NOW)), NameOptions(trust=frozenset([BOB.peer_id]))),
        (Others(word(ALICE, NOW - 100)), NameOptions(max_age_s=50.0)),
        (Others(word(ALICE, NOW, name="hf://org/else@main")), None),
        (Others(word(ALICE, NOW, seed=9)), None),
    ):
        with pytest.raises(Unavailable, match="no route"):
            await resolver(store, Origin(), others).resolve(REF, Credentials(), trust=trust)
        with pytest.raises(NotFound):
            await resolver(store, Origin(), others).resolve(
                REF, Credentials(), trust=trust, offline=True
            )
    assert store.resolutions() == []


REFUSALS = [Denied("it is gated"), NotFound("no public model", hidden=True)]


@pytest.mark.parametrize("refusal", REFUSALS, ids=["gated", "private"])
async def test_where_the_origin_refuses_a_grant_opens_the_name_to_others_word(store, refusal):
    origin, others = Origin(), Others(word(ALICE, NOW - 60, restricted=True))
    origin.error = refusal
    asking = resolver(store, origin, others)
    with pytest.raises(type(refusal), match=refusal.message):
        await asking.resolve(REF, Credentials())
    assert others.asked == [], "without a grant nobody learns of it"
    others.is_granted = True
    found = await asking.resolve(REF, Credentials())
    assert (found.manifest, found.listing.source) == (manifest(1), OTHERS)
    assert any(refusal.message in note and "admin" in note for note in found.notes)
    assert store.resolutions()[0].gated


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("by_grant", [False, True])
async def test_a_word_that_leaves_the_mark_out_opens_nothing(store, offline, by_grant):
    """A member may name gated content by its CID and say that it is open, and be the newest."""
    origin, others = Origin(), Others(word(BOB, NOW - 1))
    origin.error = REFUSALS[0] if by_grant else Unavailable("no route to the origin")
    others.is_granted = by_grant
    if not by_grant:  # somebody else marks it
        others.heard.append(word(ALICE, NOW - 60, restricted=True))
    found = await resolver(store, origin, others).resolve(REF, Credentials(), offline=offline)
    assert found.listing.gated
    assert store.restricted_manifests() == {manifest(1).cid()}


async def test_a_grant_opens_neither_what_is_not_there_nor_what_nobody_knows(store):
    origin, others = Origin(), Others(word(ALICE, NOW))
    others.is_granted = True
    origin.error = NotFound("has no such revision")
    with pytest.raises(NotFound, match="no such revision"):
        await resolver(store, origin, others).resolve(REF, Credentials())
    origin.error, others.heard = REFUSALS[0], []
    with pytest.raises(Denied, match="gated"):
        await resolver(store, origin, others).resolve(REF, Credentials())


async def test_with_a_grant_our_own_record_of_what_is_refused_now_does_not_count(store):
    origin, others = Origin(), Others()
    origin.up = others.is_granted = True
    await resolver(store, origin, others, NOW - 500).resolve(REF, Credentials())
    origin.up, origin.error = False, REFUSALS[0]
    with pytest.raises(Denied, match="gated"):
        await resolver(store, origin, others).resolve(REF, Credentials())


def test_the_newest_word_counts_and_a_clock_from_the_future_does_not():
    words = [word(ALICE, NOW - 50), word(BOB, NOW - 10, seed=2), word(Key(), NOW + 1000)]
    chosen = choose_word(words, NAME, NameOptions(), NOW, HUB)
    assert chosen is not None
    assert chosen.signer == BOB.peer_id
    only = NameOptions(trust=frozenset([ALICE.peer_id]))
    assert choose_word(words, NAME, only, NOW, HUB) == words[0]
    assert choose_word(words, NAME, replace(only, max_age_s=40.0), NOW, HUB) is None


@pytest.mark.parametrize(
    "options",
    [NameOptions(trust=frozenset()), NameOptions(trust=frozenset({BOB.peer_id})),
     NameOptions(max_age_s=60.0)],
    ids=["nobody", "another", "too old"],
)  # fmt: skip
async def test_a_recorded_word_counts_only_while_its_signer_and_age_do(store, options):
    others = Others(word(ALICE, NOW - 3600))
    taken = resolver(store, Origin(), others)
    await taken.resolve(REF, Credentials())
    with pytest.raises(NotFound):
        await taken.resolve(REF, Credentials(), offline=True, trust=options)
    with pytest.raises(Unavailable):
        await taken.resolve(REF, Credentials(), trust=options)


async def test_a_recorded_word_tells_its_age_of_now(store):
    await resolver(store, Origin(), Others(word(ALICE, NOW - 60))).resolve(REF, Credentials())
    later = resolver(store, Origin(), Others(), at=NOW + 7200)
    found = await later.resolve(REF, Credentials(), offline=True)
    assert any("2h01m old" in note for note in found.notes)


async def test_with_a_mirror_that_answers_no_word_of_another_hub_is_taken(store):
    origin, others = Origin(), Others(word(ALICE, NOW - 5))
    first = await resolver(store, origin, others).resolve(REF, Credentials())
    assert first.manifest == manifest(1)
    origin.up = True
    at_mirror = Credentials(hf_endpoint=MIRROR)
    second = await resolver(store, origin, others).resolve(REF, at_mirror)
    assert (second.listing.endpoint, second.listing.immutable) == (MIRROR, "def")


async def test_a_word_of_ones_own_hub_comes_before_a_newer_one_of_another(store):
    others = Others(word(ALICE, NOW - 3600), word(BOB, NOW - 10, seed=2, endpoint=MIRROR))
    found = await resolver(store, Origin(), others).resolve(REF, Credentials(), offline=True)
    assert found.manifest == manifest(1)
    assert not any("could not be asked" in note for note in found.notes)
    other = Credentials(hf_endpoint=MIRROR)
    found = await resolver(store, Origin(), others).resolve(REF, other, offline=True)
    assert found.manifest == manifest(2), "a record of another hub's word does not stop it"


async def test_a_word_of_another_hub_is_taken_for_want_of_a_better_and_says_so_each_time(store):
    others = Others(word(ALICE, NOW - 60, endpoint=MIRROR))
    for _ in range(2):  # the second time from the record
        found = await resolver(store, Origin(), others).resolve(REF, Credentials(), offline=True)
        assert found.manifest == manifest(1)
        assert f"this is what {MIRROR} calls so; {HUB} could not be asked" in found.notes
        assert any("the word of peer" in note for note in found.notes)
    at_mirror = Credentials(hf_endpoint=MIRROR)
    found = await resolver(store, Origin(), others).resolve(REF, at_mirror, offline=True)
    assert not any("could not be asked" in note for note in found.notes)


async def test_our_own_record_counts_before_a_newer_word_of_another_hub_and_after_a_word_of_ours(
    store,
):
    origin, others = Origin(), Others(word(ALICE, NOW - 10, endpoint=MIRROR))
    origin.up, origin.mutable = True, False
    mine = await resolver(store, origin, others, NOW - 500).resolve(REF, Credentials())
    found = await resolver(store, origin, others).resolve(REF, Credentials(), offline=True)
    assert found.manifest == mine.manifest
    others.heard = [word(ALICE, NOW - 3600, endpoint=MIRROR)]
    at_mirror = Credentials(hf_endpoint=MIRROR)
    found = await resolver(store, origin, others).resolve(REF, at_mirror, offline=True)
    assert found.manifest == manifest(1)


@pytest.mark.parametrize(
    "options", [NameOptions(trust=frozenset()), NameOptions(max_age_s=1.0)], ids=["trust", "age"]
)
async def test_what_keeps_a_word_from_counting_is_named(store, options):
    others = Others(word(ALICE, NOW - 3600))
    with pytest.raises(NotFound, match="no other agent's word on it counts") as caught:
        await resolver(store, Origin(), others).resolve(
            REF, Credentials(), offline=True, trust=options
        )
    assert "--trust" in (caught.value.hint or "")
    assert "--max-age" in (caught.value.hint or "")

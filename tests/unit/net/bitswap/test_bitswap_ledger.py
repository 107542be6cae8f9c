"""What peers want of us: served as soon as it is here, once, and never after a cancel."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.net.bitswap import ledger as ledger_module
from p2pcache.net.bitswap.ledger import INLINE_BYTES, MAX_WANTS, REPLY_BYTES, Batch, Ledgers
from p2pcache.net.bitswap.wire import Entry, Kind

MIB = 1 << 20
A, B = b"peer a", b"peer b"


def cid(number: int) -> bytes:
    return cids.raw_cid(hashlib.sha256(b"%d" % number).digest())


def hears(ledgers: Ledgers, peer: bytes, *entries: Entry, here: dict[bytes, int] | None = None):
    for asked in ledgers.heard(peer, entries, full=False):
        ledgers.looked(peer, asked, (here or {}).get(asked))


def test_a_block_that_is_here_is_sent():
    ledgers = Ledgers()
    hears(ledgers, A, Entry(cid(1)), here={cid(1): MIB})
    assert ledgers.take(A) == Batch((Entry(cid(1)),), (), ())
    assert ledgers.take(A) is None
    assert ledgers.count() == 0


def test_what_is_not_here_is_refused_at_once_and_served_when_it_arrives():
    ledgers = Ledgers()
    hears(ledgers, A, Entry(cid(1), dont_have=True))
    assert ledgers.take(A) == Batch((), (), (cid(1),))
    assert ledgers.arrived(cids.multihash(cid(1)), MIB) == [A]
    assert ledgers.take(A).blocks[0].cid == cid(1)


def test_who_did_not_ask_for_a_refusal_hears_nothing():
    ledgers = Ledgers()
    hears(ledgers, A, Entry(cid(1)))
    assert not ledgers.has_more(A)


def test_a_block_serves_whoever_wants_it_under_any_codec_and_version():
    ledgers = Ledgers()
    v1 = cids.dagpb_cid(hashlib.sha256(b"node").digest())
    hears(ledgers, A, Entry(cids.as_v0(v1)))
    hears(ledgers, B, Entry(cids.make_cid(cids.RAW, cids.multihash(v1))))
    assert set(ledgers.arrived(cids.multihash(v1), 9)) == {A, B}
    assert ledgers.take(A).blocks[0].cid == cids.as_v0(v1)


def test_a_want_have_is_answered_without_the_block_unless_that_is_as_short():
    ledgers = Ledgers()
    here = {cid(1): MIB, cid(2): INLINE_BYTES}
    hears(ledgers, A, Entry(cid(1), kind=Kind.HAVE), Entry(cid(2), kind=Kind.HAVE), here=here)
    batch = ledgers.take(A)
    assert batch.haves == (cid(1),)
    assert [entry.cid for entry in batch.blocks] == [cid(2)]


def test_a_want_have_that_becomes_a_want_block_gets_the_block():
    ledgers = Ledgers()
    hears(ledgers, A, Entry(cid(1), kind=Kind.HAVE))
    hears(ledgers, A, Entry(cid(1)))
    hears(ledgers, A, Entry(cid(1), kind=Kind.HAVE, dont_have=True))  # less does not undo it
    ledgers.arrived(cids.multihash(cid(1)), MIB)
    assert [entry.cid for entry in ledgers.take(A).blocks] == [cid(1)]


def test_a_cancel_and_a_full_list_end_wants():
    ledgers = Ledgers()
    here = {cid(n): MIB for n in range(4)}
    hears(ledgers, A, *(Entry(cid(n)) for n in range(6)), here=here)
    hears(ledgers, A, Entry(cid(0), cancel=True))
    ledgers.heard(A, [Entry(cid(1)), Entry(cid(4))], full=True)
    sent = [entry.cid for _ in range(9) if (b := ledgers.take(A)) for entry in b.blocks]
    assert sent == [cid(1)]
    assert ledgers.waiting() == [cids.multihash(cid(4))]


def test_what_is_cancelled_while_somebody_looks_is_not_sent():
    ledgers = Ledgers()
    ledgers.heard(A, [Entry(cid(1))], full=False)
    ledgers.heard(A, [Entry(cid(1), cancel=True)], full=False)
    ledgers.looked(A, cid(1), MIB)
    assert ledgers.take(A) is None


def test_what_arrives_while_somebody_looks_is_sent():
    ledgers = Ledgers()
    ledgers.heard(A, [Entry(cid(1), dont_have=True)], full=False)
    ledgers.arrived(cids.multihash(cid(1)), MIB)
    ledgers.looked(A, cid(1), None)  # it looked before
    assert ledgers.take(A) == Batch((Entry(cid(1), dont_have=True),), (), ())


def test_higher_priorities_leave_first_then_who_asked_first():
    ledgers = Ledgers()
    here = {cid(n): 1 for n in range(9)}
    order = [(1, 5), (2, 9), (3, 5), (4, -1)]
    hears(ledgers, A, *(Entry(cid(n), priority) for n, priority in order), here=here)
    assert [e.cid for e in ledgers.take(A).blocks] == [cid(2), cid(1), cid(3), cid(4)]


def test_a_message_has_a_megabyte_of_blocks_or_one():
    ledgers = Ledgers()
    sizes = [MIB // 2, MIB // 2, 1, 2 * MIB, MIB]
    here = {cid(n): size for n, size in enumerate(sizes)}
    hears(ledgers, A, *(Entry(cid(n)) for n in range(5)), here=here)
    taken = [[here[e.cid] for e in ledgers.take(A).blocks] for _ in range(4)]
    assert taken == [sizes[:2], sizes[2:3], sizes[3:4], sizes[4:]]


def test_blocks_that_nobody_takes_are_not_served():
    ledgers = Ledgers()
    hears(ledgers, A, Entry(cid(1), dont_have=True), here={cid(1): 3 * MIB})
    assert ledgers.take(A) == Batch((), (), (cid(1),))


def test_a_million_wants_cost_what_a_few_thousand_do():
    ledgers = Ledgers()
    for start in range(0, 3 * MAX_WANTS, 1024):
        hears(ledgers, A, *(Entry(cid(n), dont_have=True) for n in range(start, start + 1024)))
    assert ledgers.count() == MAX_WANTS
    assert ledgers.refused_count == 2 * MAX_WANTS
    told = 0
    while (batch := ledgers.take(A)) is not None:
        told += len(batch.dont_haves)
    assert told == 3 * MAX_WANTS


def test_wants_and_cancels_without_end_leave_nothing_behind():
    ledgers = Ledgers()
    for _ in range(3 * MAX_WANTS):
        hears(ledgers, A, Entry(cid(1)), here={cid(1): 1})
        hears(ledgers, A, Entry(cid(1), cancel=True))
    assert len(ledgers._ledgers[A].ready) <= 2 * MAX_WANTS + 1
    assert ledgers.waiting() == []


def test_what_could_not_be_sent_is_wanted_as_before():
    ledgers = Ledgers()
    here = {cid(1): MIB, cid(2): MIB}
    hears(ledgers, A, Entry(cid(1)), Entry(cid(2), kind=Kind.HAVE), here=here)
    batch = ledgers.take(A)
    for again in ledgers.unsent(A, batch):
        ledgers.looked(A, again, here[again])
    assert ledgers.take(A) == batch


def test_who_left_wants_nothing():
    ledgers = Ledgers()
    hears(ledgers, A, Entry(cid(1)), Entry(cid(2)), here={cid(1): 1})
    ledgers.forget(A)
    assert not ledgers.has_more(A)
    assert ledgers.waiting() == []
    assert ledgers.unsent(A, Batch((Entry(cid(1)),), (), ())) == []


NUMBERS = st.integers(0, 5)
PEERS = st.sampled_from([A, B])
STEPS = st.one_of(
    st.tuples(
        st.just("want"), PEERS, NUMBERS, st.sampled_from(Kind), st.booleans(), st.integers(0, 2)
    ),
    st.tuples(st.just("cancel"), PEERS, NUMBERS),
    st.tuples(st.just("full"), PEERS, st.sets(NUMBERS, max_size=3)),
    st.tuples(st.just("arrive"), NUMBERS, st.sampled_from([1, INLINE_BYTES + 1, MIB, 2 * MIB])),
    st.tuples(st.just("look"), PEERS),
    st.tuples(st.just("take"), PEERS),
    st.tuples(st.just("leave"), PEERS),
)


class World:
    """Ledgers, and what each peer is still owed."""

    def __init__(self) -> None:
        self.ledgers = Ledgers()
        self.here: dict[bytes, int] = {}
        self.open: dict[bytes, dict[bytes, Kind]] = {A: {}, B: {}}
        self.may_refuse: dict[bytes, set[bytes]] = defaultdict(set)
        self.looks: dict[bytes, list[bytes]] = {A: [], B: []}

    def hear(self, peer: bytes, entries: list[Entry], *, full: bool) -> None:
        owed = self.open[peer]
        if full:
            owed.clear()
        for entry in entries:
            if entry.cancel:
                owed.pop(entry.cid, None)
            else:
                owed[entry.cid] = min(entry.kind, owed.get(entry.cid, Kind.HAVE))
                if entry.dont_have:
                    self.may_refuse[peer].add(entry.cid)
        self.looks[peer] += self.ledgers.heard(peer, entries, full=full)

    def look(self, peer: bytes) -> None:
        if self.looks[peer]:
            asked = self.looks[peer].pop(0)
            self.ledgers.looked(peer, asked, self.here.get(asked))

    def arrive(self, name: bytes, size: int) -> None:
        if name not in self.here:
            self.here[name] = size
            self.ledgers.arrived(cids.multihash(name), size)

    def take(self, peer: bytes) -> bool:
        batch = self.ledgers.take(peer)
        if batch is None:
            assert not self.ledgers.has_more(peer)
            return False
        owed = self.open[peer]
        sizes = [self.here[entry.cid] for entry in batch.blocks]
        assert len(sizes) == 1 or sum(sizes) <= REPLY_BYTES
        for entry in batch.blocks:
            del owed[entry.cid]  # a KeyError: cancelled, or sent twice
        for name in batch.haves:
            assert name in self.here
            if owed.get(name) is Kind.HAVE:
                del owed[name]
        for name in batch.dont_haves:
            assert name in self.may_refuse[peer]
        return True

    def leave(self, peer: bytes) -> None:
        self.ledgers.forget(peer)
        self.open[peer].clear()


def run(world: World, step: tuple) -> None:
    match step:
        case "want", peer, number, kind, dont_have, priority:
            world.hear(peer, [Entry(cid(number), priority, kind, dont_have)], full=False)
        case "cancel", peer, number:
            world.hear(peer, [Entry(cid(number), cancel=True)], full=False)
        case "full", peer, numbers:
            world.hear(peer, [Entry(cid(number)) for number in numbers], full=True)
        case "arrive", number, size:
            world.arrive(cid(number), size)
        case "look", peer:
            world.look(peer)
        case "take", peer:
            world.take(peer)
        case "leave", peer:
            world.leave(peer)


@given(st.lists(STEPS, max_size=60))
def test_whatever_happens_everybody_gets_what_is_here_once(steps):
    world = World()
    for step in steps:
        run(world, step)
    for peer in (A, B):
        while world.looks[peer]:
            world.look(peer)
        while world.take(peer):
            pass
        assert not set(world.open[peer]) & set(world.here)
        for name in list(world.open[peer]):
            world.arrive(name, 1)
    for peer in (A, B):
        while world.take(peer):
            pass
        assert not world.open[peer]
    assert world.ledgers.count() == 0
    assert world.ledgers.waiting() == []
    assert ledger_module.MAX_PRESENCES >= 3 * MAX_WANTS  # else refusals would be lost

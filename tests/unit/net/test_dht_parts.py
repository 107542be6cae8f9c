"""The pure parts of the DHT: messages, records, lookups, and the plan of what to tell whom."""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from p2pcache.content.peerid import peer_id_of
from p2pcache.errors import Untrusted
from p2pcache.net.dht.lookup import ALPHA, MAX_ASKED, Lookup, key_of
from p2pcache.net.dht.plan import Plan
from p2pcache.net.dht.records import MAX_NAMES_PER_PROVIDER, MAX_PROVIDERS, Records
from p2pcache.net.dht.wire import (
    MAX_LISTED,
    NOWHERE,
    announce,
    own_addresses,
    parse_answer,
    take_back,
)


def a_peer(n: int) -> bytes:
    return peer_id_of(hashlib.sha256(str(n).encode()).digest())


PEERS = [a_peer(n) for n in range(40)]
NAMES = [bytes([n]) * 34 for n in range(12)]
PLACE = ("/ip4/10.0.0.1/tcp/4001",)


@given(st.binary(max_size=2000))
def test_random_answers_are_untrusted_at_worst(data):
    with contextlib.suppress(Untrusted):
        parse_answer(data, loopback=False)


@given(st.lists(st.tuples(st.binary(max_size=50), st.lists(st.binary(max_size=30), max_size=4))))
def test_hostile_lists_shrink_to_what_makes_sense(entries):
    peers = [Message.Peer(id=who, addrs=addresses) for who, addresses in entries]
    honest = Message.Peer(id=PEERS[0], addrs=own_addresses(PLACE))
    message = Message(
        type=Message.MessageType.GET_PROVIDERS, providerPeers=[honest, *peers], closerPeers=peers
    )
    answer = parse_answer(message.SerializeToString(), loopback=False)
    assert answer.providers[0] == (PEERS[0], PLACE)
    assert len(answer.providers) <= MAX_LISTED
    assert len(answer.closer) <= MAX_LISTED


def test_a_record_taken_back_is_a_provider_that_is_nowhere():
    sent = take_back(NAMES[0], PEERS[0])
    message = Message()
    message.ParseFromString(sent[1:])
    assert [list(peer.addrs) for peer in message.providerPeers] == [[NOWHERE]]
    assert parse_answer(sent[1:], loopback=True).providers == ()
    kept = announce(NAMES[0], PEERS[0], own_addresses(PLACE))
    assert parse_answer(kept[1:], loopback=True).providers == ((PEERS[0], PLACE),)


def test_a_record_lives_fifteen_to_twenty_minutes_unless_renewed():
    records = Records()
    records.add(PEERS[1], PLACE, NAMES[1], 0.0)
    for start in (0.0, 10.0, 299.0):
        records.add(PEERS[0], PLACE, NAMES[0], start)
    assert records.providers(NAMES[0], 299.0 + 890) == [(PEERS[0], PLACE)]
    assert records.providers(NAMES[0], 299.0 + 1201) == []
    records.add(PEERS[0], PLACE, NAMES[0], 2000.0)
    for later in range(2600, 20_000, 600):
        records.add(PEERS[0], PLACE, NAMES[0], float(later))
        assert records.providers(NAMES[0], later + 599.0)
    assert records.count() == 1


def test_a_record_goes_when_its_provider_says_so_and_nobody_elses_with_it():
    records = Records()
    for peer in PEERS[:2]:
        for name in NAMES[:2]:
            records.add(peer, PLACE, name, 1.0)
    records.remove(PEERS[0], [NAMES[0], b"never heard of"])
    assert [p for p, _ in records.providers(NAMES[0], 1.0)] == [PEERS[1]]
    assert len(records.providers(NAMES[1], 1.0)) == 2
    records.remove_provider(PEERS[1])
    assert records.count() == 1


def test_one_provider_cannot_fill_the_store_nor_push_out_others():
    records = Records()
    records.add(PEERS[0], PLACE, NAMES[0], 0.0)
    kept = sum(records.add(PEERS[1], PLACE, str(n).encode(), 0.0) for n in range(50_100))
    assert kept == MAX_NAMES_PER_PROVIDER
    assert records.refused_count == 100
    assert records.providers(NAMES[0], 0.0)
    for n in range(MAX_PROVIDERS + 10):
        records.add(a_peer(n), PLACE, NAMES[0], 0.0)
    assert len(records.providers(NAMES[0], 0.0)) <= MAX_PROVIDERS


@given(
    st.sets(st.integers(0, 39), min_size=1, max_size=40),
    st.sets(st.integers(0, 39), max_size=20),
    st.sets(st.integers(0, 39), max_size=20),
    st.integers(1, 10),
    st.randoms(use_true_random=False),
)
def test_a_lookup_asks_the_closest_living_and_ends(known, dead, frozen, width, chance):
    target = NAMES[0]
    lookup = Lookup(target, a_peer(999), width=width)
    everyone = [(PEERS[n], PLACE) for n in sorted(known)]
    lookup.add(everyone[:3])
    waiting: list[bytes] = []
    answered = set()
    for _ in range(500):
        waiting += [peer for peer, _ in lookup.next()]
        if not waiting:
            break
        peer = waiting.pop(chance.randrange(len(waiting)))
        n = PEERS.index(peer)
        if n in frozen and n not in answered:
            answered.add(n)
            lookup.slow(peer)
            waiting.append(peer)
        elif n in dead or n in frozen:
            lookup.failed(peer)
        else:
            answered.add(n)
            lookup.answered(peer, chance.sample(everyone, min(5, len(everyone))))
    assert lookup.done
    assert lookup.asked_count <= MAX_ASKED


def test_a_lookup_never_asks_more_than_alpha_beside_the_slow_ones():
    lookup = Lookup(NAMES[0], PEERS[0], width=20)
    lookup.add((peer, PLACE) for peer in PEERS)
    first = lookup.next()
    assert len(first) == ALPHA
    assert lookup.next() == []
    assert PEERS[0] not in [peer for peer, _ in first]
    closest = sorted(PEERS[1:], key=lambda p: key_of(p) ^ key_of(NAMES[0]))[:ALPHA]
    assert [peer for peer, _ in first] == closest
    lookup.slow(first[0][0])
    assert len(lookup.next()) == 1


class Telling(RuleBasedStateMachine):
    """Servers end up knowing exactly what is provided and aimed at them, whatever gets lost."""

    def __init__(self) -> None:
        super().__init__()
        self.provided: dict[bytes, None] = {}
        self.plan = Plan(self.provided)
        self.servers: defaultdict[bytes, set[bytes]] = defaultdict(set)

    def aim_all(self) -> None:
        for name in self.provided:
            self.plan.aim(name, PEERS[:3], again=True)

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def provide(self, names):
        for name in self.plan.provide(names):
            self.plan.aim(name, PEERS[:3])

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def withdraw(self, names):
        self.plan.withdraw(names)

    @rule()
    def renew(self):
        self.plan.renew()
        self.aim_all()

    @rule(
        peer=st.sampled_from(PEERS[:3]),
        count=st.integers(1, 5),
        fate=st.sampled_from(["arrives", "lost", "arrives unnoticed"]),
        meanwhile=st.sets(st.sampled_from(NAMES)),
    )
    def send(self, peer, count, fate, meanwhile):
        batch = self.plan.take(peer, count)
        if batch is None:
            return
        assert 0 < batch.count <= count
        self.plan.withdraw(meanwhile)
        if fate != "lost":
            self.servers[peer] -= set(batch.back)
            self.servers[peer] |= set(batch.names)
        if fate != "arrives":
            self.plan.failed(peer, batch)

    @rule(peer=st.sampled_from(PEERS[:3]))
    def restart(self, peer):
        self.servers[peer].clear()
        self.plan.forget(peer)

    @invariant()
    def nobody_is_forgotten_who_may_hold_what_is_withdrawn(self):
        for peer in PEERS[:3]:
            assert self.plan.told_count() >= 0
            if self.servers[peer] - set(self.provided):
                assert peer in self.plan.waiting()

    def teardown(self):
        self.aim_all()
        for peer in PEERS[:3]:
            while (batch := self.plan.take(peer, 4)) is not None:
                self.servers[peer] -= set(batch.back)
                self.servers[peer] |= set(batch.names)
            assert self.servers[peer] == set(self.provided)
        assert not self.plan.waiting()


TestTelling = Telling.TestCase
TestTelling.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_what_is_new_goes_before_a_refresh_and_withdrawals_before_all():
    plan = Plan({})
    for name in plan.provide(NAMES[:6]):
        plan.aim(name, PEERS[:1])
    while plan.take(PEERS[0], 10):
        pass
    plan.renew()
    for name in NAMES[:5]:
        plan.aim(name, PEERS[:1], again=True)
    for name in plan.provide(NAMES[6:7]):
        plan.aim(name, PEERS[:1])
    batch = plan.take(PEERS[0], 3)
    assert batch is not None
    assert batch.names[0] == NAMES[6]
    plan.withdraw([NAMES[6]])
    batch = plan.take(PEERS[0], 2)
    assert batch is not None
    assert batch.back == (NAMES[6],)
    assert len(batch.names) == 1


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384])
def test_lengths_are_varints(size):
    from libp2p.utils.varint import decode_uvarint

    from p2pcache.net.dht.wire import varint

    assert decode_uvarint(varint(size)) == size

"""One link's rules, without sockets or clocks."""

from __future__ import annotations

import itertools

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2pcache.content.ranges import RangeSet
from p2pcache.errors import Untrusted
from p2pcache.net.shelf import Holding
from p2pcache.net.sync.limits import Bucket, SyncOptions
from p2pcache.net.sync.machine import (
    Answered,
    Cause,
    Conversation,
    Ended,
    Send,
    Serve,
    Up,
    WantRefused,
)
from p2pcache.net.sync.wants import Learned, LookUp, LostThere, Part, Settled
from p2pcache.net.sync.wire import (
    VERSION,
    Brings,
    Bye,
    Coming,
    Drop,
    Gone,
    Grown,
    Have,
    Hello,
    Holds,
    HoldsEnd,
    LaneInfo,
    Load,
    ManifestAsk,
    ManifestPart,
    Map,
    MapAsk,
    Message,
    NameAsk,
    Names,
    Ping,
    Pong,
    Refused,
    Ticket,
    TicketAsk,
    Unknown,
    Want,
    encode,
    parse,
)

HELLO = Hello(*VERSION, bytes(16), "test", (), LaneInfo(1, (), None, b""))
IDLE = Load(0.0, 0.0, 0.0)
NAME, OTHER = b"name", b"other"
MANIFEST = b"manifest"
OPTIONS = SyncOptions()


def talk(now=0.0, hello=HELLO, options=OPTIONS):
    made = Conversation(HELLO, options, now)
    assert made.start() == [Send(HELLO)]
    assert made.handle(hello, 100, now) == [Up(hello)]
    return made


def tick(machine, now):
    machine.next_at(room=True, writing_since=None)
    return machine.tick(now, room=True, writing_since=None)


def test_nothing_is_believed_before_hello():
    for first in (Ping(1), Want(1, None, ()), Unknown(99), Refused(1, "x", "", None)):
        with pytest.raises(Untrusted):
            Conversation(HELLO, OPTIONS, 0.0).handle(first, 10, 0.0)
    machine = Conversation(HELLO, OPTIONS, 0.0)
    assert machine.ask(lambda number: NameAsk(number, "x")) is None
    assert tick(machine, 4.9) == []
    (ended,) = tick(machine, 5.0)
    assert ended.cause is Cause.FROZEN


def test_silence_is_asked_about_after_5_s_and_ended_3_s_later():
    machine = talk()
    assert tick(machine, 4.9) == []
    assert tick(machine, 5.0) == [Send(Ping(1))]
    assert tick(machine, 7.9) == []
    (ended,) = tick(machine, 8.0)
    assert ended.cause is Cause.FROZEN


def test_who_opened_a_link_asks_first_and_along_with_others():
    opener = Conversation(HELLO, OPTIONS, 0.0, opened_by_us=True)
    assert opener.ping_along(4.0) == [], "no hello yet"
    opener.handle(HELLO, 100, 0.0)
    assert opener.ping_along(1.9) == [], "it was heard just now"
    assert opener.ping_along(2.0) == [Send(Ping(1))]
    assert opener.ping_along(2.1) == [], "it is asked already"
    (ended,) = tick(opener, 5.0)
    assert ended.cause is Cause.FROZEN, "3 s after it was asked along"
    alone = Conversation(HELLO, OPTIONS, 0.0, opened_by_us=True)
    alone.handle(HELLO, 100, 0.0)
    assert tick(alone, 4.4) == []
    assert tick(alone, 4.5) == [Send(Ping(1))]
    other = talk()
    assert other.ping_along(1.9) == [], "it was heard just now"
    assert other.ping_along(4.3) == [], "one beat: who opened it asks, or both would at once"
    assert other.ping_along(3.0) == [Send(Ping(1))], "another beat"


def test_any_frame_is_a_sign_of_life_and_pongs_tell_the_delay():
    machine = talk()
    machine.handle(Drop(1), 10, 4.0)
    assert tick(machine, 8.9) == []
    assert tick(machine, 9.0) == [Send(Ping(1))]
    machine.handle(Pong(1, Load(2.0, 0.0, 0.0)), 10, 9.25)
    assert machine.rtt_s == 0.25
    assert machine.load.queue_s == 2.0
    assert tick(machine, 14.2) == []
    with pytest.raises(Untrusted):
        machine.handle(Pong(2, IDLE), 10, 14.2)


def test_our_load_is_told_to_who_wants_something_and_in_pongs_to_the_others():
    machine, busy = talk(), Load(2.0, 1e6, 0.0)
    machine.busy(busy, 0.0)
    assert tick(machine, 0.9) == []
    assert machine.handle(Ping(1), 10, 1.0) == [Send(Pong(1, busy))]
    said, looked = machine.handle(Want(1, None, (b"name",)), 10, 2.0)
    assert said == Send(busy), "a queue that stays is told to who comes later"
    assert isinstance(looked, LookUp)
    machine.busy(IDLE, 2.0)
    assert tick(machine, 2.0 + OPTIONS.soon_s) == [Send(IDLE)], "at once"
    machine.busy(busy, 2.1)
    machine.handle(Drop(1), 10, 3.0)
    assert tick(machine, 3.0) == [], "nobody wants it any more"


def test_our_load_waits_for_other_news_when_it_was_told_lately():
    machine, busy, busier = talk(), Load(2.0, 1e6, 0.0), Load(3.0, 1e6, 0.0)
    (looked,) = machine.handle(Want(1, None, (NAME,)), 10, 0.0)
    machine.found(looked, [Holding(NAME, 1 << 21, RangeSet.of((0, 1)))])
    machine.busy(busy, 1.0)
    assert tick(machine, 1.1) == [Send(busy)]
    machine.busy(busy, 1.2)
    machine.busy(busier, 1.3)
    assert tick(machine, 1.5) == []
    machine.grew(NAME, RangeSet.of((0, 1)), 1.35, links=1)
    said = tick(machine, 1.41)
    assert said == [Send(busier), Send(Have(1, (Grown(NAME, RangeSet.of((0, 1))),)))]
    machine.busy(busy, 1.5)
    assert tick(machine, 1.9) == []
    assert tick(machine, 1.42 + OPTIONS.load_every_s) == [Send(busy)], "no other news came"


def test_our_part_is_told_soon_and_then_with_other_news():
    machine = talk()
    (looked,) = machine.handle(Want(1, MANIFEST, (NAME,)), 10, 0.0)
    machine.found(looked, [Holding(NAME, 1 << 21, RangeSet.of((0, 1)))])
    parts = [Part(1.0, False, (Coming(NAME, RangeSet.of((n, n + 1))),)) for n in range(3)]
    told = [Send(Brings(1, part.intake_bytes_per_s, False, part.brings)) for part in parts]
    machine.brings(MANIFEST, parts[0], 1.0)
    assert tick(machine, 1.0 + OPTIONS.soon_s) == [told[0]]
    machine.brings(MANIFEST, parts[1], 1.03)
    assert tick(machine, 1.06) == []
    machine.brings(MANIFEST, parts[2], 1.06)
    assert tick(machine, 1.021 + OPTIONS.part_every_s) == [told[2]], "the newest alone"


def test_a_loop_of_ours_that_stood_still_is_nobodys_fault():
    machine = talk()
    assert tick(machine, 5.0) == [Send(Ping(1))]
    assert machine.next_at(room=True, writing_since=None) == 8.0
    assert tick(machine, 60.0) == []  # what arrived meanwhile is not read yet
    assert machine.next_at(room=True, writing_since=None) == 61.0
    (ended,) = tick(machine, 61.0)
    assert isinstance(ended, Ended)


def test_a_peer_that_sends_but_never_reads_is_ended():
    machine = talk()
    for now in range(1, 9):
        machine.handle(Drop(1), 10, now)
        machine.next_at(room=False, writing_since=0.5)
        actions = machine.tick(float(now), room=False, writing_since=0.5)
        assert actions == []
    (ended,) = machine.tick(8.6, room=False, writing_since=0.5)
    assert ended.cause is Cause.FROZEN


ASKS = {
    "map": (lambda n: MapAsk(n, NAME, 4, 2), Map(0, NAME, 9 << 20, 4, bytes(64), ())),
    "ticket": (lambda n: TicketAsk(n, NAME, None), Ticket(0, b"t", 9.0)),
    "manifest": (lambda n: ManifestAsk(n, NAME, 5), ManifestPart(0, 9, 5, b"four")),
    "names": (lambda n: NameAsk(n, "ref"), Names(0, ())),
}


def numbered(answer, number):
    return type(answer)(number, *[getattr(answer, f) for f in answer.__slots__[1:]])


@pytest.mark.parametrize(("asked", "answered"), [*itertools.product(ASKS, ASKS)])
def test_only_what_was_asked_may_be_answered(asked, answered):
    machine = talk()
    number, sent = machine.ask(ASKS[asked][0])
    assert sent == Send(ASKS[asked][0](number))
    answer = numbered(ASKS[answered][1], number)
    if asked == answered:
        assert machine.handle(answer, 10, 0.0) == [Answered(number, answer)]
        assert machine.handle(answer, 10, 0.0) == [], "said twice"
    else:
        with pytest.raises(Untrusted):
            machine.handle(answer, 10, 0.0)
    with pytest.raises(Untrusted):
        machine.handle(numbered(answer, number + 1), 10, 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        Map(1, OTHER, 9 << 20, 4, bytes(64), ()),
        Map(1, NAME, 9 << 20, 3, bytes(64), ()),
        Map(1, NAME, 9 << 20, 4, bytes(96), ()),
    ],
)
def test_a_map_is_of_the_blocks_that_were_asked_for(wrong):
    machine = talk()
    machine.ask(ASKS["map"][0])
    with pytest.raises(Untrusted):
        machine.handle(wrong, 10, 0.0)


def test_an_answer_that_comes_too_late_harms_nobody():
    machine = talk()
    number, _ = machine.ask(ASKS["ticket"][0])
    machine.forget(number)
    assert machine.handle(Ticket(number, b"t", 1.0), 10, 0.0) == []
    assert machine.handle(Refused(number, "denied", "", None), 10, 0.0) == []


def test_requests_in_flight_are_bounded_both_ways():
    machine = talk()
    numbers = [machine.ask(ASKS["ticket"][0])[0] for _ in range(OPTIONS.max_asks)]
    assert machine.ask(ASKS["ticket"][0]) is None
    machine.handle(Refused(numbers[3], "denied", "", None), 10, 0.0)
    assert machine.ask(ASKS["ticket"][0]) is not None
    for number in range(1, OPTIONS.max_serving + 1):
        assert isinstance(machine.handle(NameAsk(number, "x"), 10, 0.0)[0], Serve)
    (refused,) = machine.handle(NameAsk(1000, "x"), 10, 0.0)
    assert isinstance(refused.message, Refused)
    machine.served(Names(1, ()))
    assert isinstance(machine.handle(NameAsk(1001, "x"), 10, 0.0)[0], Serve)


def test_a_request_number_is_used_once():
    machine = talk()
    machine.handle(Want(5, None, (NAME,)), 10, 0.0)
    for again in (Want(5, None, (NAME,)), NameAsk(5, "x"), TicketAsk(4, NAME, None)):
        with pytest.raises(Untrusted):
            machine.handle(again, 10, 0.0)


def test_frames_and_bytes_are_charged_and_answers_to_us_are_free():
    options = SyncOptions(frames_burst=100.0, frames_per_s=10.0, bytes_burst=1e6, bytes_per_s=1e5)
    machine = talk(options=options)
    for _ in range(100):
        machine.arriving(10, 0.0)
    with pytest.raises(Untrusted):
        machine.arriving(10, 0.05)
    machine.arriving(10, 0.2)
    machine = talk(options=options)
    with pytest.raises(Untrusted):
        machine.arriving(1_000_001, 0.0)
    for _ in range(500):
        number, _ = machine.ask(ASKS["manifest"][0])
        machine.arriving(250_000, 0.0)
        machine.handle(numbered(ASKS["manifest"][1], number), 250_000, 0.0)


def test_kinds_of_a_newer_minor_are_skipped_and_of_ours_are_lies():
    newer = Hello(1, VERSION[1] + 1, bytes(16), "newer", (), HELLO.lane)
    machine = talk(hello=newer)
    assert machine.handle(Unknown(200), 10, 0.0) == []
    assert machine.skipped_count == 1
    with pytest.raises(Untrusted):
        talk().handle(Unknown(200), 10, 0.0)


@pytest.mark.parametrize(("links", "beat_s"), [(1, 0.05), (7, 0.0875), (15, 0.1875), (64, 0.2)])
def test_the_more_links_are_told_the_more_goes_into_one_frame(links, beat_s):
    machine = talk()
    (looked,) = machine.handle(Want(1, None, (NAME,)), 10, 0.0)
    machine.found(looked, [Holding(NAME, 1 << 21, RangeSet.of((0, 1)))])
    machine.grew(NAME, RangeSet.of((0, 1)), 1.0, links)
    machine.grew(NAME, RangeSet.of((1, 2)), 1.0 + beat_s / 2, links)
    assert tick(machine, 1.0 + beat_s - 0.001) == []
    assert tick(machine, 1.0 + beat_s + 0.001) == [
        Send(Have(1, (Grown(NAME, RangeSet.of((0, 2))),)))
    ]


def test_a_refused_want_is_told_and_looked_up_again_when_rights_change():
    machine = talk()
    (looked,) = machine.handle(Want(1, b"manifest", (NAME,)), 10, 0.0)
    refused = Refused(1, "denied", "prove it", b"challenge")
    assert machine.not_found(looked, refused) == [Send(refused)]
    machine.grew(NAME, None, 0.0)
    assert tick(machine, 1.0) == [], "no look-ups for a peer that may not know"
    (again,) = machine.recheck(b"manifest")
    assert machine.found(again, [Holding(NAME, 1, None)]) == [
        Send(Holds(1, (Holding(NAME, 1, None),)))
    ]
    ours = talk()
    number, _ = ours.want(b"manifest", (NAME,))
    told = Refused(number, "denied", "prove it", b"challenge")
    assert ours.handle(told, 10, 0.0) == [WantRefused(number, told)]
    assert ours.handle(Holds(number, (Holding(NAME, 1, None),)), 10, 0.0) == [
        Learned(number, NAME, 1, None)
    ]


def test_one_want_is_not_refused_for_ever():
    machine = talk()
    machine.want(MANIFEST, (NAME,))
    machine.want(MANIFEST, (OTHER,))
    challenge = Refused(1, "denied", "", b"challenge")
    for now in range(0, 3600, 60):
        assert machine.handle(challenge, 10, now) == [WantRefused(1, challenge)]
    assert True in [is_too_much(machine, challenge) for _ in range(10)]


def is_too_much(machine, refused):
    """Whether the machine has had enough."""
    try:
        machine.handle(refused, 10, 3600.0)
    except Untrusted:
        return True
    return False


def test_news_that_outruns_a_look_up_is_not_lost():
    machine = talk()
    (looked,) = machine.handle(Want(1, None, (NAME,)), 10, 0.0)
    machine.lost([NAME], 0.0)  # evicted while the shelf's answer is under way
    (_sent, end) = machine.found(looked, [Holding(NAME, 1, None)])
    assert end == Send(HoldsEnd(1))
    (again,) = tick(machine, 0.0)
    assert isinstance(again, LookUp)
    assert machine.found(again, []) == [Send(Gone(1, (NAME,)))]
    machine.grew(NAME, RangeSet.of((0, 1)), 1.0)
    (looked,) = tick(machine, 2.0)
    assert isinstance(looked, LookUp), "the peer forgot its size: it is told all of it again"


@pytest.mark.parametrize(
    "lie",
    [
        Holds(1, (Holding(OTHER, 1, None),)),
        Holds(1, (Holding(NAME, 1 << 20, RangeSet.of((1, 2))),)),
        Have(1, (Grown(OTHER, None),)),
        Gone(1, (OTHER,)),
        HoldsEnd(2),
    ],
)
def test_tales_that_were_not_wanted_are_lies(lie):
    machine = talk()
    assert machine.want(None, (NAME,))[0] == 1
    with pytest.raises(Untrusted):
        machine.handle(lie, 10, 0.0)


def test_what_a_peer_makes_us_remember_is_bounded():
    machine = talk(options=SyncOptions(max_spans=1000))
    names = tuple(b"%d" % n for n in range(20))
    machine.want(None, names)
    spans = RangeSet.of(*((2 * n, 2 * n + 1) for n in range(100)))
    for name in names[:10]:
        machine.handle(Holds(1, (Holding(name, 1 << 40, spans),)), 10, 0.0)
    machine.handle(Holds(1, (Holding(names[0], 1 << 40, spans),)), 10, 0.0)
    with pytest.raises(Untrusted):
        machine.handle(Holds(1, (Holding(names[10], 1 << 40, spans),)), 10, 0.0)
    wants = talk(options=SyncOptions(max_wanted_names=30))
    wants.handle(Want(1, None, names), 10, 0.0)
    (refused,) = wants.handle(Want(2, None, names), 10, 0.0)
    assert refused.message.code == "unavailable"
    wants.handle(Drop(1), 10, 0.0)
    assert isinstance(wants.handle(Want(3, None, names), 10, 0.0)[0], LookUp)


def spans_of(count):
    return RangeSet.of(*((2 * n, 2 * n + 1) for n in range(count)))


def test_what_a_peer_says_it_brings_counts_to_what_it_makes_us_remember():
    machine = talk(options=SyncOptions(max_spans=1000))
    names = tuple(b"%d" % n for n in range(20))
    says = [Coming(name, spans_of(100)) for name in names]
    for number in (1, 2):
        machine.want(MANIFEST, names)
        for _ in range(3):  # it replaces what was said before
            machine.handle(Brings(number, 1.0, False, tuple(says[:5])), 10, 0.0)
    with pytest.raises(Untrusted):
        machine.handle(Brings(2, 1.0, False, tuple(says[:6])), 10, 0.0)
    machine = talk(options=SyncOptions(max_spans=1000))
    for number in (1, 2, 3):
        machine.want(MANIFEST, names)
        machine.handle(Brings(number, 1.0, False, tuple(says[:10])), 10, 0.0)
        machine.drop(number)


def test_nobody_says_it_brings_more_than_one_may():
    names = tuple(b"%d" % n for n in range(1000))
    much = tuple(Coming(name, spans_of(2)) for name in names)
    with pytest.raises(Untrusted):
        parse(encode_long(Brings(1, 1.0, False, (Coming(NAME, spans_of(513)),))))
    machine = talk()
    machine.want(MANIFEST, names)
    with pytest.raises(Untrusted):
        machine.handle(Brings(1, 1.0, False, much), 10, 0.0)
    # We say as much as fits, and the other side takes it.
    says, hears = talk(), talk()
    want = hears.want(MANIFEST, names)[1].message
    (looked,) = says.handle(want, 10, 0.0)
    says.brings(MANIFEST, Part(1.0, False, (Coming(names[0], spans_of(9999)), *much[1:])), 0.0)
    (told,) = [s.message for s in says.found(looked, ()) if isinstance(s.message, Brings)]
    assert len(told.entries) > 500
    assert hears.handle(parse(encode(told)[4:]), 10, 0.0)[0].part.brings[1:] == told.entries[1:]


def encode_long(message):
    """The body of a frame with more spans than ours ever has."""
    spans = b"".join(n.to_bytes(4, "big") for span in message.entries[0].blocks.spans for n in span)
    return msgpack.packb([26, message.id, 1.0, False, [[NAME, spans]]])


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 50)), max_size=60))
def test_a_bucket_never_lets_more_pass_than_its_rate(steps):
    bucket, now, passed = Bucket(10.0, 40.0, 0.0), 0.0, 0.0
    for wait, amount in steps:
        now += wait
        if bucket.take(amount, now):
            passed += amount
        assert passed <= 40.0 + 10.0 * now + 1e-6


class TwoEnds(RuleBasedStateMachine):
    """Two machines, a wire each way that may lag, a shelf: what one knows becomes what is held."""

    SIZE = 20 << 20

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.a, self.b = talk(), talk()  # a holds, b wants
        self.to_a: list[Message] = []
        self.to_b: list[Message] = []
        self.lookups: list[tuple[LookUp, list | None]] = []
        self.held: dict[bytes, RangeSet | None] = {}
        self.known: dict[bytes, RangeSet | None] = {}
        self.want = None
        self.settled = False

    def do(self, actions, out):
        for action in actions:
            match action:
                case Send(message):
                    out.append(parse(encode(message)[4:]))
                case LookUp():
                    self.lookups.append((action, None))
                case Learned(number, name, _, blocks) if number == self.want:
                    self.known[name] = blocks
                case LostThere(number, name) if number == self.want:
                    del self.known[name]
                case Settled(number):
                    self.settled |= number == self.want
                case Ended():
                    raise AssertionError("an honest peer was ended")

    @precondition(lambda self: self.want is None)
    @rule(names=st.sets(st.sampled_from([b"0", b"1", b"2", b"3"]), min_size=1))
    def wants(self, names):
        self.want, send = self.b.want(None, sorted(names))
        self.names, self.known, self.settled = names, {}, False
        self.do([send], self.to_a)

    @precondition(lambda self: self.want is not None)
    @rule()
    def drops(self):
        self.do(self.b.drop(self.want), self.to_a)
        self.want = None

    @rule(name=st.sampled_from([b"0", b"1", b"2", b"3"]), block=st.integers(0, 19))
    def grows(self, name, block):
        before = self.held.get(name, RangeSet())
        if before is not None:
            self.held[name] = before.add(block, block + 1)
            self.a.grew(name, RangeSet.of((block, block + 1)), self.now)

    @rule(name=st.sampled_from([b"0", b"1", b"2", b"3"]))
    def completes(self, name):
        self.held[name] = None
        self.a.grew(name, None, self.now)

    @rule(name=st.sampled_from([b"0", b"1", b"2", b"3"]))
    def loses(self, name):
        self.held.pop(name, None)
        self.a.lost([name], self.now)

    @rule(wait=st.floats(0, 0.2))
    def ticks(self, wait):
        self.now += wait
        self.a.next_at(room=True, writing_since=None)
        self.do(self.a.tick(self.now, room=True, writing_since=None), self.to_b)

    @precondition(lambda self: self.lookups)
    @rule()
    def the_shelf_looks(self):
        looked, seen = self.lookups[0]
        if seen is None:
            held = [(name, self.held[name]) for name in looked.names if name in self.held]
            self.lookups[0] = (looked, [Holding(name, self.SIZE, b) for name, b in held])
        else:  # its answer may be a while on its way
            self.lookups.pop(0)
            self.do(self.a.found(looked, seen), self.to_b)

    @precondition(lambda self: self.to_a)
    @rule()
    def a_hears(self):
        self.do(self.a.handle(self.to_a.pop(0), 10, self.now), self.to_b)

    @precondition(lambda self: self.to_b)
    @rule()
    def b_hears(self):
        self.do(self.b.handle(self.to_b.pop(0), 10, self.now), self.to_a)

    @invariant()
    def nothing_is_made_up(self):
        for name, blocks in self.known.items():
            if blocks is not None:
                assert all(end <= 20 for _, end in blocks)
            assert name in self.names

    def teardown(self):
        """When all is quiet, the one knows exactly what the other holds."""
        for _ in range(200):
            while self.to_a:
                self.a_hears()
            while self.to_b:
                self.b_hears()
            while self.lookups:
                self.the_shelf_looks()
            self.ticks(0.05)
            if not (self.to_a or self.to_b or self.lookups):
                break
        if self.want is not None:
            assert self.settled
            assert self.known == {n: b for n, b in self.held.items() if n in self.names}
        assert len(self.a._their_wants) == (self.want is not None)


TestTwoEnds = pytest.mark.slow(TwoEnds.TestCase)
TestTwoEnds.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)


def test_goodbyes_end_without_blame():
    assert talk().handle(Bye("stopping"), 10, 0.0) == [Ended(Cause.BYE, "stopping")]

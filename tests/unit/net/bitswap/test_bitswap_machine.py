"""What we want of peers: found, asked of one at a time, and forgotten everywhere when it ends."""

from __future__ import annotations

import hashlib
from collections import deque
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.net.bitswap.machine import MAX_RECENT, MAX_UNASKED, Came, WantOptions, Wants
from p2pcache.net.bitswap.wire import Entry, Kind

A, B, C = b"peer a", b"peer b", b"peer c"
OPTIONS = WantOptions(window=3, patience_s=5.0)


def cid(number: int) -> bytes:
    return cids.raw_cid(hashlib.sha256(b"%d" % number).digest())


def wants_with(*peers: bytes) -> Wants:
    wants = Wants(OPTIONS)
    for peer in peers:
        wants.up(peer, 0.0)
    return wants


def kinds(wants: Wants, peer: bytes) -> list[tuple[bytes, str]]:
    return [(e.cid, "cancel" if e.cancel else e.kind.name.lower()) for e in wants.take(peer)]


def test_a_single_peer_is_asked_for_the_block_at_once():
    wants = wants_with(A)
    wants.want(cid(1), 1, 0.0)
    assert kinds(wants, A) == [(cid(1), "block")]
    assert wants.block(A, cid(1), 0.1) is Came.WANTED
    assert wants.count() == 0
    assert not wants.has_more(A)  # it forgot the want with the block that it sent


def test_of_several_peers_one_that_has_it_is_asked():
    wants = wants_with(A, B, C)
    wants.want(cid(1), 1, 0.0)
    assert {kinds(wants, peer)[0] for peer in (A, B, C)} == {(cid(1), "have")}
    wants.presence(A, [], [cid(1)], 0.1)
    wants.presence(B, [cid(1)], [], 0.1)
    assert not wants.has_more(A)
    assert kinds(wants, B) == [(cid(1), "block")]
    wants.block(B, cid(1), 0.2)
    assert kinds(wants, A) == kinds(wants, C) == [(cid(1), "cancel")]  # also who said no


def test_who_gave_a_block_is_asked_for_the_next_of_its_session():
    wants = wants_with(A, B)
    wants.want(cid(1), 1, 0.0)
    wants.presence(B, [cid(1)], [], 0.1)
    wants.block(B, cid(1), 0.2)
    kinds(wants, A), kinds(wants, B)
    wants.want(cid(2), 1, 0.3)
    assert kinds(wants, B) == [(cid(2), "block")]
    assert not wants.has_more(A)
    wants.want(cid(3), 2, 0.3)  # of another session
    assert kinds(wants, A) == [(cid(3), "have")]


def test_wants_are_spread_over_those_that_have_them():
    wants = wants_with(A, B)
    wants.want(cid(0), 1, 0.0)
    for peer in (A, B):
        wants.presence(peer, [cid(0)], [], 0.0)
    kinds(wants, A), kinds(wants, B)
    for number in range(1, 5):
        wants.want(cid(number), 1, 0.1)
    assert len(kinds(wants, A)) == len(kinds(wants, B)) == 2


def test_no_peer_owes_more_than_the_window():
    wants = wants_with(A)
    for number in range(9):
        wants.want(cid(number), 1, 0.0)
    assert kinds(wants, A) == [(cid(number), "block") for number in range(3)]
    wants.block(A, cid(1), 0.1)
    assert kinds(wants, A) == [(cid(3), "block")]


def test_earlier_wants_have_the_higher_priority():
    wants = wants_with(A)
    wants.want(cid(1), 1, 0.0)
    wants.want(cid(2), 1, 0.0)
    first, second = wants.take(A)
    assert first.priority > second.priority > 0


def test_a_silent_peer_is_passed_over_and_told_so():
    wants = wants_with(A, B)
    wants.want(cid(1), 1, 0.0)
    wants.presence(A, [cid(1)], [], 0.0)
    wants.presence(B, [cid(1)], [], 0.0)
    kinds(wants, A), kinds(wants, B)
    wants.tick(4.9)
    assert not wants.has_more(B)
    wants.tick(5.0)
    assert kinds(wants, A) == [(cid(1), "cancel")]
    assert kinds(wants, B) == [(cid(1), "block")]
    assert wants.block(A, cid(1), 5.1) is Came.WANTED  # it crossed the cancel
    assert kinds(wants, B) == [(cid(1), "cancel")]
    assert wants.block(B, cid(1), 5.2) is Came.AGAIN
    assert wants.again_count == 1


def test_a_peer_that_gives_other_blocks_is_not_silent():
    wants = wants_with(A)
    wants.want(cid(1), 1, 0.0)
    wants.want(cid(2), 1, 0.0)
    kinds(wants, A)
    wants.block(A, cid(1), 4.0)
    wants.tick(8.0)
    assert not wants.has_more(A)
    wants.tick(9.0)
    assert kinds(wants, A) == [(cid(2), "block")]


def test_the_only_peer_that_may_have_it_is_asked_again_and_others_are_looked_for():
    wants = wants_with(A, B)
    wants.want(cid(1), 1, 0.0)
    wants.presence(A, [cid(1)], [], 0.0)
    wants.presence(B, [], [cid(1)], 0.0)
    kinds(wants, A), kinds(wants, B)
    for at in (5.0, 10.0):
        wants.tick(at)
        assert kinds(wants, A) == [(cid(1), "block")]
        assert not wants.has_more(B)
        assert wants.take_hopeless() == [cid(1)]
        assert not wants.is_refused(cid(1))


def test_the_wants_of_a_peer_that_left_go_to_another():
    wants = wants_with(A, B)
    wants.want(cid(1), 1, 0.0)
    wants.presence(A, [cid(1)], [], 0.0)
    wants.presence(B, [cid(1)], [], 0.0)
    kinds(wants, A), kinds(wants, B)
    wants.down(A, 0.1)
    assert kinds(wants, B) == [(cid(1), "block")]


def test_a_want_that_everybody_refuses_is_hopeless_until_somebody_comes():
    wants = wants_with(A, B)
    wants.want(cid(1), 1, 0.0)
    assert wants.take_hopeless() == []
    for peer in (A, B):
        assert not wants.is_refused(cid(1))
        wants.presence(peer, [], [cid(1)], 0.1)
    assert wants.take_hopeless() == [cid(1)]
    assert wants.is_refused(cid(1))
    wants.up(C, 0.2)
    assert not wants.is_refused(cid(1))
    assert kinds(wants, C) == [(cid(1), "have")]


def test_a_want_without_any_peer_is_hopeless():
    wants = wants_with()
    wants.want(cid(1), 1, 0.0)
    assert wants.take_hopeless() == [cid(1)]
    assert wants.is_refused(cid(1))


def test_who_refused_may_send_it_later_and_may_say_so():
    wants = wants_with(A, B)
    wants.want(cid(1), 1, 0.0)
    for peer in (A, B):
        wants.presence(peer, [], [cid(1)], 0.1)
    kinds(wants, A), kinds(wants, B)
    wants.presence(B, [cid(1)], [], 9.0)
    assert kinds(wants, B) == [(cid(1), "block")]
    assert wants.block(A, cid(1), 9.1) is Came.WANTED


def test_a_want_ends_with_the_last_who_wants_it():
    wants = wants_with(A)
    wants.want(cid(1), 1, 0.0)
    wants.want(cid(1), 2, 0.0)
    kinds(wants, A)
    wants.unwant(cid(1), 1)
    assert not wants.has_more(A)
    wants.unwant(cid(1), 2)
    assert kinds(wants, A) == [(cid(1), "cancel")]
    assert wants.count() == 0


def test_blocks_that_were_not_asked_for_are_not_taken_and_end_in_blame():
    wants = wants_with(A, B)
    wants.want(cid(0), 1, 0.0)
    wants.down(B, 0.0)
    wants.up(B, 0.0)  # probed again
    for number in range(1, MAX_UNASKED + 1):
        assert wants.block(A, cid(number), 0.1) is Came.UNASKED
        assert not wants.is_to_blame(A)
    assert wants.block(A, cid(1000), 0.1) is Came.UNASKED
    assert wants.is_to_blame(A)
    assert not wants.is_to_blame(B)


def test_what_is_remembered_of_a_peer_is_bounded():
    wants = Wants(WantOptions(window=10))
    wants.up(A, 0.0)
    for number in range(MAX_RECENT + 10):
        wants.want(cid(number), 1, 0.0)
        wants.unwant(cid(number), 1)
        wants.take(A)
    assert wants.block(A, cid(0), 1.0) is Came.UNASKED
    assert wants.block(A, cid(MAX_RECENT), 1.0) is Came.AGAIN
    assert len(wants._peers[A].recent) == MAX_RECENT


def test_after_a_broken_stream_everything_is_said_again():
    wants = wants_with(A, B)
    wants.want(cid(1), 1, 0.0)
    wants.presence(A, [cid(1)], [], 0.0)
    kinds(wants, A), kinds(wants, B)
    wants.restart(A)
    wants.restart(B)
    assert kinds(wants, A) == [(cid(1), "block")]
    assert kinds(wants, B) == [(cid(1), "have")]


class Far:
    """A peer of the simulation. `kind`: has everything, nothing, or says nothing."""

    def __init__(self, name: bytes, kind: str, held: set[bytes]) -> None:
        self.name = name
        self.kind = kind
        self.held = held
        self.wants: dict[bytes, Entry] = {}
        self.refused: set[bytes] = set()  # and remembered
        self.answers: deque[tuple[str, bytes]] = deque()

    def hear(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.cancel:
                self.wants.pop(entry.cid, None)
                continue
            self.wants[entry.cid] = entry
            self.refused.discard(entry.cid)
            if self.kind == "silent":
                continue
            if entry.cid not in self.held:
                self.answers.append(("no", entry.cid))
            elif entry.kind is Kind.HAVE:
                self.answers.append(("yes", entry.cid))
            else:
                self.answers.append(("block", entry.cid))

    def get_one(self, name: bytes) -> None:
        """A block arrives there."""
        self.held.add(name)
        if name in self.wants and self.kind != "silent":
            self.answers.append(("block", name))


NUMBERS = st.integers(0, 11)
FARS = st.lists(
    st.tuples(st.sampled_from(["honest", "silent", "rogue"]), st.sets(NUMBERS)),
    min_size=1,
    max_size=4,
)


def answer(wants: Wants, far: Far, now: float, got: dict[bytes, int]) -> None:
    what, name = far.answers.popleft()
    if what == "block":
        if name not in far.wants:
            return  # cancelled before it left
        del far.wants[name]
        if wants.block(far.name, name, now) is Came.WANTED:
            got[name] = got.get(name, 0) + 1
    else:
        if what == "no":
            far.refused.add(name)
        wants.presence(far.name, *(([name], []) if what == "yes" else ([], [name])), now)


def check_owed(wants: Wants, up: list[Far]) -> None:
    """Each block is owed by one peer, and no peer owes more than the window."""
    owed: list[bytes] = []
    for far in up:
        cancelled = {e.cid for e in wants._peers[far.name].out.values() if e.cancel}
        blocks = {name for name, entry in far.wants.items() if entry.kind is Kind.BLOCK}
        here = blocks - cancelled - far.refused
        assert len(here) <= OPTIONS.window
        owed += here
    assert len(owed) == len(set(owed))


@settings(max_examples=150, deadline=None)
@given(
    FARS,
    st.lists(NUMBERS, min_size=1, max_size=12, unique=True),
    st.integers(0, 1 << 32),
)
def test_whatever_happens_what_somebody_has_arrives_once_and_nothing_is_left(fars, numbers, seed):
    random = Random(seed)
    wants = Wants(OPTIONS)
    peers = [Far(b"%d" % n, kind, {cid(i) for i in held}) for n, (kind, held) in enumerate(fars)]
    up: list[Far] = []
    todo = deque(cid(number) for number in numbers)
    asked = set(todo)
    got: dict[bytes, int] = {}
    now = 0.0
    for _ in range(300):
        match random.randrange(8):
            case 0 if todo:
                wants.want(todo.popleft(), random.randrange(2), now)
            case 1 if len(up) < len(peers):
                far = next(far for far in peers if far not in up)
                up.append(far)
                wants.up(far.name, now)
            case 2 if up and random.randrange(10) == 0:
                far = up.pop(random.randrange(len(up)))
                far.wants.clear()
                far.answers.clear()
                wants.down(far.name, now)
            case 3 if up:
                far = random.choice(up)
                if far.kind == "rogue":
                    number = random.randrange(100, 200)
                    assert wants.block(far.name, cid(number), now) is Came.UNASKED
            case 4:
                now += 0.4
                wants.tick(now)
            case 5 if up and random.randrange(20) == 0:
                random.choice(up).get_one(cid(random.choice(numbers)))
            case _ if up:
                far = random.choice(up)
                far.hear(wants.take(far.name))
                if far.answers:
                    answer(wants, far, now, got)
        check_owed(wants, up)
    asked -= set(todo)
    for _ in range(60):  # longer than it takes to pass over all that are silent
        now += 1.0
        wants.tick(now)
        for far in up:
            far.hear(wants.take(far.name))
            while far.answers:
                answer(wants, far, now, got)
    able = {name for far in up if far.kind != "silent" for name in far.held}
    missing = asked - set(got)
    assert not missing & able, "somebody has it and said so"
    assert all(count == 1 for count in got.values())
    for name in missing:
        for session in (0, 1):
            wants.unwant(name, session)
    for far in up:
        far.hear(wants.take(far.name))
        assert not far.wants  # nobody would send anything later
    assert wants.count() == 0
    assert not wants._idle

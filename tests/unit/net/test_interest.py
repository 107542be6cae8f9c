"""What members say they have is remembered in bounded memory, fairly between those who tell it."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.net import interest
from p2pcache.net.interest import MAX_MANIFESTS, MAX_TOLD_BYTES, MAX_TOTAL_BYTES, Interests
from p2pcache.net.sync.wire import Said
from tests.support.members import peer

MIB = 1 << 20


def names(number: int, count: int) -> list[bytes]:
    """Different for each number; as long as a CID."""
    return [
        bytes([1, 0x71, 0x12, 0x20]) + number.to_bytes(16, "big") + at.to_bytes(16, "big")
        for at in range(count)
    ]


def test_what_one_teller_says_of_others_takes_no_more_than_its_share():
    heard = Interests()
    heard.hear(peer(1), Said.POSSESS, names(1, 1000))
    heard.hear(peer(2), Said.POSSESS, names(2, 100))
    tracemalloc.start()
    for invented in range(100, 200):
        heard.hear(peer(invented), Said.POSSESS, names(invented, 1024), peer(2))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 1.1 * MAX_TOLD_BYTES
    assert heard.total_bytes < MAX_TOLD_BYTES + MIB
    assert heard.possessed_count(peer(1)) == 1000
    assert heard.possessed_count(peer(2)) == 100
    assert heard.possessed_count(peer(199)) == 1024, "the newest are kept"
    assert heard.possessed_count(peer(100)) == 0


def test_speakers_without_much_to_say_are_bounded_too():
    heard = Interests()
    tracemalloc.start()
    for invented in range(20_000):
        heard.hear(peer(100 + invented), Said.INTENT, names(0, 1), peer(2))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 1.1 * MAX_TOLD_BYTES
    for invented in range(20_000):
        heard.hear(peer(100 + invented), Said.WITHDRAWN, names(0, 1), peer(2))
    assert heard.total_bytes == 0
    assert not heard.who(names(0, 1)[0])


@pytest.mark.slow
def test_many_tellers_share_what_there_is_and_nobody_small_is_pushed_out():
    heard = Interests()
    heard.hear(peer(1), Said.POSSESS, names(1, 1000))
    heard.hear(peer(3), Said.POSSESS, names(3, 1000), peer(2))
    tracemalloc.start()
    for teller in range(100, 140):
        for part in range(16):
            heard.hear(peer(teller), Said.POSSESS, names(1000 * teller + part, 1024))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert heard.total_bytes <= MAX_TOTAL_BYTES
    assert taken < 1.1 * MAX_TOTAL_BYTES
    assert heard.possessed_count(peer(1)) == heard.possessed_count(peer(3)) == 1000
    counts = [heard.possessed_count(peer(teller)) for teller in range(100, 140)]
    assert min(counts) > MAX_TOTAL_BYTES // interest.WORD_BYTES // 80


def test_one_peer_is_remembered_with_its_newest_words():
    heard = Interests()
    for part in range(20):
        heard.hear(peer(1), Said.POSSESS, names(part, 1024))
    assert heard.possessed_count(peer(1)) == MAX_MANIFESTS
    assert heard.who(names(19, 1)[0]) == {peer(1): Said.POSSESS}
    assert heard.who(names(0, 1)[0]) == {}


def test_who_is_forgotten_takes_along_what_it_told():
    heard = Interests()
    heard.hear(peer(1), Said.POSSESS, names(1, 1))
    heard.hear(peer(2), Said.INTENT, names(1, 1), peer(1))
    heard.hear(peer(3), Said.INTENT, names(1, 1), peer(1))
    heard.hear(peer(3), Said.INTENT, names(1, 1))
    heard.forget_told(peer(1))
    assert heard.who(names(1, 1)[0]) == {peer(3): Said.INTENT}


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(Said), st.integers(0, 4)),
        max_size=60,
    ),
    st.integers(0, 3),
)
def test_the_newest_word_counts_and_the_books_are_even(steps, gone):
    heard, known = Interests(), {}
    for speaker, teller, said, name in steps:
        heard.hear(peer(speaker), said, names(name, 1), peer(teller))
        known[speaker, name] = said
    heard.forget(peer(gone))
    for name in range(5):
        assert heard.who(names(name, 1)[0]) == {
            peer(speaker): said
            for (speaker, one), said in known.items()
            if one == name and said is not Said.WITHDRAWN and speaker != gone
        }
    for speaker in range(4):
        heard.forget(peer(speaker))
    assert heard.total_bytes == 0
    assert not heard._told
    assert not +heard._bytes
    assert not heard._of_manifest


@pytest.mark.parametrize("size", [1, 64])
def test_names_of_any_length_count_as_they_are(size):
    heard = Interests()
    heard.hear(peer(1), Said.POSSESS, [bytes(size)])
    assert heard.total_bytes == interest.SPEAKER_BYTES + interest.WORD_BYTES + size

"""What an agent keeps of the preloads that members tell: bounded, verified once, over restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pcache.agent.preload import book as module
from p2pcache.agent.preload.book import Book, BookOptions
from p2pcache.config.preload import From, PreloadSettings
from p2pcache.content import flat, preload
from p2pcache.content.preload import MAX_SKEW_S, sign_cancel, sign_intent
from p2pcache.errors import Unavailable, Untrusted
from p2pcache.store.store import Store
from tests.support.gated import Key

SIGNER, OTHER, TELLER = Key(), Key(), Key().peer_id
NOW = 10_000
CID = b"\x01\x71\x12\x20" + bytes(32)


def wish(number=0, signer=SIGNER, issued=NOW, expires=NOW + 500):
    return sign_intent(
        signer, ref="hf://org/name", revision=None, manifest=CID, nodes="all", replicas=0,
        rate_bytes_per_s=None, issued_at=issued, start_at=issued, deadline_at=expires,
        expires_at=expires, nonce=number.to_bytes(16, "big"),
    )  # fmt: skip


def everybody(_signer) -> bool:
    return True


def saved(book, store):
    """What the index has once all is written."""
    changes = book.changes()
    if changes is not None:
        book.write(changes)
        book.written(changes)
    assert book.changes() is None
    return store.preloads.all()


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "home") as opened:
        yield opened


class Clock:
    now = float(NOW)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(store, clock):
    return Book(store.preloads, PreloadSettings(), lambda: clock.now)


def test_what_is_new_is_kept_and_passed_on_once(book, store):
    made = wish()
    assert book.hear(TELLER, [made.record], everybody) == [made.record]
    assert book.hear(TELLER, [made.record], everybody) == []
    assert [row.intent for row in saved(book, store)] == [made]


def test_a_record_is_verified_once_however_often_it_is_told(book, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "parse", lambda r: seen.append(r) or preload.parse(r))
    for _ in range(5):
        book.hear(TELLER, [wish().record, wish(1).record], everybody)
    assert len(seen) == 2


def test_a_forged_record_is_its_tellers_lie_and_nothing_of_it_is_kept(book, store):
    forged = flat.encode(flat.decode(wish().record) | {"nodes": "1"})
    with pytest.raises(Untrusted):
        book.hear(TELLER, [forged], everybody)
    assert saved(book, store) == []


def test_what_is_over_or_of_the_future_is_not_taken(book):
    over = wish(1, issued=NOW - 100, expires=NOW)
    future = wish(2, issued=NOW + MAX_SKEW_S + 1, expires=NOW + 1000)
    ahead = wish(3, issued=NOW + MAX_SKEW_S, expires=NOW + 1000)
    told = book.hear(TELLER, [one.record for one in (over, future, ahead)], everybody)
    assert told == [ahead.record]


def test_a_cancel_ends_it_also_when_it_comes_first_and_outlives_retelling(book, store, clock):
    made = wish()
    end = sign_cancel(SIGNER, made)
    assert book.hear(TELLER, [end.record], everybody) == [end.record]
    assert book.intents() == []
    book.hear(TELLER, [made.record], everybody)
    assert book.find(made.id).cancel == end
    book.hear(TELLER, [made.record], everybody)
    again = Book(store.preloads, PreloadSettings(), lambda: clock.now)
    again.load(saved(book, store))
    again.hear(TELLER, [made.record], everybody)
    assert again.find(made.id).cancel == end, "after a restart as well"


def test_a_strangers_cancel_ends_nothing(book):
    made = wish()
    stranger = replace(made, signer=OTHER.peer_id)
    end = sign_cancel(OTHER, stranger)
    for order in ([made.record, end.record], [end.record, made.record]):
        book.hear(TELLER, order, everybody)
        assert book.find(made.id).cancel is None


def test_one_signer_has_so_many_under_way_and_more_only_after_a_cancel(book):
    first = [wish(n) for n in range(17)]
    told = book.hear(TELLER, [one.record for one in first], everybody)
    assert len(told) == BookOptions().max_open_of_signer
    book.hear(TELLER, [sign_cancel(SIGNER, first[0]).record], everybody)
    assert book.hear(TELLER, [first[16].record], everybody) == [first[16].record]
    with pytest.raises(Unavailable, match="too many"):
        book.issue(wish(99))


def test_one_member_under_many_names_leaves_room_for_others(store, clock):
    options = BookOptions(max_rows=20, max_of_teller=10)
    book = Book(store.preloads, PreloadSettings(), lambda: clock.now, options)
    flood = [wish(n, Key()).record for n in range(30)]
    assert len(book.hear(TELLER, flood, everybody)) == 10
    assert book.hear(OTHER.peer_id, [wish().record], everybody)
    many = [wish(n, Key()).record for n in range(30)]
    for at in range(3):
        book.hear(Key().peer_id, many[at * 10 : at * 10 + 10], everybody)
    assert len(saved(book, store)) == 20, "and all together have a bound"


def test_one_teller_costs_so_many_verifications_a_second(store, clock, monkeypatch):
    options = BookOptions(records_burst=8, records_per_s=1)
    book = Book(store.preloads, PreloadSettings(), lambda: clock.now, options)
    seen = []
    monkeypatch.setattr(module, "parse", lambda r: seen.append(r) or preload.parse(r))
    flood = [wish(n, Key()).record for n in range(30)]
    for _ in range(3):
        book.hear(TELLER, flood, lambda _: False)
    assert len(seen) == 8
    clock.now += 2
    book.hear(TELLER, flood, lambda _: False)
    assert len(seen) == 10


def test_what_expired_or_whose_signer_was_banned_is_forgotten(book, store, clock):
    book.hear(TELLER, [wish().record, wish(1, OTHER, expires=NOW + 900).record], everybody)
    clock.now += 500
    assert book.drop(lambda _: False) == [wish().id]
    assert book.drop(lambda who: who == OTHER.peer_id)
    assert saved(book, store) == []


def test_settings_say_whose_preloads_count(store, clock):
    me, admin, member = (Key().peer_id for _ in range(3))
    counts = {From.MEMBERS: (1, 1, 1), From.ADMIN: (0, 1, 0), From.NOBODY: (1, 0, 0)}
    for who, expected in counts.items():
        book = Book(store.preloads, PreloadSettings(who), lambda: clock.now)
        assert tuple(book.takes_part(p, me, admin) for p in (me, admin, member)) == expected


def test_progress_and_the_rest_survive_a_restart_and_a_changed_file_does_not(book, store, clock):
    book.issue(wish())
    book.hear(TELLER, [wish(1).record], everybody)
    book.note(wish().id, origin_bytes=77, done=True)
    row = next(row for row in saved(book, store) if row.id == wish().id)
    assert (row.origin_bytes, row.done) == (77, True)
    bad = replace(wish(1), record=wish(2).record)
    store.preloads.put([replace(book.find(wish(1).id), intent=bad)])
    assert [row.id for row in store.preloads.all()] == [wish().id]


def test_nothing_is_written_before_it_is_asked_for_and_what_fails_is_not_forgotten(book, store):
    made, other = wish(), wish(1, OTHER)
    book.hear(TELLER, [made.record, other.record], everybody)
    assert store.preloads.all() == [], "hearing waits for no disk"
    taken = book.changes()
    book.note(made.id, origin_bytes=5, done=False)
    book.drop(lambda who: who == OTHER.peer_id)
    book.write(taken)
    book.written(taken)
    assert len(store.preloads.all()) == 2
    (row,) = saved(book, store)
    assert row.origin_bytes == 5, "what changed while it was written is written, too"


def test_what_expired_while_the_agent_was_away_leaves_the_file(book, store, clock):
    book.hear(TELLER, [wish().record], everybody)
    assert saved(book, store)
    clock.now += 500
    again = Book(store.preloads, PreloadSettings(), lambda: clock.now)
    again.load(again.read())
    assert again.intents() == []
    assert saved(again, store) == []


def test_what_is_to_leave_the_file_is_bounded(store, clock):
    options = BookOptions(max_gone=3)
    book = Book(store.preloads, PreloadSettings(), lambda: clock.now, options)
    for n in range(5):
        book.hear(TELLER, [wish(n, Key()).record], everybody)
    clock.now += 500
    book.drop(lambda _: False)
    assert len(book.changes().gone) == 3


def test_who_told_more_than_is_verified_at_once_is_remembered(store, clock):
    options = BookOptions(records_burst=2)
    book = Book(store.preloads, PreloadSettings(), lambda: clock.now, options)
    book.hear(TELLER, [wish(n).record for n in range(2)], everybody)
    assert book.missed == set()
    book.hear(TELLER, [wish(n).record for n in range(3)], everybody)
    assert book.missed == {TELLER}

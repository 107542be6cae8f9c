"""When a pull shows that an origin gives all of something to everybody."""

from __future__ import annotations

import pytest

from p2pcache.sources.port import Listing, SourceKind
from p2pcache.transfer.machine import Statistics
from p2pcache.transfer.machine.sources import SourceStatistics
from p2pcache.transfer.pull import came_whole, report_of
from p2pcache.transfer.want import Wanted
from tests.support.stored import name_of

ORIGIN, PEER, KUBO = SourceKind.ORIGIN, SourceKind.PEER, SourceKind.KUBO
FILES = [
    Wanted("a", 5, name_of(b"a"), "k/a"),
    Wanted("b", 7, name_of(b"b"), "k/b"),
    Wanted("again", 7, name_of(b"b"), "k/c"),
]


def came(*kept: tuple[SourceKind, int], gated: bool = False, files=FILES) -> bool:
    used = tuple(
        SourceStatistics(f"s{at}", kind, count, count, 1.0, 1, 0, None)
        for at, (kind, count) in enumerate(kept)
    )
    total = sum(count for _, count in kept)
    report = report_of({}, 0)
    report = type(report)(
        report.blobs, Statistics(used, total, 0, 0, 0), 0, 0, 0.0, 0.0, 0.0, 0.0
    )  # fmt: skip
    return came_whole(Listing("s3", "e", None, True, (), gated=gated), files, report)


def test_every_byte_came_from_the_origin():
    assert came((ORIGIN, 12))
    assert came((ORIGIN, 12), (PEER, 0))


@pytest.mark.parametrize("kept", [[(ORIGIN, 11), (PEER, 1)], [(ORIGIN, 12), (KUBO, 1)], []])
def test_some_came_from_others_or_was_here(kept):
    assert not came(*kept)
    assert not came((ORIGIN, 11)), "the rest was here of an earlier pull"


def test_a_login_shows_nothing_of_everybody():
    assert not came((ORIGIN, 12), gated=True)
    signed = [Wanted("a", 5, name_of(b"a"), "https://h/a?X-Amz-Signature=00&X-Amz-Date=1")]
    assert not came((ORIGIN, 5), files=signed)
    assert came((ORIGIN, 5), files=[Wanted("a", 5, name_of(b"a"), "https://h/a?version=2")])

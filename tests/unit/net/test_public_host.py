"""Which addresses the public host dials and tells, whoever tells of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from p2pcache.content import cid as cids
from p2pcache.net.public import MAX_SEARCHED, PublicOptions, _search, reaches

PEER = "12D3KooWGRUa4KSNjz3JcWQeHYrLT4DBYdYWzYbGhDfFMYQUJDnc"
ABROAD = ["/ip4/8.8.8.8/tcp/4001", "/ip6/2606:4700::1/tcp/4001"]
AT_HOME = {
    "loopback": ["/ip4/127.0.0.1/tcp/5001", "/ip6/::1/tcp/22", "/ip6/::ffff:127.0.0.1/tcp/22"],
    "private": ["/ip4/10.0.0.5/tcp/22", "/ip4/192.168.1.1/tcp/80", "/ip6/fd00::1/tcp/22",
                "/ip4/100.64.0.1/tcp/22", "/ip6/::ffff:10.0.0.5/tcp/22"],
    "link": ["/ip4/169.254.169.254/tcp/80", "/ip6/fe80::1/tcp/22"],
}  # fmt: skip
NEVER = ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1", "/ip4/224.0.0.1/tcp/1", "/dns4/a.example/tcp/443",
         "/ip4/8.8.8.8/udp/4001/quic-v1", "", "nonsense"]  # fmt: skip


def test_strangers_lead_to_public_addresses_alone():
    may = reaches(PublicOptions(listen=("/ip4/0.0.0.0/tcp/4802", "/ip6/::/tcp/4802")))
    assert all(map(may, ABROAD))
    assert not any(map(may, [*NEVER, *(one for kind in AT_HOME.values() for one in kind)]))


@pytest.mark.parametrize("kind", AT_HOME)
def test_the_kinds_that_the_user_listens_on_are_dialled_and_no_others(kind):
    may = reaches(PublicOptions(listen=(AT_HOME[kind][0],)))
    assert all(map(may, [*ABROAD, *AT_HOME[kind]]))
    others = [one for other, them in AT_HOME.items() if other != kind for one in them]
    assert not any(map(may, [*NEVER, *others]))


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/4001", "/dns/a.example/tcp/4001"])
def test_what_the_user_wrote_to_begin_with_is_dialled_and_nothing_beside_it(address):
    may = reaches(PublicOptions(bootstrap=(f"{address}/p2p/{PEER}",)))
    assert may(address)
    beside = [address.replace("4001", "22"), address.replace("a.", "b.").replace("0.0", "0.1")]
    assert not any(map(may, [*beside, *NEVER, *(one for them in AT_HOME.values() for one in them)]))


class Table:
    """A `DhtClient` that names these providers; those of `where` it knows more of after 1 s."""

    def __init__(self, named: dict[bytes, tuple[str, ...]], where: dict[bytes, tuple[str, ...]]):
        self._named, self._where = named, where
        self.searched: list[bytes] = []

    def find(self, name: bytes) -> Table:
        return self

    async def __aenter__(self) -> Table:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def __aiter__(self):
        for peer, addresses in self._named.items():
            await trio.lowlevel.checkpoint()
            yield peer, addresses

    async def where(self, peer: bytes) -> tuple[str, ...]:
        self.searched.append(peer)
        await trio.sleep(1 if peer in self._where else 1000)
        return self._where.get(peer, ())


async def searched(host, *tables: Table, enough: int) -> list[tuple[float, bytes]]:
    """Who was found, and after how long."""
    found = []
    async with _search(host, tables, cids.raw_cid(bytes(32))) as providers:
        async for peer, _ in providers:
            found.append((trio.current_time(), peer))
            if len(found) == enough:
                break
    return [(at - found[0][0], peer) for at, peer in found]


def test_a_provider_without_an_address_is_looked_for_and_holds_up_nobody():
    known, frozen, near, last = b"known", [b"%d" % n for n in range(9)], b"near", b"last"
    named = {known: (), **dict.fromkeys(frozen, ()), near: (), last: (ABROAD[0],)}
    table, other = Table(named, {known: (ABROAD[1],)}), Table({}, {})
    host = SimpleNamespace(connected=lambda: {near})

    async def main():
        with trio.fail_after(100):
            return await searched(host, table, other, enough=3)

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == [
        (0, near), (0, last), (1, known),
    ]  # fmt: skip
    assert len(table.searched) == MAX_SEARCHED, "a liar's list costs no more"

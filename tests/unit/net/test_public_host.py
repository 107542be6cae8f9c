"""Which addresses the public host dials and tells, whoever tells of them."""

from __future__ import annotations

import pytest

from p2pcache.net.public import PublicOptions, reaches

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

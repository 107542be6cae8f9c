"""What doctor says of a network, on stand-ins with the few fields that it looks at."""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2pcache.agent.network_health import multicast_interfaces, network_checks
from p2pcache.config.ipfs import IpfsSettings
from p2pcache.config.network import NetworkSettings
from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.errors import Denied, Unavailable
from p2pcache.net.discovery.found import How
from p2pcache.net.port import Unspoken

PEER = parse_peer_id("12D3KooWFTGUTqiLGmhuTnVxRqVXY17w222kPm5ezCZGSpPCiq5t")
OTHER = parse_peer_id("12D3KooWCSLtuJDDCZZqQCXzfiWVfgRkN7TQozMC3dNB9zuWfTDd")
BOOTSTRAP = f"/ip4/192.0.2.7/tcp/4801/p2p/{format_peer_id(PEER)}"


def network(
    *, members: int = 0, address: str = "/ip4/192.0.2.1/tcp/4801", **more: Any
) -> SimpleNamespace:
    fields: dict[str, Any] = {
        "failures": {}, "strangers": deque(), "seen": Counter(), "unanswered": {}, **more,
    }  # fmt: skip
    return SimpleNamespace(
        key=SimpleNamespace(fingerprint="2f59"),
        book=SimpleNamespace(peers=lambda: fields.get("known", [])),
        admin=fields.get("admin"),
        peer_id=PEER,
        server=SimpleNamespace(port=4802),
        host=SimpleNamespace(addresses=lambda: (address,), strangers=fields["strangers"]),
        network=SimpleNamespace(
            members=lambda: [SimpleNamespace(peer=b"%d" % n) for n in range(members)],
            failures=lambda: fields["failures"],
        ),
        seen=fields["seen"],
        unanswered=fields["unanswered"],
    )


def parts(
    opened: SimpleNamespace | None,
    *,
    key: bool = True,
    trouble: str | None = None,
    hint: str | None = None,
    skew_s: float = 0.0,
    **settings: Any,
) -> Any:
    return SimpleNamespace(
        network=SimpleNamespace(
            current=opened,
            trouble=trouble,
            hint=hint,
            settings=NetworkSettings(**settings),
            files=SimpleNamespace(network=SimpleNamespace(exists=lambda: key)),
        ),
        names=SimpleNamespace(clock_skew_s=skew_s),
        config=SimpleNamespace(ipfs=IpfsSettings(bitswap=True)),
    )


def bad(agent: Any) -> dict[str, dict[str, Any]]:
    found = {check["check"]: check for check in network_checks(agent) if not check["ok"]}
    assert all(check["hint"] for check in found.values()), "each fault has its hint"
    return found


def test_to_be_in_no_network_is_no_fault_and_says_how_to_be_in_one():
    (only,) = network_checks(parts(None, key=False))
    assert only["ok"]
    assert "p2pcache init" in only["detail"]


def test_a_network_that_was_switched_off_is_no_fault():
    (only,) = network_checks(parts(None, enabled=False))
    assert only["ok"]
    assert "network.enabled" in only["detail"]


def test_a_port_that_another_program_has_is_named_with_the_setting():
    found = bad(parts(None, trouble="/ip4/0.0.0.0/tcp/4801: address already in use"))
    assert "address already in use" in found["network"]["detail"]
    assert "network.port" in found["network"]["hint"]


def test_with_company_nothing_that_could_explain_loneliness_is_a_fault():
    assert bad(parts(network(members=2, address="/ip4/127.0.0.1/tcp/40000"))) == {}


def test_alone_on_loopback_and_on_another_port_both_are_told():
    found = bad(parts(network(address="/ip4/127.0.0.1/tcp/40000"), mdns=False))
    assert set(found) == {"addresses", "port", "members"}
    assert "40000" in found["port"]["detail"]
    assert "4801" in found["port"]["hint"]


def test_alone_with_multicast_says_that_nobody_was_heard():
    found = bad(parts(network()))
    assert {"mDNS", "multicast"} & set(found)
    if multicast_interfaces():
        assert "UDP 5353" in found["mDNS"]["hint"]


def test_who_was_heard_is_no_fault_of_mdns():
    assert "mDNS" not in bad(parts(network(seen=Counter({How.MDNS: 3}))))


def test_a_bootstrap_that_does_not_answer_is_named_with_what_it_said():
    failures = {PEER: Unavailable("/ip4/192.0.2.7/tcp/4801: connection refused")}
    found = bad(parts(network(failures=failures), bootstrap=(BOOTSTRAP,), mdns=False))
    assert "connection refused" in found["bootstrap"]["detail"]


@pytest.mark.parametrize("inbound", [True, False])
def test_another_key_is_told_whoever_dialled(inbound: bool):
    strangers = deque(["192.0.2.9"] if inbound else [])
    failures = {} if inbound else {PEER: Denied("192.0.2.9 is in another network")}
    found = bad(parts(network(members=1, failures=failures, strangers=strangers)))
    assert "192.0.2.9" in found["keys"]["detail"]
    assert "p2pcache invite" in found["keys"]["hint"]


def test_a_clock_that_is_ahead_is_told_only_beyond_what_is_tolerated():
    assert bad(parts(network(members=1), skew_s=200.0)) == {}
    assert "NTP" in bad(parts(network(members=1), skew_s=4000.0))["clock"]["hint"]


def test_loopback_and_interfaces_that_are_gone_carry_no_multicast():
    for name in multicast_interfaces():
        assert name != "lo"
        assert Path("/sys/class/net", name).exists()


def test_what_is_wrong_with_a_key_comes_with_its_own_hint():
    found = bad(parts(None, trouble="the network key is damaged", hint="move it away"))
    assert found["network"]["hint"] == "move it away"


@pytest.mark.parametrize(
    ("admin", "told"),
    [(None, "no `network.admin`"), (PEER, "this agent"), (OTHER, "and not this agent")],
)
def test_who_may_grant_is_told(admin, told):
    checks = {check["check"]: check for check in network_checks(parts(network(admin=admin)))}
    assert checks["admin"]["ok"]
    assert told in checks["admin"]["detail"]


def test_who_was_here_last_time_and_is_not_now_is_named_with_the_last_error():
    known = [SimpleNamespace(peer=PEER), SimpleNamespace(peer=OTHER)]
    failures = {PEER: Unavailable("connection refused")}
    found = bad(parts(network(failures=failures, known=known), mdns=False))
    assert f"{format_peer_id(PEER)}: connection refused" in found["absent"]["detail"]
    assert f"{format_peer_id(OTHER)}: not reached yet" in found["absent"]["detail"]
    with_company = parts(network(members=1, failures=failures, known=known))
    assert "absent" not in bad(with_company), "with company it is told, and no fault"
    checks = {check["check"]: check for check in network_checks(with_company)}
    assert "connection refused" in checks["absent"]["detail"]


def test_a_kubo_of_the_network_is_no_absent_agent():
    told = {PEER: Unspoken("it does not speak /p2pcache/sync/1"), OTHER: Unavailable("refused")}
    rows = {row["check"]: row for row in network_checks(parts(network(failures=told)))}
    assert format_peer_id(PEER) in rows["other nodes"]["detail"]
    assert rows["other nodes"]["ok"]
    assert "bitswap" in rows["other nodes"]["detail"]
    assert format_peer_id(PEER) not in rows["absent"]["detail"]
    assert format_peer_id(OTHER) in rows["absent"]["detail"]
    assert "other nodes" not in {row["check"] for row in network_checks(parts(network()))}

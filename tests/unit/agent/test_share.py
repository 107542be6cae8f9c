"""What the network's operations refuse, and the way out that they name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from p2pcache.agent import share
from p2pcache.agent.args import Args
from p2pcache.agent.network_files import Files
from p2pcache.content.peerid import parse_peer_id
from p2pcache.errors import Denied, LocalFault, Unavailable, UsageError

PEER = parse_peer_id("12D3KooWFTGUTqiLGmhuTnVxRqVXY17w222kPm5ezCZGSpPCiq5t")
OTHER = parse_peer_id("12D3KooWCSLtuJDDCZZqQCXzfiWVfgRkN7TQozMC3dNB9zuWfTDd")
GRANT = {"repo": "hf://org/gated", "peer": "12D3KooWCSLtuJDDCZZqQCXzfiWVfgRkN7TQozMC3dNB9zuWfTDd"}


async def nothing(_: object) -> None:
    raise AssertionError("nothing is emitted")


def parts(tmp_path: Any, opened: Any = None, **slot: Any) -> Any:
    async def wait_open(_: float) -> Any:
        return opened

    fields = {"trouble": None, "hint": None, "wait_open": wait_open, **slot}
    return SimpleNamespace(
        network=SimpleNamespace(current=opened, files=Files(tmp_path), **fields),
        config=SimpleNamespace(network=SimpleNamespace(enabled=True)),
        now=lambda: 1000.0,
    )


@pytest.mark.parametrize(
    ("admin", "told", "way_out"),
    [(None, "no `network.admin`", "peer id"), (OTHER, "only the network's admin", "identity.key")],
)
async def test_a_grant_that_is_refused_says_what_is_missing(tmp_path, admin, told, way_out):
    agent = parts(tmp_path, SimpleNamespace(admin=admin, peer_id=PEER))
    with pytest.raises(Denied, match=told) as caught:
        await share.grant(agent, Args({**GRANT, "expires_s": 60}), nothing)
    assert way_out in (caught.value.hint or "")


@pytest.mark.parametrize("expires_s", [None, 0, 0.5, -5, 1e15])
@pytest.mark.parametrize("operation", [share.invite, share.grant])
async def test_what_never_or_at_once_expires_is_refused(tmp_path, operation, expires_s):
    agent = parts(tmp_path, SimpleNamespace(admin=PEER, peer_id=PEER))
    with pytest.raises(UsageError, match="expires_s"):
        await operation(agent, Args({**GRANT, "expires_s": expires_s}), nothing)


async def test_a_network_that_is_off_says_what_to_do_about_it(tmp_path):
    (tmp_path / "network.key").write_text("garbage")
    agent = parts(tmp_path, trouble="the key is damaged", hint="move it away")
    with pytest.raises(Unavailable, match="damaged") as caught:
        await share.init(agent, Args({}), nothing)
    assert caught.value.hint == "move it away"


def test_an_admin_file_with_nonsense_names_the_way_out(tmp_path):
    Files(tmp_path).admin.write_text("nonsense")
    with pytest.raises(LocalFault, match="does not hold a peer id") as caught:
        Files(tmp_path).read_admin()
    assert "move it away" in (caught.value.hint or "")

"""What `join` takes from a token."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from p2pcache.agent import share
from p2pcache.agent.args import Args
from p2pcache.agent.network_files import Files
from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import UsageError
from p2pcache.net.address import parse_address
from p2pcache.net.invite import Invite, format_invite
from p2pcache.net.network_key import NetworkKey
from tests.support.gated import ADMIN, ME, STRANGER

KEY = NetworkKey.generate()


def token(admin, key: NetworkKey = KEY) -> Args:
    address = parse_address(f"/ip4/127.0.0.1/tcp/4001/p2p/{format_peer_id(ME.peer_id)}")
    made = Invite(key, (address,), 1000, None if admin is None else admin.peer_id)
    return Args({"token": format_invite(made)})


@pytest.fixture
def parts(tmp_path):
    opened = SimpleNamespace(key=KEY, peer_id=ME.peer_id, admin=None, addresses=list)

    @asynccontextmanager
    async def watch():
        yield None

    opened.network = SimpleNamespace(watch=watch)

    async def get(*_timeout):
        return opened

    files = Files(tmp_path)
    network = SimpleNamespace(files=files, restart=get, wait_open=get, current=opened)
    return SimpleNamespace(network=network, now=lambda: 1.0)


async def test_a_later_token_does_not_replace_the_admin(parts):
    files = parts.network.files
    files.write_admin(STRANGER.peer_id)  # of a network that was left
    await share.join(parts, token(ADMIN), None)
    assert files.read_admin() == ADMIN.peer_id, "the first token says who it is"
    with pytest.raises(UsageError, match="another admin"):
        await share.join(parts, token(STRANGER), None)
    await share.join(parts, token(None), None)
    await share.join(parts, token(ADMIN), None)
    assert files.read_admin() == ADMIN.peer_id


async def test_a_token_names_the_admin_where_none_is_known(parts):
    files = parts.network.files
    await share.join(parts, token(None), None)
    assert files.read_admin() is None
    await share.join(parts, token(ADMIN), None)
    assert files.read_admin() == ADMIN.peer_id

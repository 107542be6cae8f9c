"""What the network's operations refuse, and the way out that they name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from p2pcache.agent import grants, share
from p2pcache.agent.args import Args
from p2pcache.agent.network_files import Files
from p2pcache.content.peerid import parse_peer_id
from p2pcache.errors import Denied, LocalFault, NotFound, Unavailable, UsageError
from p2pcache.store.store import Store
from tests.support.gated import Key

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
        await grants.grant(agent, Args({**GRANT, "expires_s": 60}), nothing)
    assert way_out in (caught.value.hint or "")


@pytest.mark.parametrize("expires_s", [None, 0, 0.5, -5, 1e15])
@pytest.mark.parametrize("operation", [share.invite, grants.grant])
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


@pytest.mark.parametrize(
    "repo",
    ["", "nonsense", "hf://", "hf://a/b--c", "hf://org/name@main", "hf://org/name/config.json",
     "https://example.org/x", "sha256:" + "ab" * 32, "./folder"],
)  # fmt: skip
async def test_what_is_no_repository_gets_no_grant(tmp_path, repo):
    for operation in (grants.grant, grants.revoke):
        with pytest.raises(UsageError) as caught:
            await operation(
                parts(tmp_path), Args({**GRANT, "repo": repo, "expires_s": 60}), nothing
            )
        assert repo == "" or caught.value.hint


@pytest.mark.parametrize("peer", ["", "nobody", "12D3KooW...", "Qm" + "a" * 44, "1" * 5000])
async def test_what_is_no_peer_id_gets_no_grant(tmp_path, peer):
    for operation in (grants.grant, grants.revoke):
        with pytest.raises(UsageError) as caught:
            await operation(
                parts(tmp_path), Args({**GRANT, "peer": peer, "expires_s": 60}), nothing
            )
        assert peer == "" or caught.value.hint


class Admin:
    """The admin's agent with a store, and what it told the network."""

    def __init__(self, tmp_path: Any, store: Store) -> None:
        self.key, self.told = Key(), []
        network = SimpleNamespace(permit=self.told.extend, member=lambda _: None)
        opened = SimpleNamespace(
            admin=self.key.peer_id, peer_id=self.key.peer_id, identity=self.key, network=network
        )
        self.parts = parts(tmp_path, opened)
        self.parts.store = store
        self.items: list[dict[str, Any]] = []

    async def call(self, operation: Any, **args: Any) -> dict[str, Any]:
        async def emit(message: Any) -> None:
            self.items.append(message["value"])

        return await operation(self.parts, Args({**GRANT, **args}), emit)

    async def listed(self) -> list[tuple[float, bool]]:
        self.items = []
        await self.call(grants.grants)
        return [(item["expires_at"], item["revoked"]) for item in self.items]


@pytest.fixture
def admin(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield Admin(tmp_path, store)


async def test_a_grant_is_listed_and_taken_back_and_given_again_for_longer(admin):
    assert await admin.listed() == []
    with pytest.raises(NotFound, match="no grant"):
        await admin.call(grants.revoke)
    given = await admin.call(grants.grant, expires_s=100)
    assert given["connected"] is False
    assert await admin.listed() == [(1100.0, False)]
    taken = await admin.call(grants.revoke)
    assert (taken["repo"], taken["expires_at"]) == ("hf://org/gated", 1100.0)
    assert await admin.listed() == [(1100.0, True)]
    with pytest.raises(NotFound, match="no grant"):
        await admin.call(grants.revoke)
    with pytest.raises(UsageError, match="taken back"):
        await admin.call(grants.grant, expires_s=100)
    await admin.call(grants.grant, expires_s=101)
    assert await admin.listed() == [(1101.0, False)]
    assert [one.expires_at for one in admin.told] == [1100.0, 1100.0, 1101.0]


async def test_a_shorter_grant_is_refused_where_it_would_change_nothing(admin):
    await admin.call(grants.grant, expires_s=100)
    with pytest.raises(UsageError, match="already") as caught:
        await admin.call(grants.grant, expires_s=50)
    assert "--revoke" in (caught.value.hint or "")
    assert len(admin.told) == 1


@pytest.mark.parametrize(
    ("told", "seen", "shown"),
    [
        (["/ip4/10.0.0.2/tcp/4801"], "/ip4/10.0.0.2/tcp/53211", "/ip4/10.0.0.2/tcp/4801"),
        (["/ip4/172.17.0.1/tcp/4801", "/ip4/10.0.0.2/tcp/4801"], "/ip4/10.0.0.2/tcp/53211",
         "/ip4/10.0.0.2/tcp/4801"),
        (["/dns4/node/tcp/4801"], "/ip4/10.0.0.2/tcp/53211", "/dns4/node/tcp/4801"),
        ([], "/ip4/10.0.0.2/tcp/53211", "/ip4/10.0.0.2/tcp/53211"),
        (["/ip4/10.0.0.2/tcp/4801"], None, "/ip4/10.0.0.2/tcp/4801"),
        ([], None, None),
    ],
)  # fmt: skip
def test_a_peer_is_shown_where_it_listens_not_where_its_connection_came_from(told, seen, shown):
    assert share.listening_address(told, seen) == shown

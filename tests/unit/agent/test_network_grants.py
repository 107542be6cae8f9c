"""Grants travel to all members; what a member tells of them is cheap until the admin signed it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from p2pcache.agent import network as module
from p2pcache.agent.network import AgentNetwork
from p2pcache.content import signed
from p2pcache.errors import Untrusted
from p2pcache.net.member import MemberUp
from p2pcache.store.store import Store
from tests.support.gated import Key

ADMIN, OTHER, READER = Key(), Key(), Key()


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "home") as opened:
        yield opened


def agent(store) -> AgentNetwork:
    return AgentNetwork(
        identity=Key(),
        key=None,
        admin=ADMIN.peer_id,
        host=None,
        server=None,
        store=store,
        now=lambda: 1000.0,
        book=None,
        tls=None,
    )


@pytest.fixture
def verified(monkeypatch):
    """The grants whose signatures were checked on their way in."""
    seen = []

    def parse(wire):
        seen.append(wire)
        return signed.parse_grant(wire)

    monkeypatch.setattr(module, "parse_grant", parse)
    return seen


def told(signer, repo="hf://org/name", expires_at=2000.0):
    return tuple(signed.sign_grant(signer, repo, READER.peer_id, expires_at).to_wire())


def test_only_the_admins_new_grants_are_verified_and_each_once(store, verified):
    made = agent(store)
    others = [told(OTHER, f"hf://org/{n}") for n in range(64)]
    ended = told(ADMIN, "hf://org/ended", 999.0)
    assert made.heard_grants([*others, ended]) == []
    assert verified == []
    good = told(ADMIN)
    assert [grant.repo for grant in made.heard_grants([good])] == ["hf://org/name"]
    reads = store.others.grants
    store.others.grants = None
    for _ in range(3):
        assert made.heard_grants([good, told(ADMIN, expires_at=1500.0)]) == []
    store.others.grants = reads
    assert len(verified) == 1
    assert made.heard_grants([told(ADMIN, expires_at=3000.0)])[0].expires_at == 3000.0


def test_after_a_restart_what_was_kept_is_no_news(store, verified):
    good = told(ADMIN)
    assert agent(store).heard_grants([good])
    assert agent(store).heard_grants([good]) == []


def test_who_says_that_the_admin_signed_what_it_did_not_is_a_liar(store):
    with pytest.raises(Untrusted):
        agent(store).heard_grants([(*told(OTHER)[:3], ADMIN.peer_id, bytes(64))])


async def test_a_newcomer_alone_is_told_of_all_grants(store):
    made = agent(store)
    made.heard_grants([told(ADMIN)])
    tellings = []
    members = [MemberUp(SimpleNamespace(peer=b"%d" % n, addresses=())) for n in range(3)]

    @asynccontextmanager
    async def watch():
        async def changes():
            for member in members:
                yield member

        yield changes()

    made.network = SimpleNamespace(
        watch=watch, permit=lambda grants, to: tellings.append((to, len(grants)))
    )
    made.book = SimpleNamespace(saw=lambda *_: None, save=lambda: None)
    await made.keep_book()
    assert tellings == [(member.member.peer, 1) for member in members]

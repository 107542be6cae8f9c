"""Logins that end in the middle of a push to Google's store or Azure's: what can be renewed is, and
whoever brings a fresh one goes on where the push was. Nothing is half visible.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from p2pcache.sources.azure.sign import WRITE, signed_query
from tests.real.test_push_clouds import model, push, written
from tests.support.agents import Agent, running_agent
from tests.support.azurite import ACCOUNT, KEY, azurite
from tests.support.blobs import MIB
from tests.support.certs import make_server_cert
from tests.support.cloud_logins import google_logins, managed_identity
from tests.support.clouds import OFFLINE, Azure, Gcs, running_cloud
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import Ask, Reply, s3_proxy
from tests.support.watched_pull import QUICK, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    with running_cloud("gcs", tmp_path_factory.mktemp("gcs")) as running:
        assert isinstance(running, Gcs)
        yield running


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK, **OFFLINE) as running:
        yield running


def sent_a_part(ask: Ask) -> bool:
    return ask.writes and ("upload_id" in ask.query or ask.query.get("comp") == ["block"])


def test_a_service_account_outlives_its_tokens(gcs: Gcs, agent: Agent, tmp_path: Path) -> None:
    """A session of Google's needs none; what is asked before and behind it does."""
    files = model("renewed")
    gcs.fill("renewed", {})
    slow = iter([Reply(wait_s=3.0)])
    with s3_proxy(gcs.server) as proxy, google_logins(lasts_s=2.0) as google, at_most(60):

        def fault(ask: Ask) -> Reply | None:
            if sent_a_part(ask):
                return next(slow, None)
            return None if google.accepts(ask.headers) else Reply(401)

        proxy.fault = fault
        login = {"gcs_account": google.account, "gcs_endpoint_url": proxy.url}
        push(agent, written(tmp_path / "d", files), gcs.ref("renewed/m"), login)
        tokens = {ask.headers.get("authorization") for ask in proxy.seen if not sent_a_part(ask)}
    assert len(tokens) > 1
    for path, body in files.items():
        assert gcs.read("renewed", f"m/{path}") == body
    assert "m/.p2pcache/ref" in gcs.keys("renewed")


def test_a_token_that_ends_is_told_and_the_next_one_goes_on(
    gcs: Gcs, agent: Agent, tmp_path: Path
) -> None:
    files = {"large.bin": some_bytes(40 * MIB + 5, b"ended")}
    folder, to = written(tmp_path / "d", files), gcs.ref("ended/m")
    gcs.fill("ended", {})
    with s3_proxy(gcs.server) as proxy:
        login = gcs.asks(proxy.url)
        parts: list[Ask] = []

        def fault(ask: Ask) -> Reply | None:
            if sent_a_part(ask):
                parts.append(ask)
                held = Reply(wait_s=6.0, cut_body=0)  # until the lease is renewed
                return None if len(parts) < 2 else held
            return Reply(401) if parts else gcs.door(ask)

        proxy.fault = fault
        with at_most(60), pytest.raises(errors.Denied, match="does not accept the login") as seen:
            push(agent, folder, to, login)
        assert login["gcs_token"] not in f"{seen.value} {seen.value.hint}"
        keys = gcs.keys("ended")
        assert "m/large.bin" not in keys
        assert "m/.p2pcache/ref" not in keys, "nothing is half visible"
        proxy.fault = gcs.door
        with at_most(60):
            done = push(agent, folder, to, login)
    assert done["sent_bytes"] <= 24 * MIB + 5, "the first part was there"
    assert gcs.read("ended", "m/large.bin") == files["large.bin"]


def test_a_signature_of_azure_that_ends_is_told_and_the_next_one_goes_on(
    agent: Agent, tmp_path: Path
) -> None:
    """Azurite itself refuses what has ended."""
    large = some_bytes(40 * MIB + 5, b"signed")
    (tmp_path / "large.bin").write_bytes(large)
    last = 8 * MIB + 5  # bytes of the last part
    with running_cloud("azure", tmp_path / "azure") as cloud, s3_proxy(cloud.server) as proxy:
        assert isinstance(cloud, Azure)
        cloud.fill("signed", {})
        to, until = cloud.ref("signed/m"), time.time() + 8
        asked = cloud.asks(proxy.url)
        del asked["azure_key"]

        def signed(end: float) -> dict[str, str]:
            return asked | {"azure_sas": signed_query(ACCOUNT, KEY, "signed", None, WRITE, end)}

        def fault(ask: Ask) -> Reply | None:
            late = sent_a_part(ask) and ask.headers.get("content-length") == str(last)
            return Reply(wait_s=max(0.0, until + 1 - time.time())) if late else None

        proxy.fault = fault
        with at_most(60), pytest.raises(errors.Denied, match="does not accept the login"):
            push(agent, tmp_path / "large.bin", to, signed(until))
        keys = cloud.keys("signed")
        assert "m/large.bin" not in keys
        assert "m/.p2pcache/ref" not in keys, "nothing is half visible"
        staged = cloud.staged("signed", "m/large.bin")  # two, where the machine is not busy
        proxy.fault = lambda ask: None
        with at_most(60):
            done = push(agent, tmp_path / "large.bin", to, signed(4e9))
        assert done["sent_bytes"] == len(large) - staged * 16 * MIB
        assert cloud.read("signed", "m/large.bin") == large


def test_an_identity_of_azure_outlives_its_tokens(tmp_path: Path) -> None:
    """azure-identity asks the machine's service; Azurite reads the tokens, over TLS alone. The last
    file has its turn when no token of the beginning holds any more.
    """
    files = {f"{n}.bin": some_bytes(4 * MIB, b"identity %d" % n) for n in range(12)}
    folder, cert = written(tmp_path / "d", files), make_server_cert(tmp_path / "ca")
    with azurite(tmp_path / "azurite", tls=cert) as secure, FaultyServer() as machine:
        machine.on("/msi/token", partial(managed_identity, lasts_s=8))
        secure.container("renewed")
        settings = {
            **QUICK, "azure.endpoint": f"{secure.url}/{{account}}", "tls.ca_file": str(cert.ca_file)
        }  # fmt: skip
        identity = {"IDENTITY_ENDPOINT": machine.url("/msi/token"), "IDENTITY_HEADER": "msi-secret"}
        with (
            running_agent(tmp_path / "agent", settings=settings, **OFFLINE, **identity) as agent,
            at_most(60),
        ):
            push(agent, folder, f"az://{ACCOUNT}/renewed/m", {}, limit_rate=4 * MIB)
        assert {name: secure.read("renewed", f"m/{name}") for name in files} == files

"""Google's and Azure's sources against fake-gcs-server and Azurite, and against other answers.

Tokens come from the vendors' own libraries, which ask servers of the tests.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2pcache.content.cloud_refs import AzureRef, GcsRef
from p2pcache.content.refs import parse_ref
from p2pcache.errors import (
    Denied,
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
)
from p2pcache.sources.azure.options import AzureOptions
from p2pcache.sources.azure.sign import LIST, AzureGrant, signed_query
from p2pcache.sources.azure.source import AzureSource
from p2pcache.sources.gcs.options import GcsOptions
from p2pcache.sources.gcs.source import GcsSource
from p2pcache.sources.port import AzureLogin, Credentials, GcsLogin, Listing
from p2pcache.sources.rest_options import RestOptions
from tests.contract.check_source import read
from tests.support.azurite import ACCOUNT, KEY, Azurite, azurite
from tests.support.certs import make_server_cert
from tests.support.cloud_logins import azure_token, google_logins, managed_identity
from tests.support.clouds import TOKEN, Azure, Gcs, running_cloud
from tests.support.faulty_http import FaultyServer
from tests.support.s3_proxy import Reply, S3Proxy, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

run_in_thread: Any = trio.to_thread.run_sync
QUICK = RestOptions(request_timeout_s=1.0, deadline_s=20.0)
FILES = {"llama/a.bin": b"aaa", "llama/sub/b.bin": b"", "llama-2/no.bin": b"no", "top.bin": b"top"}


@pytest.fixture(autouse=True)
def _no_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test asks 169.254.169.254, or uses a login of whoever runs it."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))


@pytest.fixture(scope="module", params=["gcs", "azure"])
def cloud(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gcs | Azure]:
    with running_cloud(request.param, tmp_path_factory.mktemp(request.param)) as running:
        running.fill("models", FILES)
        running.put("models", "llama/", b"")  # as consoles mark folders
        yield running


@pytest.fixture
def proxy(cloud: Gcs | Azure) -> Iterator[S3Proxy]:
    with s3_proxy(cloud.server) as running:
        running.fault = cloud.door
        yield running


def source(cloud: Gcs | Azure, rest: RestOptions = QUICK) -> GcsSource | AzureSource:
    if isinstance(cloud, Gcs):
        return GcsSource(run_in_thread, GcsOptions(rest=rest))
    return AzureSource(run_in_thread, AzureOptions(rest=rest))


def login_of(brought: dict[str, str]) -> Credentials:
    """What `agent.args` makes of them."""
    from p2pcache.agent.args import credentials_of

    return credentials_of(brought)


async def ask(
    cloud: Gcs | Azure, url: str, path: str, rest: RestOptions = QUICK, **wrong: str
) -> Listing:
    brought = cloud.wrong(url, wrong["secret"]) if wrong else cloud.asks(url)
    return await source(cloud, rest).list(parse_ref(cloud.ref(path)), login_of(brought))


async def refusal(
    kind: type[P2PCacheError], cloud: Gcs | Azure, url: str, path: str, **more: Any
) -> P2PCacheError:
    with pytest.raises(P2PCacheError) as seen:
        await ask(cloud, url, path, **more)
    assert type(seen.value) is kind, (seen.value, seen.value.hint)
    for secret in (TOKEN, KEY, "sig=", "Bearer"):
        assert secret not in f"{seen.value.message} {seen.value.hint}"
    return seen.value


def paths(listing: Listing) -> list[str]:
    return [file.path for file in listing.files]


# -- what a ref means -----------------------------------------------------------------------------


async def test_a_folder_is_what_lies_below_its_slash(cloud: Gcs | Azure, proxy: S3Proxy) -> None:
    for path in ("models/llama", "models/llama/"):
        assert paths(await ask(cloud, proxy.url, path)) == ["a.bin", "sub/b.bin"]
    assert "llama-2/no.bin" in paths(await ask(cloud, proxy.url, "models"))
    assert paths(await ask(cloud, proxy.url, "models/top.bin")) == ["top.bin"]
    await refusal(NotFound, cloud, proxy.url, "models/top.bin/")


async def test_a_missing_bucket_and_a_missing_key_are_not_there(
    cloud: Gcs | Azure, proxy: S3Proxy
) -> None:
    for path in ("nope-nope", "nope-nope/k", "models/nope"):
        seen = await refusal(NotFound, cloud, proxy.url, path)
        assert path.partition("/")[0] in seen.message


@pytest.mark.parametrize("path", ["models", "models/top.bin", "models/llama/"])
async def test_a_wrong_login_is_the_users_to_mend(
    cloud: Gcs | Azure, proxy: S3Proxy, path: str
) -> None:
    seen = await refusal(Denied, cloud, proxy.url, path, secret="d3Jvbmcga2V5")
    assert "set " in (seen.hint or "")


Row = tuple[Reply, type[P2PCacheError], str]
ENTITIES = (
    b'<!DOCTYPE a [<!ENTITY b "llama/x">]><EnumerationResults><Blobs><Blob><Name>&b;</Name>'
    b"<Properties><Etag>0x1</Etag><Content-Length>1</Content-Length></Properties>"
    b"</Blob></Blobs></EnumerationResults>"
)
ROWS: dict[str, Row] = {
    "403": (Reply(403, "AuthorizationFailure"), Denied, "ask the owner"),
    "410": (Reply(410), NotFound, "name"),
    "451": (Reply(451), Denied, ""),
    "429": (Reply(429, headers=(("Retry-After", "7"),)), Unavailable, ""),
    "503": (Reply(503, "ServerBusy", (("Retry-After", "7"),)), Unavailable, ""),
    "500": (Reply(500, "InternalError"), Unavailable, ""),
    "502": (Reply(502, body=b"<html>bad gateway"), Unavailable, ""),
    "400": (Reply(400, "InvalidInput"), UsageError, ""),
    "501": (Reply(501, "NotImplemented"), UsageError, ""),
    "302": (Reply(302, headers=(("Location", "http://127.0.0.1:9/"),)), Untrusted, "endpoint"),
    "silent": (Reply(wait_s=3), Unavailable, "network"),
    "cut": (Reply(cut_after=20), Unavailable, "network"),
    "html": (Reply(200, body=b"<html><p>welcome"), Untrusted, "endpoint"),
    "other": (Reply(200, body=b"[]"), Untrusted, ""),
    "entities": (Reply(200, body=ENTITIES), Untrusted, ""),
}


@pytest.mark.parametrize("name", ROWS)
async def test_each_refusal_of_a_list_names_who_must_act(
    cloud: Gcs | Azure, proxy: S3Proxy, name: str
) -> None:
    reply, error, hint = ROWS[name]
    proxy.fault = lambda ask: reply
    seen = await refusal(error, cloud, proxy.url, "models/llama/")
    assert hint in (seen.hint or "")
    if isinstance(seen, Unavailable) and reply.headers:
        assert seen.retry_after_s == 7.0
    assert len(proxy.seen) == 1, "nothing is tried again by itself"


async def test_a_server_that_is_not_there(cloud: Gcs | Azure) -> None:
    seen = await refusal(Unavailable, cloud, "http://127.0.0.1:9", "models/llama/")
    assert "cannot be reached" in seen.message


# -- names from outside ---------------------------------------------------------------------------


def page(cloud: Gcs | Azure, *keys: str, more: str = "") -> Reply:
    """A list as the store writes it."""
    if isinstance(cloud, Gcs):
        items = [{"name": key, "size": "1", "generation": "7"} for key in keys]
        return Reply(200, body=json.dumps({"items": items, "nextPageToken": more}).encode())
    told = "<Properties><Etag>0x1</Etag><Content-Length>1</Content-Length></Properties>"
    rows = "".join(f"<Blob><Name>{key}</Name>{told}</Blob>" for key in keys)
    text = f"<EnumerationResults><Blobs>{rows}</Blobs><NextMarker>{more}</NextMarker>"
    return Reply(200, body=f"{text}</EnumerationResults>".encode())


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (["d/../up"], ".."), (["d/a\\b"], ""), (["d//a"], ""), (["d/a", "d/a/b"], "is below it"),
        (["d/a", "d/a"], "twice"), (["elsewhere"], "not below"), (["d/C:"], ""),
    ],
)  # fmt: skip
async def test_a_key_that_no_folder_can_hold_is_refused_before_a_byte(
    cloud: Gcs | Azure, proxy: S3Proxy, keys: list[str], why: str
) -> None:
    proxy.fault = lambda ask: page(cloud, *keys)
    assert why in (await refusal(Untrusted, cloud, proxy.url, "models/d/")).message


async def test_pages_without_a_name_before_the_last_are_no_end(
    cloud: Gcs | Azure, proxy: S3Proxy
) -> None:
    replies = iter([page(cloud, more="1"), page(cloud, more="2"), page(cloud, "d/a")])
    proxy.fault = lambda ask: next(replies)
    assert paths(await ask(cloud, proxy.url, "models/d/")) == ["a"]
    numbers = itertools.count()
    proxy.fault = lambda ask: page(cloud, more=f"t{next(numbers)}")
    assert "without an end" in (await refusal(Untrusted, cloud, proxy.url, "models/d/")).message


async def test_a_list_without_an_end_ends(cloud: Gcs | Azure, proxy: S3Proxy) -> None:
    proxy.fault = lambda ask: page(cloud, "d/a", more="t")
    assert "without an end" in (await refusal(Untrusted, cloud, proxy.url, "models/d/")).message
    proxy.fault = lambda ask: Reply(200, body=b" " * 3_000_000)
    small = RestOptions(max_reply_bytes=1 << 20)
    error = await refusal(Untrusted, cloud, proxy.url, "models/d/", rest=small)
    assert "longer than" in error.message


# -- versions -------------------------------------------------------------------------------------


async def test_a_generation_is_read_as_it_was_listed(tmp_path: Path) -> None:
    with running_cloud("gcs", tmp_path) as gcs:
        assert isinstance(gcs, Gcs)
        gcs.fill("models", {"f": b"first"})
        generation = gcs.server.about("models", "f")["generation"]
        origin = GcsSource(run_in_thread, GcsOptions(gcs.server.url, rest=QUICK))
        listing = await origin.list(GcsRef("models", "f", generation), Credentials())
        assert (listing.immutable, listing.mutable) == (generation, False)
        location = await origin.locate(listing, listing.files[0].key, Credentials())
        assert await trio.to_thread.run_sync(read, location) == b"first"
        gcs.put("models", "f", b"other")
        assert not await origin.gives(GcsRef("models", "f"), generation, Credentials())
        with pytest.raises(NotFound) as seen:
            await origin.list(GcsRef("models", "f", "1"), Credentials())
        assert "%40" in (seen.value.hint or "")


# -- logins ---------------------------------------------------------------------------------------


async def test_a_service_account_signs_for_a_token_and_many_files_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        running_cloud("gcs", tmp_path) as gcs,
        s3_proxy(gcs.server) as proxy,
        google_logins() as google,
    ):
        gcs.fill("models", FILES)
        proxy.fault = lambda ask: None if google.accepts(ask.headers) else Reply(401)
        origin = GcsSource(run_in_thread, GcsOptions(proxy.url, rest=QUICK))
        who = Credentials(gcs=GcsLogin(account=google.account))
        listing = await origin.list(GcsRef("models", "llama"), who)
        assert listing.gated
        for file in listing.files:
            location = await origin.locate(listing, file.key, who)
            assert await trio.to_thread.run_sync(read, location) == FILES[f"llama/{file.path}"]
        assert len(google.tokens) == 1
        wrong = Credentials(gcs=GcsLogin(account=google.other_account()))
        with pytest.raises(Denied, match="does not accept the login"):
            await origin.list(GcsRef("models"), wrong)
        for text in (
            "no JSON",
            "[]",
            '{"type": "external_account"}',
            '{"type": "service_account"}',
        ):
            with pytest.raises(UsageError) as seen:
                await origin.list(GcsRef("models"), Credentials(gcs=GcsLogin(account=text)))
            assert text not in f"{seen.value.message}"
        # What the agent's own user has, found by google-auth, and not for another's server.
        (tmp_path / "account.json").write_text(google.account)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        assert (await origin.list(GcsRef("models"), Credentials())).credential_used
        proxy.seen.clear()
        elsewhere = GcsSource(run_in_thread, GcsOptions(rest=QUICK))
        with pytest.raises(Denied, match="without a login"):
            await elsewhere.list(
                GcsRef("models"), Credentials(gcs=GcsLogin(endpoint_url=proxy.url))
            )
        assert not any("authorization" in ask.headers for ask in proxy.seen)


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with azurite(tmp_path_factory.mktemp("azurite")) as running:
        running.container("models", FILES)
        yield running


async def read_all(server: Azurite, login: AzureLogin | None, **more: Any) -> Listing:
    endpoint = f"{server.url}/{{account}}"
    origin = AzureSource(run_in_thread, AzureOptions(endpoint, rest=QUICK, **more))
    who = Credentials(azure=login)
    listing = await origin.list(AzureRef(ACCOUNT, "models", "llama"), who)
    location = await origin.locate(listing, listing.files[0].key, who)
    assert await trio.to_thread.run_sync(read, location) == b"aaa"
    return listing


async def test_a_shared_access_signature_opens_what_it_is_for(azure: Azurite) -> None:
    sas = signed_query(ACCOUNT, KEY, "models", None, LIST, 4e9)
    listing = await read_all(azure, AzureLogin(ACCOUNT, sas=f"?{sas}"))
    assert listing.gated
    over = signed_query(ACCOUNT, KEY, "models", None, LIST, 1e9)
    with pytest.raises(Denied):
        await read_all(azure, AzureLogin(ACCOUNT, sas=over))
    with pytest.raises(Denied, match="without a login"):
        await read_all(azure, AzureLogin("other", sas=sas))
    with pytest.raises(UsageError, match="base64"):
        await read_all(azure, AzureLogin(ACCOUNT, key="not base64"))


async def test_a_public_container_needs_no_login(azure: Azurite) -> None:
    with pytest.raises(Denied, match="without a login"):
        await read_all(azure, None, anonymous=True)
    azure.call(
        "PUT", "/open", "restype=container", headers={"x-ms-blob-public-access": "container"}
    )
    azure.put("open", "d/f", b"for all")
    origin = AzureSource(
        run_in_thread, AzureOptions(f"{azure.url}/{{account}}", anonymous=True, rest=QUICK)
    )
    listing = await origin.list(AzureRef(ACCOUNT, "open", "d"), Credentials())
    assert (listing.gated, listing.credential_used) == (False, False)
    location = await origin.locate(listing, listing.files[0].key, Credentials())
    assert "?" not in location.url
    assert await trio.to_thread.run_sync(read, location) == b"for all"


async def test_the_machines_own_identity_is_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """azure-identity asks the machine's service; Azurite reads the token, over TLS alone."""
    cert = make_server_cert(tmp_path / "ca")
    with azurite(tmp_path / "azurite", tls=cert) as secure, FaultyServer() as machine:
        monkeypatch.setenv("IDENTITY_ENDPOINT", machine.url("/msi/token"))
        monkeypatch.setenv("IDENTITY_HEADER", "msi-secret")
        machine.on("/msi/token", managed_identity)
        rest = RestOptions(ca_file=str(cert.ca_file))
        options = AzureOptions(f"{secure.url}/{{account}}", rest=rest)
        request = AzureSource(run_in_thread, options)
        with pytest.raises(NotFound) as seen:  # the login holds, and there is nothing yet
            await request.list(AzureRef(ACCOUNT, "models"), Credentials())
    assert "models" in seen.value.message
    assert azure_token() not in seen.value.message


def test_a_grant_of_nothing_signs_nothing() -> None:
    grant = AzureGrant("account")
    assert (grant.is_login, grant.query("c", None, LIST, now_unix_s=0.0, valid_s=1)) == (False, "")


async def test_without_the_libraries_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "google.oauth2", None)
    gcs = GcsSource(run_in_thread, GcsOptions(rest=QUICK))
    with pytest.raises(LocalFault) as seen:
        await gcs.list(GcsRef("models"), Credentials(gcs=GcsLogin(account="{}")))
    assert "p2pcache[gcs]" in (seen.value.hint or "")
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    azure = AzureSource(run_in_thread, AzureOptions(rest=QUICK))
    principal = AzureLogin(tenant="t", client_id="c", client_secret="s")
    with pytest.raises(LocalFault) as seen:
        await azure.list(AzureRef(ACCOUNT, "models"), Credentials(azure=principal))
    assert "p2pcache[azure]" in (seen.value.hint or "")

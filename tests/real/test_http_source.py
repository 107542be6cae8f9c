"""The HTTP source against servers that are slow, hostile, or simply different."""

from __future__ import annotations

import gzip
import hashlib
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.content.digests import sha256_digest
from p2pcache.content.refs import HttpRef
from p2pcache.errors import (
    Denied,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
)
from p2pcache.sources.http import NAMED_BY_ARRIVAL, ONE_STREAM, HttpOptions, HttpSource
from p2pcache.sources.sums import MAX_SUMS_BYTES
from tests.contract.check_source import ANONYMOUS
from tests.support.certs import make_server_cert
from tests.support.hub_stub import Answer, HubStub, hub_stub
from tests.support.nginx import Extra, nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pcache.sources.port import Listing

PIN = hashlib.sha256(b"body").digest()


@pytest.fixture
def server() -> Iterator[HubStub]:
    with hub_stub() as running:
        yield running


async def ask(url: str, pin: bytes | None = None, **options: object) -> Listing:
    source = HttpSource(HttpOptions(**options))  # type: ignore[arg-type]
    try:
        return await source.list(HttpRef(url, pin), ANONYMOUS)
    finally:
        await source.aclose()


async def refusal(kind: type[P2PCacheError], url: str, **options: object) -> P2PCacheError:
    with pytest.raises(P2PCacheError) as seen:
        await ask(url, **options)
    assert type(seen.value) is kind, seen.value
    return seen.value


async def test_a_pin_is_the_digest_and_makes_the_ref_immutable(server: HubStub) -> None:
    server.replies["/f"] = Answer(200, b"body")
    listing = await ask(f"{server.url}/f.bin", PIN)
    assert listing.files[0].digest == sha256_digest(PIN)
    assert (listing.immutable, listing.mutable) == (f"sha256:{PIN.hex()}", False)
    assert NAMED_BY_ARRIVAL not in listing.notes


@pytest.mark.parametrize(("etag", "immutable"), [('"abc"', "abc"), ('W/"abc"', None), ("", None)])
async def test_only_a_strong_etag_is_a_revision(
    server: HubStub, etag: str, immutable: str | None
) -> None:
    server.replies["/f"] = Answer(200, b"body", (("ETag", etag),))
    listing = await ask(f"{server.url}/f.bin")
    assert (listing.immutable, listing.mutable) == (immutable, True)


async def test_a_server_without_ranges_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "f.bin").write_bytes(b"x" * 5_000_000)
    with nginx(tmp_path / "site", tmp_path / "nginx", ranges=False) as real:
        listing = await ask(f"{real.url}/f.bin")
    assert ONE_STREAM in listing.notes
    assert listing.files[0].size == 5_000_000


async def test_probing_moves_no_body(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "f.bin").write_bytes(b"x" * 5_000_000)
    with nginx(tmp_path / "site", tmp_path / "nginx") as real:
        assert (await ask(f"{real.url}/f.bin")).files[0].size == 5_000_000
    assert real.body_bytes() <= 1


async def test_a_body_of_unknown_length_has_no_size(server: HubStub) -> None:
    chunked = (("Transfer-Encoding", "chunked"),)
    server.replies["/f"] = Answer(200, b"4\r\nbody\r\n0\r\n\r\n", chunked)
    assert (await ask(f"{server.url}/f.bin")).files[0].size is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, NotFound),
        (410, NotFound),
        (400, Denied),
        (401, Denied),
        (403, Denied),
        (451, Denied),
        (408, Unavailable),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (204, Untrusted),
        (304, Untrusted),
    ],
)
async def test_every_status_names_who_must_act(
    server: HubStub, status: int, error: type[P2PCacheError]
) -> None:
    server.replies["/f"] = Answer(status, b"", (("Retry-After", "7"),))
    seen = await refusal(error, f"{server.url}/f.bin?signature=secret")
    assert "secret" not in seen.message
    if isinstance(seen, Unavailable):
        assert seen.retry_after_s == 7.0


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Content-Range", "bytes 0-0/*"),),
        (("Content-Range", "bytes 0-0/99999999999999999999"),),
        (("Content-Range", "nonsense"),),
    ],
)
async def test_a_range_of_nobody_knows_what_is_untrusted(
    server: HubStub, headers: tuple[tuple[str, str], ...]
) -> None:
    server.replies["/f"] = Answer(206, b"x", headers)
    await refusal(Untrusted, f"{server.url}/f.bin")


async def test_an_encoded_body_is_untrusted(server: HubStub) -> None:
    server.replies["/f"] = Answer(200, gzip.compress(b"x"), (("Content-Encoding", "gzip"),))
    await refusal(Untrusted, f"{server.url}/f.bin")


async def test_a_redirect_is_followed_and_a_loop_is_not(server: HubStub) -> None:
    server.replies["/there"] = Answer(200, b"body")
    server.replies["/here"] = Answer(302, b"", (("Location", f"{server.cdn_url}/there"),))
    server.replies["/loop"] = Answer(302, b"", (("Location", "/loop"),))
    listing = await ask(f"{server.url}/here.bin")
    assert (listing.files[0].path, listing.files[0].size) == ("here.bin", 4)
    await refusal(Untrusted, f"{server.url}/loop")


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("file:///etc/passwd", Untrusted),
        ("ftp://127.0.0.1/x", Untrusted),
        ("http://[", Unavailable),  # the same error of httpx as for a reply that broke off
    ],
)
async def test_a_redirect_to_no_web_address_is_not_followed(
    server: HubStub, where: str, error: type[P2PCacheError]
) -> None:
    server.replies["/f"] = Answer(302, b"", (("Location", where),))
    await refusal(error, f"{server.url}/f.bin")


async def test_a_redirect_from_https_to_http_is_untrusted(tmp_path: Path, server: HubStub) -> None:
    cert = make_server_cert(tmp_path / "cert")
    extra = Extra(server=f"location / {{ return 302 {server.url}/f.bin; }}")
    server.replies["/f"] = Answer(200, b"body")
    with nginx(tmp_path, tmp_path / "nginx", tls=cert, extra=extra) as real:
        error = await refusal(Untrusted, f"{real.url}/f.bin", ca_file=str(cert.ca_file))
    assert "https to http" in error.message


async def test_ssl_cert_file_names_a_private_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert = make_server_cert(tmp_path / "cert")
    (tmp_path / "f.bin").write_bytes(b"body")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert.ca_file))
    with nginx(tmp_path, tmp_path / "nginx", tls=cert) as real:
        assert (await ask(f"{real.url}/f.bin")).files[0].size == 4


async def test_a_proxy_of_the_environment_is_used(
    server: HubStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies["http://origin.example/f.bin"] = Answer(200, b"body")
    server.replies["/f.bin"] = Answer(200, b"body")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    await ask("http://origin.example/f.bin")
    assert server.paths() == ["http://origin.example/f.bin"]


async def test_a_server_that_is_down_or_silent_is_unavailable(server: HubStub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, trio.fail_after(5):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/f.bin"
        await refusal(Unavailable, url, timeout_s=0.2)
        await refusal(Unavailable, url, timeout_s=5.0, deadline_s=0.2)
    await refusal(Unavailable, url)
    server.down = True
    await refusal(Unavailable, f"{server.url}/f.bin")


# lists of sums


async def test_a_pinned_list_must_be_the_pinned_one(server: HubStub) -> None:
    body = f"{PIN.hex()}  f.bin\n".encode()
    server.replies["/SHA256SUMS"] = Answer(200, body)
    server.replies["/f.bin"] = Answer(200, b"body")
    pinned = await ask(f"{server.url}/SHA256SUMS", hashlib.sha256(body).digest())
    assert (pinned.files[0].digest, pinned.mutable) == (sha256_digest(PIN), False)
    with pytest.raises(Untrusted, match=PIN.hex()):
        await ask(f"{server.url}/SHA256SUMS", PIN)


async def test_the_query_of_a_list_is_not_sent_with_its_files(server: HubStub) -> None:
    server.replies["/d/SHA256SUMS"] = Answer(200, f"{PIN.hex()}  ü#?%.bin\n".encode())
    server.replies["/d/"] = Answer(200, b"body")
    listing = await ask(f"{server.url}/d/SHA256SUMS?token=secret")
    assert listing.files[0].path == "ü#?%.bin"
    assert server.paths()[-1] == "/d/%C3%BC%23%3F%25.bin"


async def test_a_file_that_the_list_names_and_nobody_has_is_named(server: HubStub) -> None:
    names = "".join(f"{PIN.hex()}  {name}\n" for name in ("f.bin", "absent.bin", "also.bin"))
    server.replies["/SHA256SUMS"] = Answer(200, names.encode())
    server.replies["/f.bin"] = server.replies["/also.bin"] = Answer(200, b"body")
    error = await refusal(NotFound, f"{server.url}/SHA256SUMS")
    assert "absent.bin" in error.message


async def test_a_list_without_end_is_cut(server: HubStub) -> None:
    server.replies["/SHA256SUMS"] = Answer(200, b" " * (MAX_SUMS_BYTES + 1))
    await refusal(Untrusted, f"{server.url}/SHA256SUMS")

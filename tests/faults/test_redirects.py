"""Where a location leads: who gets the credentials, what is remembered, what is refused."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from p2pcache.lanes.fetch import fetch
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, FetchLimits, FetchReport, Location, Tls
from tests.support import faulty_http as fh
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import QUICK, PartialFiles, some_bytes
from tests.support.private_ca import PrivateCa, make_private_ca

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = some_bytes(2 * BLOCK_BYTES)
TOKEN = (("Authorization", "Bearer hf_secret"),)


@pytest.fixture
def hub() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def cdn() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def partial(tmp_path: Path) -> PartialFiles:
    return PartialFiles(tmp_path / "partial", len(BODY))


def block(partial: PartialFiles, location: Location | str, number: int = 0) -> FetchReport:
    start = number * BLOCK_BYTES
    return fetch(partial.order(location, start=start, end=start + BLOCK_BYTES))


def refused(report: FetchReport, kind: FaultKind = FaultKind.UNTRUSTED) -> str:
    assert report.fault is not None
    assert report.fault.kind is kind, report.fault
    assert report.done == report.start
    return report.fault.message


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_followed_with_its_range(
    code: int, hub: FaultyServer, partial: PartialFiles
) -> None:
    hub.on("/real/f", fh.ranged(BODY))
    url = hub.on("/model/f", fh.redirect("../real/f", code))
    assert block(partial, url, 1).fault is None
    assert hub.headers_of("/real/f")[0]["range"] == f"bytes={BLOCK_BYTES}-{2 * BLOCK_BYTES - 1}"


def test_another_host_never_sees_the_credential(
    hub: FaultyServer, cdn: FaultyServer, partial: PartialFiles
) -> None:
    cdn_url = cdn.on("/signed", fh.ranged(BODY))
    location = Location(hub.on("/f", fh.redirect(cdn_url)), TOKEN)
    for number in (0, 1):
        assert block(partial, location, number).fault is None
    assert hub.headers_of("/f")[0]["authorization"] == "Bearer hf_secret"
    assert len(cdn.seen) == 2
    assert all("authorization" not in headers for _, headers in cdn.seen)


def test_the_same_host_keeps_the_credential(hub: FaultyServer, partial: PartialFiles) -> None:
    hub.on("/renamed", fh.ranged(BODY))
    assert block(partial, Location(hub.on("/f", fh.redirect("/renamed", 307)), TOKEN)).fault is None
    assert hub.headers_of("/renamed")[0]["authorization"] == "Bearer hf_secret"


def test_later_pieces_skip_the_redirect(
    hub: FaultyServer, cdn: FaultyServer, partial: PartialFiles
) -> None:
    url = hub.on("/f", fh.redirect(cdn.on("/signed", fh.ranged(BODY))))
    for number in (0, 1, 0, 1):
        assert block(partial, url, number).fault is None
    assert (len(hub.seen), len(cdn.seen)) == (1, 4)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_an_expired_signed_url_is_renewed_once(
    code: int, hub: FaultyServer, cdn: FaultyServer, partial: PartialFiles
) -> None:
    old = cdn.on("/old", fh.first(1, fh.ranged(BODY), fh.status(code, b"expired")))
    new = cdn.on("/new", fh.ranged(BODY))
    url = hub.on("/f", fh.first(1, fh.redirect(old), fh.redirect(new)))
    for number in (0, 1, 0):
        assert block(partial, url, number).fault is None
    assert [path for path, _ in cdn.seen] == ["/old", "/old", "/new", "/new"]
    assert len(hub.seen) == 2


def test_a_refusal_that_renewal_does_not_cure_is_denied(
    hub: FaultyServer, cdn: FaultyServer, partial: PartialFiles
) -> None:
    signed = cdn.on("/signed", fh.first(1, fh.ranged(BODY), fh.status(403)))
    url = hub.on("/f", fh.redirect(signed))
    assert block(partial, url).fault is None
    assert f":{cdn.port}" in refused(block(partial, url, 1), FaultKind.DENIED)
    assert (len(hub.seen), len(cdn.seen)) == (2, 3)


def test_a_dead_cdn_host_is_forgotten(hub: FaultyServer, partial: PartialFiles) -> None:
    with FaultyServer() as dying:
        first = dying.on("/signed", fh.ranged(BODY))
        hub.on("/here", fh.ranged(BODY))
        url = hub.on("/f", fh.first(1, fh.redirect(first), fh.redirect("/here")))
        assert block(partial, url).fault is None
    refused(block(partial, url, 1), FaultKind.UNAVAILABLE)
    assert block(partial, url, 1).fault is None


def test_a_loop_is_refused(hub: FaultyServer, partial: PartialFiles) -> None:
    hub.on("/b", fh.redirect("/a"))
    assert "loop" in refused(block(partial, hub.on("/a", fh.redirect("/b"))))
    assert len(hub.seen) == 2


def test_an_endless_chain_is_refused(hub: FaultyServer, partial: PartialFiles) -> None:
    for number in range(20):
        hub.on(f"/{number}", fh.redirect(f"/{number + 1}"))
    assert "more redirects" in refused(block(partial, hub.url("/0")))
    assert len(hub.seen) == 9, "8 redirects are allowed"


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://x/y", "http://", "http://[bad/", "data:,x"]
)
def test_a_redirect_out_of_http_is_refused(
    to: str, hub: FaultyServer, partial: PartialFiles
) -> None:
    message = refused(block(partial, hub.on("/f", fh.redirect(to))))
    assert "passwd" not in message


class TestTls:
    @pytest.fixture
    def ca(self, tmp_path: Path) -> PrivateCa:
        return make_private_ca(tmp_path)

    @pytest.fixture
    def secure(self, ca: PrivateCa) -> Iterator[FaultyServer]:
        with FaultyServer(tls=ca.server_context()) as running:
            yield running

    def test_a_private_authority_is_trusted_when_named(
        self, ca: PrivateCa, secure: FaultyServer, partial: PartialFiles
    ) -> None:
        url = secure.on("/f", fh.ranged(BODY))
        assert block(partial, Location(url, tls=Tls(ca_file=ca.ca_file))).fault is None
        assert "not trusted" in refused(block(partial, Location(url)))

    def test_a_pin_admits_one_certificate_only(
        self, ca: PrivateCa, secure: FaultyServer, partial: PartialFiles
    ) -> None:
        url = secure.on("/f", fh.ranged(BODY))
        pin = ca.fingerprint
        assert block(partial, Location(url, tls=Tls(pin_sha256=pin))).fault is None
        other = ("0" if pin[0] != "0" else "1") + pin[1:]
        assert "pinned" in refused(block(partial, Location(url, tls=Tls(pin_sha256=other))))

    def test_a_bad_pin_or_ca_file_is_ours(
        self, secure: FaultyServer, partial: PartialFiles
    ) -> None:
        url = secure.on("/f", fh.ranged(BODY))
        for tls in (Tls(pin_sha256="abc"), Tls(ca_file="/nowhere/ca.pem")):
            refused(block(partial, Location(url, tls=tls)), FaultKind.LOCAL)
        assert secure.seen == []

    def test_a_downgrade_to_plain_http_is_refused(
        self, ca: PrivateCa, secure: FaultyServer, hub: FaultyServer, partial: PartialFiles
    ) -> None:
        url = secure.on("/f", fh.redirect(hub.on("/f", fh.ranged(BODY))))
        assert "down to http" in refused(block(partial, Location(url, tls=Tls(ca.ca_file))))
        assert hub.seen == []

    def test_a_pin_holds_for_its_own_host_only(
        self, ca: PrivateCa, hub: FaultyServer, secure: FaultyServer, partial: PartialFiles
    ) -> None:
        url = hub.on("/f", fh.redirect(secure.on("/f", fh.ranged(BODY))))
        location = Location(url, tls=Tls(ca_file=ca.ca_file, pin_sha256="00" * 32))
        assert block(partial, location).fault is None

    @pytest.mark.parametrize("then", [fh.reset, fh.hang_up, fh.stall, fh.drip])
    def test_a_cut_tls_body_keeps_its_whole_blocks(
        self, then: fh.Answer, ca: PrivateCa, secure: FaultyServer, partial: PartialFiles
    ) -> None:
        url = secure.on("/f", fh.cut(BODY, BLOCK_BYTES + 70_000, then))
        location = Location(url, tls=Tls(ca_file=ca.ca_file))
        report = fetch(partial.order(location, limits=QUICK))
        assert report.fault is not None
        assert report.fault.kind is FaultKind.UNAVAILABLE
        assert report.done == BLOCK_BYTES

    def test_plain_http_on_a_tls_port_is_unavailable(
        self, secure: FaultyServer, hub: FaultyServer, partial: PartialFiles
    ) -> None:
        assert isinstance(secure.tls, ssl.SSLContext)
        url = hub.on("/f", fh.ranged(BODY)).replace("http:", "https:")
        order = partial.order(url, end=BLOCK_BYTES, limits=QUICK)
        refused(fetch(order), FaultKind.UNAVAILABLE)

    def test_an_end_without_a_goodbye_is_never_the_end_of_a_body(
        self, ca: PrivateCa, secure: FaultyServer, partial: PartialFiles
    ) -> None:
        url = secure.on("/f", fh.until_close(BODY[:-5]))
        order = partial.order(Location(url, tls=Tls(ca.ca_file)), whole=True, total_known=False)
        report = fetch(order)
        assert report.fault is not None
        assert report.fault.kind is FaultKind.UNAVAILABLE
        assert report.done == BLOCK_BYTES

    def test_a_tls_connection_that_died_while_idle_is_replaced(
        self, ca: PrivateCa, secure: FaultyServer, partial: PartialFiles
    ) -> None:
        def dies_at_the_next_request(ask: fh.Exchange) -> bool:
            fh.ranged(BODY)(ask)
            ask.sock.recv(1)
            return False

        location = Location(
            secure.on("/f", fh.first(1, dies_at_the_next_request, fh.ranged(BODY))),
            tls=Tls(ca.ca_file),
        )
        assert block(partial, location).fault is None
        assert block(partial, location, 1).fault is None
        assert secure.connections == 2

    def test_a_dripped_handshake_ends_in_time(self, partial: PartialFiles) -> None:
        done = threading.Event()

        def drip_record() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                sock.sendall(b"\x16\x03\x03\x40\x00")
                while not done.wait(0.02):
                    sock.sendall(b"\x00")

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=drip_record)
            thread.start()
            url = f"https://127.0.0.1:{listener.getsockname()[1]}/f"
            limits = FetchLimits(connect_timeout_s=0.3, no_progress_s=5)
            report = fetch(partial.order(url, end=BLOCK_BYTES, limits=limits))
            done.set()
            thread.join(5)
        refused(report, FaultKind.UNAVAILABLE)
        assert report.seconds < 2

"""mDNS: agents of one network find each other on a LAN (libp2p specs, discovery/mdns).

The service type is `_p2p-<ten letters>._udp.local.`, of the network's fingerprint (a hash of its
key: `NetworkKey.fingerprint`), so that two networks on one LAN never see each other. Who and where
travels in TXT strings `dnsaddr=<address>/p2p/<peer>`. Anybody on the LAN can say anything here:
what is heard is bounded, parsed strictly, and only ever leads to a dial that the network key must
survive.

zeroconf is asyncio and threads: everything that blocks runs in worker threads. When interfaces or
addresses change, the whole service is built anew (sockets are bound per interface). IPv4 multicast
only: a LAN without IPv4 needs another way.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ifaddr
import trio
import zeroconf

from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import Untrusted
from p2pcache.net.discovery.found import Found, How
from p2pcache.net.remote_address import (
    MAX_ADDRESSES,
    is_loopback,
    parse_ip_address,
    split_peer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.discovery.found import Report

MAX_TEXT_BYTES = 2048  # of all TXT strings; ours take 8 x 110
MAX_STRINGS = 32
MAX_HEARD = 512  # instances of our type on one LAN
MAX_PENDING = 64  # on their way from zeroconf's thread to ours
TTL_S = 120  # a killed agent is forgotten by the LAN after this
_KEY = b"dnsaddr="

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MdnsOptions:
    """Times in seconds."""

    poll_s: float = 5.0  # interfaces and our addresses; 1 ms of a worker thread
    again_s: float = 60.0  # who is still there is reported again: the first dial may have failed
    answer_s: float = 1.5  # for the TXT record of an instance that was announced without it
    goodbye_s: float = 2.0  # withdrawing at the end


def service_type(fingerprint: str) -> str:
    """The DNS-SD type of a network. RFC 6763 7.2: at most 15 letters behind the underscore."""
    letters = base64.b32encode(bytes.fromhex(fingerprint)).decode().lower()
    return f"_p2p-{letters[:10]}._udp.local."


def format_announcement(peer: PeerId, addresses: Sequence[str]) -> bytes:
    """TXT data for `parse_announcement`."""
    text = b""
    for address in list(addresses)[:MAX_ADDRESSES]:
        entry = _KEY + f"{address}/p2p/{format_peer_id(peer)}".encode()
        text += bytes([len(entry)]) + entry
    return text


def parse_announcement(text: bytes, *, loopback: bool) -> tuple[PeerId, tuple[str, ...]]:
    """Who is where, in the word of anybody on the LAN. Raises Untrusted.

    Addresses of kinds that we do not dial are left out; two different peers are a lie.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise Untrusted("an mDNS announcement is too long")
    peer: PeerId | None = None
    addresses: dict[str, None] = {}
    for entry in _strings(text):
        if not entry.startswith(_KEY):
            continue
        try:
            who, address = split_peer(entry[len(_KEY) :].decode("ascii"))
            where = parse_ip_address(address, loopback=loopback)
        except (Untrusted, UnicodeDecodeError):
            continue
        if peer not in (None, who):
            raise Untrusted("an mDNS announcement names two peers")
        peer = who
        addresses[where] = None
    if peer is None:
        raise Untrusted("an mDNS announcement names nobody who can be dialed")
    return peer, tuple(addresses)[:MAX_ADDRESSES]


def _strings(text: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(text) and len(found) < MAX_STRINGS:
        end = at + 1 + text[at]
        if end > len(text):
            raise Untrusted("an mDNS announcement is cut short")
        found.append(text[at + 1 : end])
        at = end
    return found


async def run_mdns(
    fingerprint: str,
    me: PeerId,
    addresses: Callable[[], Sequence[str]],
    report: Report,
    options: MdnsOptions | None = None,
) -> None:
    """Announce ourselves and report others until cancelled; then say goodbye (bounded).

    Without a usable interface: says so once, and waits for one.
    """
    options = options or MdnsOptions()
    heard: dict[str, Found] = {}
    told_failure = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_report_again, heard, report, options.again_s)
        while True:
            where = await trio.to_thread.run_sync(_interfaces), tuple(addresses())
            heard.clear()
            ears = _Ears(service_type(fingerprint), me, where[1], heard, report, options)
            try:
                service = await trio.to_thread.run_sync(_Service, ears, me, where[1])
            except (OSError, zeroconf.Error) as exc:
                if not told_failure:
                    log.warning("no mDNS, agents on this LAN are not found by themselves: %s", exc)
                told_failure = True
                await trio.sleep(options.poll_s)
                continue
            told_failure = False
            try:
                await _wait_change(where, addresses, options.poll_s)
                log.info("interfaces or addresses changed: announcing anew")
            finally:
                with trio.move_on_after(options.goodbye_s, shield=True):
                    await trio.to_thread.run_sync(service.close, abandon_on_cancel=True)


async def _wait_change(
    known: tuple[frozenset[tuple[str, str]], tuple[str, ...]],
    addresses: Callable[[], Sequence[str]],
    poll_s: float,
) -> None:
    while True:
        await trio.sleep(poll_s)
        current = await trio.to_thread.run_sync(_interfaces, abandon_on_cancel=True)
        if (current, tuple(addresses())) != known:
            return


async def _report_again(heard: dict[str, Found], report: Report, again_s: float) -> None:
    while True:
        await trio.sleep(again_s)
        for found in list(heard.values()):
            report(found)


def _interfaces() -> frozenset[tuple[str, str]]:
    return frozenset(
        (adapter.name, str(ip.ip)) for adapter in ifaddr.get_adapters() for ip in adapter.ips
    )


class _Ears(zeroconf.ServiceListener):
    """Called in a thread of zeroconf's; hands what parses to the trio thread."""

    def __init__(
        self,
        kind: str,
        me: PeerId,
        own: Sequence[str],
        heard: dict[str, Found],
        report: Report,
        options: MdnsOptions,
    ) -> None:
        self.kind = kind
        self._me = me
        self._loopback = any(map(is_loopback, own))
        self._heard = heard
        self._report = report
        self._answer_ms = options.answer_s * 1000
        self._token = trio.lowlevel.current_trio_token()
        self._pending = 0  # only ever a rough count: two threads change it

    def add_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        """Somebody announced itself."""
        if self._pending >= MAX_PENDING:
            return
        info = zeroconf.ServiceInfo(type_, name)
        info.load_from_cache(zc)
        if not info.text:
            info.request(zc, self._answer_ms)
        try:
            peer, addresses = parse_announcement(info.text or b"", loopback=self._loopback)
        except Untrusted as exc:
            log.debug("%s: %s", name[:80], exc)
            return
        if peer != self._me:
            self._soon(self._keep, name, Found(peer, addresses, How.MDNS))

    def update_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        """Its records changed."""
        self.add_service(zc, type_, name)

    def remove_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        """It said goodbye, or was not heard of for long. Whether it is gone the host knows."""
        self._soon(self._drop, name, None)

    def _soon(
        self, act: Callable[[str, Found | None], None], name: str, found: Found | None
    ) -> None:
        self._pending += 1
        with contextlib.suppress(trio.RunFinishedError):  # we are shutting down
            self._token.run_sync_soon(act, name, found)

    def _keep(self, name: str, found: Found | None) -> None:
        self._pending -= 1
        if found is None or (name not in self._heard and len(self._heard) >= MAX_HEARD):
            return
        self._heard[name] = found
        self._report(found)

    def _drop(self, name: str, _found: Found | None) -> None:
        self._pending -= 1
        self._heard.pop(name, None)


class _Service:
    """Our announcement and our browser. Made and closed in worker threads: both block."""

    def __init__(self, ears: _Ears, me: PeerId, addresses: Sequence[str]) -> None:
        self._zeroconf = zeroconf.Zeroconf(
            interfaces=zeroconf.InterfaceChoice.All,  # the default one needs a default route
            ip_version=zeroconf.IPVersion.V4Only,
        )
        self._browser: zeroconf.ServiceBrowser | None = None
        self._info: zeroconf.ServiceInfo | None = None
        try:
            self._browser = zeroconf.ServiceBrowser(self._zeroconf, ears.kind, listener=ears)
            if addresses:
                self._info = self._announce(ears.kind, me, addresses)
        except BaseException:
            self.close()
            raise

    def _announce(self, kind: str, me: PeerId, addresses: Sequence[str]) -> zeroconf.ServiceInfo:
        instance = secrets.token_hex(16)  # says nothing, and never clashes: no probing needed
        packed = [
            socket.inet_aton(parts[2]) for parts in (a.split("/") for a in addresses)
            if parts[1] == "ip4"
        ]  # fmt: skip
        info = zeroconf.ServiceInfo(
            kind,
            f"{instance}.{kind}",
            port=int(addresses[0].split("/")[4]),
            properties=format_announcement(me, addresses),
            server=f"{instance}.local.",
            addresses=packed[:MAX_ADDRESSES],
            host_ttl=TTL_S,
            other_ttl=TTL_S,
        )
        self._zeroconf.register_service(info, cooperating_responders=True)
        return info

    def close(self) -> None:
        """Say goodbye and end zeroconf's threads."""
        if self._browser is not None:
            self._browser.cancel()
        try:
            if self._info is not None:
                self._zeroconf.unregister_service(self._info)
        finally:
            self._zeroconf.close()

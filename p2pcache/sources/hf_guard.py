"""Bounds for what a hub can do to us through the huggingface_hub library.

The library leaves open: pages without end, bodies without end, silence without a timeout, a next
page on another host (with our token). The hooks of its own HTTP client close that. Works with
huggingface_hub 1.31 to 2.x, whose clients are of httpx and httpx2: hence the protocols here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from p2pcache.errors import Unavailable, Untrusted
from p2pcache.sources import headers
from p2pcache.sources.certificates import trusting
from p2pcache.sources.hf_errors import refuse_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

    from p2pcache.sources.hf_listing import HfListRequest


class Stream(Protocol):
    """The raw body of a response."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """Give the connection up."""


class Asked(Protocol):
    """A request about to be sent, of httpx or httpx2."""

    @property
    def url(self) -> object:
        """Where it goes."""

    @property
    def headers(self) -> MutableMapping[str, str]:
        """What it says."""

    @property
    def extensions(self) -> MutableMapping[str, Any]:
        """`timeout` is one."""


class Reply(Protocol):
    """A response whose body was not read yet, of httpx or httpx2."""

    status_code: int
    stream: Any

    @property
    def headers(self) -> Mapping[str, str]:
        """As it says of itself."""


@dataclass(slots=True)
class _Guard:
    """The bounds of the call that runs in this thread."""

    request: HfListRequest
    give_up_at: float  # monotonic
    body_bytes_left: int

    def before(self, asked: Asked) -> None:
        """Runs before every request, redirects and further pages included."""
        self.in_time()
        if _origin(str(asked.url)) != _origin(self.request.endpoint):
            # the library follows a Link to the next page anywhere, with the token
            asked.headers.pop("authorization", None)
        # a compressed body could unfold to any size behind the byte budget
        asked.headers["accept-encoding"] = "identity"
        wait_s = self.request.request_timeout_s  # the library asks /tree without any timeout
        asked.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), wait_s)

    def after(self, response: Reply) -> None:
        """Runs when the headers of a response are there and its body is not."""
        refuse_status(response, self.request)
        if headers.is_encoded(response.headers.get("content-encoding")):
            raise Untrusted(f"{self.request.endpoint} encodes a reply that was asked for plainly")
        response.stream = _bounded(response.stream, self)

    def in_time(self) -> None:
        if time.monotonic() > self.give_up_at:
            raise Unavailable(
                f"{self.request.endpoint} did not list {self.request.repo_id} "
                f"within {self.request.deadline_s:g} s"
            )

    def take(self, byte_count: int) -> None:
        self.in_time()
        self.body_bytes_left -= byte_count
        if self.body_bytes_left < 0:
            raise Untrusted(
                f"{self.request.endpoint} sends more than {self.request.max_body_bytes} bytes "
                f"to list {self.request.repo_id}"
            )


_guard: ContextVar[_Guard | None] = ContextVar("_guard", default=None)
_install_lock = threading.Lock()
_installed_for: list[str | None] = []  # the ca_file of the client that is installed, if any


@contextlib.contextmanager
def guarded(request: HfListRequest) -> Iterator[None]:
    """Bind this call's bounds to the library's (process-wide) HTTP client."""
    with _install_lock:
        if _installed_for != [request.ca_file]:
            _install_client(request.ca_file)
            _installed_for[:] = [request.ca_file]
    guard = _Guard(request, time.monotonic() + request.deadline_s, request.max_body_bytes)
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


def _install_client(ca_file: str | None) -> None:
    """Replace the library's client by one of the same kind with our hooks and authority."""
    import huggingface_hub
    from huggingface_hub import constants

    # Else every process asks the endpoint of its *environment* for a list of coding agents first,
    # which is neither the endpoint of this call nor anybody's wish.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    plain = huggingface_hub.get_session()
    kind: Any = type(plain)
    library_hooks = plain.event_hooks["request"]  # offline mode, request id

    def make() -> Any:  # noqa: ANN401 - of httpx or httpx2
        context = None if ca_file is None else trusting(ca_file)
        return kind(
            verify=True if context is None else context,
            follow_redirects=True,
            timeout=None,
            event_hooks={"request": [*library_hooks, _before], "response": [_after]},
        )

    huggingface_hub.set_client_factory(make)


def _before(asked: Asked) -> None:
    if (guard := _guard.get()) is not None:
        guard.before(asked)


def _after(response: Reply) -> None:
    if (guard := _guard.get()) is not None:
        guard.after(response)


def _bounded(stream: Stream, guard: _Guard) -> Stream:
    """`stream`, counted. It must stay an instance of the HTTP library's own stream class."""
    base: Any = next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")

    class Bounded(base):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            for chunk in stream:
                guard.take(len(chunk))
                yield chunk

        def close(self) -> None:
            stream.close()

    return Bounded()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)

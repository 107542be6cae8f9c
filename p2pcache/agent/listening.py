"""A gateway's place: it listens while it can, and tries again where its port was taken."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.config.ipfs import ListenAt
    from p2pcache.errors import P2PCacheError
    from p2pcache.gateway.http import Handler, Request, Response, Server

_log = logging.getLogger(__name__)

AGAIN_S = 10.0  # until a port that was taken is tried again


class Listening:
    """One gateway. `name`: for people. `place` None: it is not wanted."""

    def __init__(self, name: str, setting: str, place: ListenAt | None) -> None:
        self.name = name
        self.wanted = place is not None
        self._setting = setting
        self._place = place
        self._server: Server | None = None
        self.trouble: str | None = None

    @property
    def url(self) -> str | None:
        """Where it listens, None while it does not."""
        return None if self._server is None else self._server.url

    @property
    def why(self) -> str | None:
        """What is in its way, by its name; None while it listens, or is not wanted."""
        return None if self.trouble is None else f"{self.name}: {self.trouble}"

    async def run(
        self,
        handler: Handler,
        *,
        on_error: Callable[[Request, P2PCacheError], Response] | None = None,
        listens: Callable[[Server], None] = lambda server: None,
    ) -> None:
        """Serve until cancelled. `listens` is told of each server that began."""
        assert self._place is not None
        from p2pcache.gateway.http import HttpOptions, serve  # 5 MB that most agents do not need
        from p2pcache.gateway.messages import text_error

        options = HttpOptions(host=self._place.host, port=self._place.port)
        run = partial(serve, handler, options, on_error=on_error or text_error)
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    self._server = await nursery.start(run)
                    self.trouble = None
                    listens(self._server)
                    _log.info("%s at %s", self.name, self._server.url)
            except* LocalFault as group:
                self.trouble = str(group.exceptions[0])
                _log.warning("no %s: %s", self.name, self.trouble)
            finally:
                self._server = None
            await trio.sleep(AGAIN_S)

    def check(self) -> tuple[str, bool, str, str]:
        """A row for `doctor`."""
        said = self.url or self.trouble or "it does not listen yet"
        hint = f"choose another port with `{self._setting}`, or end the program that has it"
        return self.name, self.url is not None, said, hint

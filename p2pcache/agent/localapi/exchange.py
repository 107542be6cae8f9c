"""The client's side of one connection without the socket: what to send, what the answers mean.

Both clients drive it: they send what `greet`, `ask` and `stop` return and feed what arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from p2pcache.agent.localapi.wire import (
    CONNECTION,
    MAX_ID,
    Cancel,
    Failed,
    FrameReader,
    FromServer,
    Hello,
    Item,
    Progress,
    Request,
    Result,
    encode,
    parse_from_server,
)
from p2pcache.errors import AgentNotRunning, P2PCacheError, Untrusted

if TYPE_CHECKING:
    from p2pcache.agent.localapi import answers

Answer = tuple[dict[str, Any], list[dict[str, Any]]]


class AgentGone(AgentNotRunning):
    """The agent closed the connection before it answered."""


class Exchange:
    """One request at a time: `ask`, then `feed` until `answer` is there or it raises."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.answer: Answer | None = None
        self.in_request = False
        self._reader = FrameReader()
        self._last_id = 0
        self._cancels = 0
        self._items: list[dict[str, Any]] = []

    def greet(self, agent: str, pid: int) -> bytes:
        """The first frame."""
        return encode(Hello(agent, pid))

    def ask(self, op: str, args: dict[str, Any]) -> bytes:
        """A request. Raises LocalFault (and nothing has begun) when it cannot be sent."""
        assert not self.in_request, "one request at a time"
        frame = encode(Request(self._last_id + 1, op, args))
        self._last_id += 1
        self._items = []
        self.answer = None
        self.in_request = True
        return frame

    def stop(self) -> bytes:
        """Cancel the request that runs. It still gets its answer."""
        target = self._last_id
        self._cancels += 1
        return encode(Cancel(MAX_ID - self._cancels, target))  # far from the requests' ids

    def feed(self, data: bytes) -> list[answers.Progress]:
        """Take what arrived (nothing: the agent closed); the progress in it, oldest first.

        Raises what the agent raised, AgentGone when it closed, Untrusted when it is not one.
        """
        if not data:
            raise AgentGone("the agent went away before it answered", hint="run the command again")
        progress: list[answers.Progress] = []
        failure: P2PCacheError | None = None
        for body in list(self._reader.feed(data)):
            match self._for_us(parse_from_server(body)):
                case Progress(fields=fields):
                    progress.append(cast("answers.Progress", fields))
                case Item(value=value):
                    self._items.append(value)
                case Result(value=value):
                    self.in_request = False
                    self.answer = (value, self._items)
                case Failed(id=number) as failed:
                    self.in_request = self.in_request and number == CONNECTION
                    failure = failed.exception()
        if failure is not None:
            raise failure
        return progress

    def take_items(self) -> list[dict[str, Any]]:
        """The items that came since the last call; they are not in the answer any more."""
        taken, self._items = self._items, []
        return taken

    def _for_us(self, message: FromServer) -> FromServer | None:
        """The message if it matters now; late answers to a cancel and heartbeats do not."""
        if self.hello is None:
            if not isinstance(message, Hello):
                raise Untrusted("what listens on the agent's socket is not an agent")
            message.check()
            self.hello = message
            return None
        if isinstance(message, Hello):
            raise Untrusted("the agent said hello twice")
        if isinstance(message, Failed) and message.id == CONNECTION:
            return message
        return message if self.in_request and message.id == self._last_id else None

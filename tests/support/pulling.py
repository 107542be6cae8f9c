"""A `get` that runs beside the test, so that the test can do something to it on its way."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from p2pcache.errors import P2PCacheError

if TYPE_CHECKING:
    from types import TracebackType

    from p2pcache.agent.localapi import answers
    from tests.support.agents import Agent

PATIENCE_S = 60.0


class Pull:
    """`with Pull(agent, ref) as pull:` starts it; the block ends when the agent has answered."""

    def __init__(
        self, agent: Agent, ref: str, *, patience_s: float = PATIENCE_S, **options: Any
    ) -> None:
        self.done_bytes = 0
        self.files_done = 0
        self.phase = ""
        self.answer: dict[str, Any] | None = None
        self.error: P2PCacheError | None = None
        self._agent = agent
        self._ref = ref
        self._options = options
        self._patience_s = patience_s
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Pull:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._thread.join(self._patience_s)
        if kind is None:
            assert not self._thread.is_alive(), "the agent never answered"

    @property
    def is_over(self) -> bool:
        """Whether the agent has answered."""
        return self.answer is not None or self.error is not None

    def wait_bytes(self, count: int) -> None:
        """Until that much is verified; fails when the pull ends before."""
        self._wait(lambda: self.done_bytes >= count)

    def wait_files(self, count: int) -> None:
        """Until so many files are complete; fails when the pull ends before."""
        self._wait(lambda: self.files_done >= count)

    def wait_phase(self, beginning: str) -> None:
        """Until its phase begins so; fails when the pull ends before."""
        self._wait(lambda: self.phase.startswith(beginning))

    def wait_end(self) -> None:
        """Until the agent has answered, well or not."""
        self._thread.join(self._patience_s)
        assert not self._thread.is_alive(), "the agent never answered"

    def _wait(self, reached: Any) -> None:
        give_up = time.monotonic() + self._patience_s
        with self._moved:
            while not reached():
                assert self._thread.is_alive(), f"ended too early: {self.error or self.answer}"
                assert time.monotonic() < give_up, f"stuck at {self.done_bytes} bytes"
                self._moved.wait(0.05)

    def _run(self) -> None:
        try:
            with self._agent.client() as client:
                self.answer = dict(
                    client.get(self._ref, on_progress=self._progress, **self._options)
                )
        except P2PCacheError as exc:
            self.error = exc
        with self._moved:
            self._moved.notify_all()

    def _progress(self, progress: answers.Progress) -> None:
        with self._moved:
            self.phase = progress.get("phase", "")
            self.done_bytes = max(self.done_bytes, progress.get("done_bytes", 0))
            self.files_done = max(self.files_done, progress.get("files_done", 0))
            self._moved.notify_all()

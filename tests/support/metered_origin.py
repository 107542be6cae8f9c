"""An origin that notes when each request for content runs, and how many run at once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support import faulty_http as fh

if TYPE_CHECKING:
    from tests.support.blobs import ServedBlob

LEAST = 4096  # bytes; what is shorter is a look at the length, not a request for content


@dataclass
class MeteredOrigin:
    """`began`: of each request for content. `most`: that ran at once."""

    server: fh.FaultyServer
    takes_s: float = 0.0  # before the last byte of an answer is sent
    began: list[float] = field(default_factory=list)
    most: int = 0
    _running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, path: str, blob: ServedBlob) -> str:
        """Serve a blob there; its ref."""
        body = blob.path.read_bytes()

        def answer(ask: fh.Exchange) -> bool:
            start, end = ask.range or (0, len(body))
            end = min(end, len(body))
            if end - start < LEAST:
                return fh.ranged(body, ETag='"one"')(ask)
            with self._lock:
                self.began.append(time.monotonic())
                self._running += 1
                self.most = max(self.most, self._running)
            try:
                here = f"bytes {start}-{end - 1}/{len(body)}"
                more = {"Content_Range": here} if ask.range else {}
                status = 206 if ask.range else 200
                ask.head(status, ETag='"one"', Content_Length=end - start, **more)
                ask.send(body[start : end - 1])
                ask.wait(self.takes_s)
            finally:  # before the last byte: its reader may ask again at once
                with self._lock:
                    self._running -= 1
            ask.send(body[end - 1 : end])
            return True

        return f"{self.server.on(path, answer)}#sha256={blob.sha256}"

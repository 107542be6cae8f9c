"""A bucket that answers byte by byte: what is asked of it ends at its deadline."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from p2pcache.destinations.objects import s3_calls
from p2pcache.errors import Unavailable
from p2pcache.sources.port import AwsLogin
from p2pcache.sources.s3.client import request_for
from p2pcache.sources.s3.listing import list_s3
from p2pcache.sources.s3.options import S3Options
from tests.support import faulty_http as fh

if TYPE_CHECKING:
    from p2pcache.sources.s3.client import S3Request

OPTIONS = S3Options(request_timeout_s=1.0, deadline_s=1.5)


def dripping(ask: fh.Exchange) -> bool:
    """Whole after 12 s, and never silent."""
    ask.head(200, Content_Length=600, ETag='"1"', Content_Type="application/xml")
    return fh.drip(ask)


def read_record(request: S3Request) -> object:
    return s3_calls.get_small(request, ".p2pcache/ref", 1 << 20)


def listed(request: S3Request) -> object:
    return list_s3(replace(request, folder=True))


@pytest.mark.parametrize("ask", [read_record, listed])
def test_an_answer_that_drips_ends_at_the_deadline(ask: object) -> None:
    assert callable(ask)
    with fh.FaultyServer() as server:
        for path in ("/dripping", "/dripping/.p2pcache/ref"):
            server.on(path, dripping)
        login = AwsLogin("key", "secret", endpoint_url=f"http://127.0.0.1:{server.port}")
        began = time.monotonic()
        with pytest.raises(Unavailable, match="took longer than"):
            ask(request_for(OPTIONS, "dripping", login))
        assert time.monotonic() - began < 10

"""Whatever a client writes: an answer, or an error of its own making, and never a bug of ours."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from p2pcache.content.dag import djson
from p2pcache.errors import Untrusted, UsageError
from p2pcache.gateway.ipfs import request as asked
from p2pcache.gateway.ipfs.request import Refusal
from p2pcache.gateway.kubo_rpc import multipart, paths
from p2pcache.gateway.kubo_rpc.api import CALLS
from p2pcache.gateway.kubo_rpc.mfs import MAX_DEPTH, names_of
from p2pcache.gateway.kubo_rpc.multipart import Parts
from p2pcache.gateway.kubo_rpc.query import Query
from p2pcache.gateway.messages import Request
from tests.support.kubo_rpc import FILE
from tests.support.rpc_server import rpc_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.kubo_rpc import Server

HELLO = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
FOLDER = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
words = st.text(max_size=20) | st.sampled_from(
    [
        "",
        "/",
        "..",
        ".",
        "//",
        "true",
        "False",
        "0x",
        "-1",
        "9" * 25,
        "1m",
        "1.5.s",
        "1e5s",
        "µs",
        "\0",
        "é",
        "\ud800",
        "٣",
        "1_0",
        " 1",
        "size-3",
        "size-٣",
        "rabin",
        "<dst>",
        HELLO,
        FOLDER,
    ]
)


def request(path: str, query: list[tuple[str, str]], headers: list[tuple[str, str]]) -> Request:
    return Request("GET", path, query, headers, "peer", lambda: pytest.fail("no body"))


@given(words | st.lists(words, max_size=6).map("".join))
def test_an_option_has_a_value_or_is_refused(value: str) -> None:
    query = Query([("x", value), ("arg", value)])
    for read in (
        query.flag, query.integer, query.seconds, query.text, query.arg, query.unsupported,
        lambda name: query.natural("x", name),
    ):  # fmt: skip
        with contextlib.suppress(UsageError):
            read("x")
    with pytest.raises(UsageError):
        Query([("x", value), ("x", value)]).text("x")


@given(st.lists(words, max_size=8))
def test_a_path_of_the_files_api_leads_nowhere_else(parts: list[str]) -> None:
    for path in ("/".join(parts), "/" + "/".join(parts)):
        with contextlib.suppress(UsageError):
            names = names_of(path)
            assert path.startswith("/")
            assert len(names) <= MAX_DEPTH
            assert not {"", ".", ".."}.intersection(names)
            assert not any("/" in name for name in names)


@given(st.sampled_from(["", "/ipfs/", "ipfs://", "/ipns/", "/", "/ipld/"]), st.lists(words))
def test_a_path_of_ipfs_is_one_or_refused(prefix: str, parts: list[str]) -> None:
    for text in (prefix + "/".join(parts), f"{prefix}{HELLO}/" + "/".join(parts)):
        with contextlib.suppress(UsageError):
            assert not {"", ".", ".."}.intersection(paths.parse(text).below)


def quoted(text: str) -> str:
    return quote(text, errors="surrogatepass")


HEADERS = ("accept", "cache-control", "service-worker")
ARGUMENTS = (
    "format", "filename", "download", "car-version", "car-order", "car-dups", "dag-scope",
    "entity-bytes",
)  # fmt: skip
values = words | st.sampled_from(["car", "raw", "tar", "entity", "block", "0:*", "-1:-5", "5:1"])
media = st.lists(
    st.sampled_from(["application/vnd.ipld.car", "*/*", ";", ",", "q=0", "version=1", "dups=", '"'])
    | words,
    max_size=6,
).map("".join)


@given(
    words.map(quoted)
    | st.lists(words, max_size=4).map(lambda parts: f"ipfs/{HELLO}/" + quoted("/".join(parts))),
    st.lists(st.tuples(st.sampled_from(ARGUMENTS), values), max_size=4),
    st.lists(st.tuples(st.sampled_from(HEADERS), media | values), max_size=3),
)
@example("ipfs/" + FOLDER, [("format", "car"), ("entity-bytes", "-0:*")], [])
def test_a_request_to_the_gateway_is_understood_or_refused(
    path: str, query: list[tuple[str, str]], headers: list[tuple[str, str]]
) -> None:
    with contextlib.suppress(Refusal):
        found = asked.parse(request("/" + path, query, headers))
        assert not {".", "..", ""}.intersection(found.path)


@given(st.lists(words | st.sampled_from(["multipart/form-data", ";", "boundary=", '"', "=", "*="])))
def test_a_type_of_a_body_has_a_boundary_or_is_refused(parts: list[str]) -> None:
    with contextlib.suppress(UsageError):
        told = "".join(parts).encode("latin-1", "replace").decode("latin-1")  # as headers arrive
        boundary = multipart.boundary_of(request("/", [], [("content-type", told)]), "path")
        Parts(boundary).feed(b"--" + boundary + b"\r\n")


dispositions = st.lists(
    st.sampled_from([b"form-data", b"; ", b"filename", b"*", b"=", b'"', b"\\", b"utf-8''", b"%zz"])
    | st.sampled_from([b"%2e%2e%2f", b"%00", b"%ff", b"\xff", b"a/" * 300, b"?=", b"filename*0="])
    | st.binary(max_size=8),
    max_size=8,
).map(b"".join)
kinds = st.sampled_from([b"application/x-directory", b"application/symlink", b"", b"text/plain"])


@given(dispositions, kinds | dispositions, st.binary(max_size=20), st.integers(1, 64))
@example(b'form-data; filename="%2e%2e%2f%2e%2e"', b"application/symlink", b"\xff", 3)
def test_a_part_is_a_file_or_refused(said: bytes, kind: bytes, body: bytes, step: int) -> None:
    whole = b"--XX\r\nContent-Disposition: " + said + b"\r\nContent-Type: " + kind
    whole += b"\r\n\r\n" + body + b"\r\n--XX--\r\n"
    parts = Parts(b"XX")
    with contextlib.suppress(UsageError):
        for at in range(0, len(whole), step):
            for event in parts.feed(whole[at : at + step]):
                path = getattr(event, "path", "")
                assert not path.startswith("/")
                assert ".." not in path.split("/")
            parts.feed(b"").clear()
        parts.close()


scraps = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        '"',
        '"/"',
        '{"/":',
        '"bytes"',
        HELLO,
        f'"{HELLO}"',
        "\\ud800",
        '"bafkqaaa"',
        '"AA"',
        '"A=="',
        "\\",
        "\\u",
        "-0",
        "1e9",
        "1E-400",
        "0.1e",
        "NaN",
        "\ufeff",
        "true",
        "null",
        "٣",
        "18446744073709551615",
        "-18446744073709551616",
        " ",
        "\n",
        "\0",
        "/*",
    ]
)
plain = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.just("bafkqaaa"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["/", "bytes", "a", ""]), inner, max_size=3)
    ),
)


@given(st.lists(scraps, max_size=12).map("".join) | plain.map(json.dumps))
@example('{"/":{"bytes":"' + "A" * 5 + '"}}')
def test_dag_json_is_read_and_written_again_or_refused(text: str) -> None:
    try:
        value = djson.decode(text.encode("utf-8", "surrogatepass"))
    except Untrusted:
        return
    assert djson.decode(djson.encode(value)) == value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rpc_server(tmp_path_factory.mktemp("rpc")) as found:
        found.upload("block/put", ("x", b"hello", FILE))
        found.post("files/mkdir?arg=/a")
        yield found


OPTIONS = (
    "arg", "offset", "length", "count", "pin", "chunker", "hash", "cid-version", "input-codec",
    "store-codec", "output-codec", "recursive", "format", "max-depth", "type", "timeout", "create",
    "parents", "offline", "mhtype", "mhlen", "compress", "compression-level", "num-providers",
)  # fmt: skip
OF_A_NETWORK = {"swarm/connect", "routing/provide"}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(set(CALLS) - OF_A_NETWORK)),
    st.lists(
        st.tuples(st.just("arg") | st.sampled_from(OPTIONS), values | st.just("/a")), max_size=4
    ),
    st.none() | st.binary(max_size=20),
)
def test_a_call_is_answered_or_refused_and_is_no_bug(
    server: Server,
    caplog: pytest.LogCaptureFixture,
    call: str,
    pairs: list[tuple[str, str]],
    body: bytes | None,
) -> None:
    caplog.clear()
    target = (
        call + "?" + "&".join(f"{key}={quote(value, errors='replace')}" for key, value in pairs)
    )
    said = server.post(target) if body is None else server.upload(target, ("x", body, FILE))
    assert said.status in (200, 400, 500)
    assert not [one.message for one in caplog.records if one.levelname in ("WARNING", "ERROR")]

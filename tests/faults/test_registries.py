"""What registries do wrong: the error, who must act, and that nothing of a login is shown."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from p2pcache.content.refs import parse_ref
from p2pcache.errors import (
    Denied,
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
)
from p2pcache.sources.oci.manifest import OCI_INDEX, OCI_MANIFEST
from p2pcache.sources.oci.options import OciOptions, login_for
from p2pcache.sources.oci.source import OciSource
from p2pcache.sources.port import Credentials, RegistryLogin
from tests.support.faulty_http import (
    FaultyServer,
    cut,
    drip,
    hang_up,
    ranged,
    redirect,
    reset,
    stall,
    status,
)
from tests.support.scripted_registry import (
    BASIC,
    PASSWORD,
    USER,
    Scripted,
    descriptor,
    manifest_of,
    sha256,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from p2pcache.sources.port import Listing
    from tests.support.faulty_http import Answer, Exchange

FILES = {"a.txt": b"hello", "sub/b.bin": b"b" * 5000}


@pytest.fixture
def there() -> Iterator[Scripted]:
    with FaultyServer() as server:
        yield Scripted(server, dict(FILES))


@pytest.fixture
async def source() -> AsyncIterator[OciSource]:
    made = OciSource(OciOptions(timeout_s=1.0, deadline_s=2.0))
    yield made
    await made.aclose()


def login(there: Scripted, password: str = PASSWORD) -> Credentials:
    return Credentials(registry=RegistryLogin(there.host, USER, password))


async def listed(source: OciSource, there: Scripted, credentials: Credentials) -> Listing:
    return await source.list(parse_ref(there.ref), credentials)


def shown(error: BaseException | None) -> str:
    """Everything of an error that anybody may see, causes included."""
    text = ""
    while error is not None:
        text += f"{error} {getattr(error, 'hint', '')} "
        error = error.__cause__ or error.__context__
    return text


def endless(ask: Exchange) -> bool:
    ask.head(200, Content_Type=OCI_MANIFEST)
    while True:
        ask.send(b" " * 65536)


REFUSALS: dict[str, tuple[Answer, type[P2PCacheError], str]] = {
    "404": (status(404), NotFound, "check the name and the tag"),
    "410": (status(410), NotFound, "check the name and the tag"),
    "403": (status(403), Denied, "docker login 127.0.0.1"),
    "451": (status(451), Denied, "docker login"),
    "400": (status(400), Denied, "docker login"),
    "401 without a challenge": (status(401), Denied, "docker login 127.0.0.1"),
    "429": (status(429, Retry_After=7), Unavailable, ""),
    "503": (status(503, Retry_After=7), Unavailable, ""),
    "500": (status(500), Unavailable, ""),
    "a cut": (cut(b"x" * 5000, 100, reset), Unavailable, ""),
    "no answer": (hang_up, Unavailable, "check the name"),
    "silence": (stall, Unavailable, "check the name"),
    "a drip": (cut(b"x" * 5_000_000, 0, drip), Unavailable, ""),
    "a redirect without end": (redirect("v1"), Untrusted, ""),
    "204": (status(204), Untrusted, ""),
    "another kind": (status(200, b"{}", Content_Type="text/html"), Untrusted, "push it"),
    "an encoded body": (
        status(200, manifest_of(FILES), Content_Type=OCI_MANIFEST, Content_Encoding="gzip"),
        Untrusted, "",
    ),
    "a manifest without end": (endless, Untrusted, ""),
    "another digest than it says": (
        status(200, b"{}", Content_Type=OCI_MANIFEST, Docker_Content_Digest=sha256(b"x")),
        Untrusted, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
async def test_what_a_registry_does_wrong_is_told_and_blamed_right(
    source: OciSource, there: Scripted, what: str
) -> None:
    answer, kind, hint = REFUSALS[what]
    there.server.on(there.manifest(), answer)
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        await listed(source, there, Credentials())
    assert time.monotonic() - began < 30.0
    assert type(caught.value) is kind
    assert there.host in caught.value.message
    assert hint in (caught.value.hint or "")
    if isinstance(caught.value, Unavailable) and what in ("429", "503"):
        assert caught.value.retry_after_s == 7.0


async def test_the_registrys_own_words_are_shown_without_what_is_secret(
    source: OciSource, there: Scripted
) -> None:
    said = {"errors": [{"code": "TOOMANYREQUESTS", "message": f"slow down,\n{PASSWORD} {BASIC}"}]}
    there.lock('Basic realm="x"', lambda sent: sent == BASIC)
    there.server.on(
        there.manifest(),
        there.behind("Basic", lambda sent: sent == BASIC, status(429, json.dumps(said).encode())),
    )
    with pytest.raises(Unavailable) as caught:
        await listed(source, there, login(there))
    assert "TOOMANYREQUESTS slow down," in caught.value.message
    assert PASSWORD not in shown(caught.value)
    assert BASIC.split()[1] not in shown(caught.value)


async def test_nobody_there_is_unavailable(source: OciSource) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await source.list(parse_ref("oci://127.0.0.1:9/acme/m:v1"), Credentials())


async def test_a_pinned_manifest_that_is_another_is_not_taken(
    source: OciSource, there: Scripted
) -> None:
    wanted = sha256(b"another")
    there.server.on(there.manifest(wanted), status(200, there.body, Content_Type=OCI_MANIFEST))
    with pytest.raises(Untrusted, match="digest"):
        await source.list(parse_ref(f"oci://{there.host}/acme/m@{wanted}"), Credentials())


async def test_a_manifest_pinned_by_sha512_is_checked(source: OciSource, there: Scripted) -> None:
    good = "sha512:" + hashlib.sha512(there.body).hexdigest()
    for digest in (good, "sha512:" + "0" * 128):
        there.server.on(there.manifest(digest), status(200, there.body, Content_Type=OCI_MANIFEST))
    listing = await source.list(parse_ref(f"oci://{there.host}/acme/m@{good}"), Credentials())
    assert listing.immutable == good
    with pytest.raises(Untrusted, match="digest"):
        await source.list(parse_ref(f"oci://{there.host}/acme/m@sha512:{'0' * 128}"), Credentials())


async def test_layers_that_only_sha512_names_are_refused(
    source: OciSource, there: Scripted
) -> None:
    said = json.loads(there.body)
    said["layers"][0]["digest"] = "sha512:" + "0" * 128
    there.publish(json.dumps(said).encode())
    with pytest.raises(UsageError, match="sha256"):
        await listed(source, there, Credentials())


async def test_an_index_leads_to_the_image_for_the_platform_and_no_deeper(
    source: OciSource, there: Scripted
) -> None:
    def index(*entries: dict[str, Any]) -> bytes:
        return json.dumps({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries),
        }).encode()  # fmt: skip

    arm = {"os": "linux", "architecture": "arm64"}
    inner = index(descriptor(there.body, OCI_MANIFEST, platform=arm))
    top = index(descriptor(inner, OCI_INDEX))
    there.publish(inner, OCI_INDEX)
    there.publish(top, OCI_INDEX)
    listing = await source.list(parse_ref(f"{there.ref}?platform=linux/arm64"), Credentials())
    assert listing.immutable == sha256(top)
    assert [file.path for file in listing.files] == list(FILES)
    with pytest.raises(NotFound, match="s390x"):
        await source.list(parse_ref(f"{there.ref}?platform=linux/s390x"), Credentials())
    for _ in range(4):
        top = index(descriptor(top, OCI_INDEX))
        there.publish(top, OCI_INDEX)
    with pytest.raises(Untrusted, match="deep"):
        await source.list(parse_ref(f"{there.ref}?platform=linux/arm64"), Credentials())
    there.publish(index(), OCI_INDEX)
    with pytest.raises(NotFound, match="nothing"):
        await listed(source, there, Credentials())


# -- access -----------------------------------------------------------------------------------


async def test_what_everybody_may_read_is_asked_for_without_the_login(
    source: OciSource, there: Scripted
) -> None:
    listing = await listed(source, there, login(there))
    location = await source.locate(listing, listing.files[0].key, login(there))
    assert not listing.gated
    assert location.headers == ()
    assert all("authorization" not in headers for _, headers in there.server.seen)


async def test_a_login_of_another_registry_stays_here(source: OciSource, there: Scripted) -> None:
    there.lock('Basic realm="x"', lambda sent: sent == BASIC)
    with pytest.raises(Denied):
        await listed(
            source, there, Credentials(registry=RegistryLogin("other.example", USER, PASSWORD))
        )
    assert all("authorization" not in headers for _, headers in there.server.seen)


async def test_a_wrong_login_says_so(source: OciSource, there: Scripted) -> None:
    there.lock('Basic realm="x"', lambda sent: sent == BASIC)
    with pytest.raises(Denied, match="does not accept the login") as caught:
        await listed(source, there, login(there, "wrong-" + PASSWORD))
    assert caught.value.hint == f"run `docker login {there.host}`, then try again"
    assert PASSWORD not in shown(caught.value)
    assert (await listed(source, there, login(there))).gated


def tokens(there: Scripted, **said: Any) -> list[str]:
    """Put a token server before it; the tokens that it gave, the last of which is good."""
    given: list[str] = []

    def answer(ask: Exchange) -> bool:
        if ask.headers.get("authorization") != BASIC:
            return status(401)(ask)
        given.append(f"token-{len(given)}")
        body = json.dumps({"token": given[-1], **said}).encode()
        return status(200, body, Content_Type="application/json")(ask)

    realm = there.server.on("/token", answer)
    there.lock(
        f'Bearer realm="{realm}",service="r"', lambda sent: given and sent == f"Bearer {given[-1]}"
    )
    return given


async def test_a_token_is_asked_for_once_and_again_before_it_ends(
    source: OciSource, there: Scripted, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 3600.0  # real sockets: nothing is skipped
    given = tokens(there, expires_in=100)
    listing = await listed(source, there, login(there))
    first, second = (file.key for file in listing.files)
    for _ in range(2):
        location = await source.locate(listing, first, login(there))
        assert location.headers == (("Authorization", "Bearer token-0"),)
    autojump_clock.jump(81.0)
    location = await source.locate(listing, second, login(there))
    assert given == ["token-0", "token-1"]
    assert location.headers == (("Authorization", "Bearer token-1"),)


async def test_a_token_that_stopped_working_is_renewed_where_it_is_asked_for_again(
    source: OciSource, there: Scripted, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 3600.0
    given = tokens(there, expires_in=86_400)
    listing = await listed(source, there, login(there))
    key = listing.files[0].key
    await source.locate(listing, key, login(there))
    autojump_clock.jump(11.0)
    await source.locate(listing, listing.files[1].key, login(there))
    assert len(given) == 1, "a new key says nothing about the token"
    await source.locate(listing, key, login(there))
    assert len(given) == 2
    given.append("revoked")
    autojump_clock.jump(11.0)
    await listed(source, there, login(there))
    assert given[-1] == "token-3", "a request that is refused asks for another one too"


async def test_many_who_need_a_token_at_once_ask_for_one(
    source: OciSource, there: Scripted
) -> None:
    given = tokens(there)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(listed, source, there, login(there))
    assert given == ["token-0"]


async def test_an_agent_that_started_anew_locates_what_it_listed_before(
    source: OciSource, there: Scripted
) -> None:
    given = tokens(there)
    listing = await listed(source, there, login(there))
    other = OciSource()
    location = await other.locate(listing, listing.files[0].key, login(there))
    await other.aclose()
    assert location.headers == (("Authorization", f"Bearer {given[-1]}"),)
    assert len(given) == 2


async def test_a_login_is_not_sent_to_a_realm_of_somebody_else(there: Scripted) -> None:
    with FaultyServer() as foreign:
        # an address that leads to this machine, and is not a name of it
        realm = foreign.on("/t", status(401)).replace("127.0.0.1", "0.0.0.0")
        there.lock(f'Bearer realm="{realm}"', lambda sent: False)
        source = OciSource()
        with pytest.raises(Untrusted, match="not its own") as caught:
            await listed(source, there, login(there))
        await source.aclose()
        assert "`oci.realms`" in (caught.value.hint or "")
        assert "0.0.0.0" in caught.value.message
        assert [path.partition("?")[0] for path, _ in foreign.seen] == ["/t"]
        assert all("authorization" not in headers for _, headers in foreign.seen)


async def test_a_registry_knows_ollamas_user_by_a_signature(there: Scripted) -> None:
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]

    def token(ask: Exchange) -> bool:
        sent, _, signature = ask.headers.get("authorization", "").partition(":")
        if not sent:
            return status(401)(ask)
        nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
        url = there.server.url(ask.path)
        key.public_key().verify(base64.b64decode(signature), f"GET,{url},{nothing}".encode())
        query = parse_qs(urlsplit(url).query)
        assert abs(int(query["ts"][0]) - time.time()) < 60
        assert len(query["nonce"][0]) >= 16
        assert query["scope"] == ["repository:acme/m:pull"]
        good = sent == public.decode()
        return (status(200, b'{"token": "good"}') if good else status(401))(ask)

    realm = there.server.on("/token", token)
    there.lock(f'Bearer realm="{realm}",service="r"', lambda sent: sent == "Bearer good")
    login = Credentials(registry=RegistryLogin(there.host, ollama_key=text))
    source = OciSource()
    listing = await source.list(parse_ref(f"ollama://{there.host}/acme/m:v1"), login)
    assert listing.gated
    other = RegistryLogin(there.host, ollama_key="no key")
    with pytest.raises(LocalFault, match="Ollama's key"):
        await source.list(parse_ref(there.ref), Credentials(registry=other))
    await source.aclose()


async def test_ollamas_key_signs_for_nobody_else(there: Scripted) -> None:
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    with FaultyServer() as foreign:
        realm = foreign.on("/t", status(401)).replace("127.0.0.1", "localhost")
        there.lock(f'Bearer realm="{realm}"', lambda sent: False)
        source = OciSource()
        with pytest.raises(Untrusted, match="not its own"):
            await source.list(
                parse_ref(f"ollama://{there.host}/acme/m:v1"),
                Credentials(registry=RegistryLogin(there.host, ollama_key=text)),
            )
        await source.aclose()
        assert all("authorization" not in headers for _, headers in foreign.seen)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (status(200, b"[]"), Untrusted),
        (status(200, b"{"), Untrusted),
        (status(200, b'{"token": "a\\nb"}'), Untrusted),
        (status(200, b'{"token": ""}'), Untrusted),
        (status(200, b'{"token": "x"%s}' % (b" " * (1 << 20))), Untrusted),
        (redirect("/elsewhere"), Untrusted),
        (status(403), Denied),
        (status(429, Retry_After=3), Unavailable),
        (status(500), Unavailable),
        (stall, Unavailable),
    ],
)
async def test_a_token_server_that_gives_none_is_told_apart(
    source: OciSource, there: Scripted, answer: Answer, kind: type[P2PCacheError]
) -> None:
    realm = there.server.on("/token", answer)
    there.lock(f'Bearer realm="{realm}"', lambda sent: False)
    with pytest.raises(kind) as caught:
        await listed(source, there, login(there))
    assert type(caught.value) is kind
    assert PASSWORD not in shown(caught.value)
    assert not there.server.headers_of("/elsewhere")


async def test_a_registry_that_goes_on_asking_is_left(source: OciSource, there: Scripted) -> None:
    tokens(there)
    there.lock('Bearer realm="http://127.0.0.1/t"', lambda sent: False)
    with pytest.raises(P2PCacheError):
        await listed(source, there, login(there))
    assert len(there.server.seen) < 12


async def test_docker_hub_is_asked_where_it_answers_with_its_login(source: OciSource) -> None:
    ref = parse_ref("oci://docker.io/alpine")
    assert source.endpoint(ref, Credentials()) == "https://registry-1.docker.io"
    login = RegistryLogin("docker.io", USER, PASSWORD)
    assert login_for("registry-1.docker.io", Credentials(registry=login)) is login
    assert login_for("registry-1.example", Credentials(registry=login)) is None


async def test_a_blob_is_given_to_its_own_key_alone(source: OciSource, there: Scripted) -> None:
    listing = await listed(source, there, Credentials())
    there.server.on(there.blob(FILES["a.txt"]), ranged(FILES["a.txt"]))
    location = await source.locate(listing, listing.files[0].key, Credentials())
    assert location.url == there.server.url(there.blob(FILES["a.txt"]))

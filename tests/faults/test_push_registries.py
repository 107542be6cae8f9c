"""A registry that gets something and misbehaves: what is to be done is said, nothing is half there.

The registry is the real one; a proxy before it makes the faults.
"""

from __future__ import annotations

import hashlib
import json
import stat
import threading
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache import errors
from p2pcache.content import unixfs
from p2pcache.content.digests import sha256_digest
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.refs import parse_ref
from p2pcache.content.registry_refs import OciRef
from p2pcache.destinations.port import Content, ContentFile
from p2pcache.destinations.registry.destination import RegistryDestination
from p2pcache.destinations.registry.upload import MAX_ANEW, UploadOptions
from p2pcache.destinations.sessions import Sessions
from p2pcache.destinations.uploads import Uploads
from p2pcache.lanes.send_part import send_part
from p2pcache.sources.oci.manifest import OCI_MANIFEST
from p2pcache.sources.oci.options import OciOptions
from p2pcache.sources.oci.pushing import Pushing
from p2pcache.sources.oci.registry import Place, Registries
from p2pcache.sources.port import RegistryLogin
from tests.support.certs import make_server_cert
from tests.support.partial_files import some_bytes
from tests.support.registry import PASSWORD, USER, Registry, registry
from tests.support.registry_proxy import Ask, Fault, RegistryProxy, registry_proxy
from tests.support.token_server import token_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from p2pcache.destinations.port import Pushed
    from p2pcache.lanes.send_part import PartOrder, PartReport

pytestmark = pytest.mark.slow

PART = 1 << 20
BODY = some_bytes(3 * PART + 500_000, b"pushed")
DIGEST = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
OTHER = f"sha256:{'0' * 64}"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture
def proxy(there: Registry) -> Iterator[RegistryProxy]:
    with registry_proxy(there) as made:
        yield made


async def in_a_thread(order: PartOrder) -> PartReport:
    return await trio.to_thread.run_sync(send_part, order)


def content_of(folder: Path, body: bytes = BODY) -> Content:
    """One file of the store's."""
    folder.mkdir(exist_ok=True)
    (folder / "blob").write_bytes(body)
    steps = [body[at : at + unixfs.LEAF_BYTES] for at in range(0, len(body), unixfs.LEAF_BYTES)]
    hashes = [hashlib.sha256(step).digest() for step in steps]
    root = unixfs.file_root(hashes, len(body)).cid
    raw = hashlib.sha256(body).digest()
    file = ContentFile(str(folder / "blob"), len(body), raw, root, b"".join(hashes))
    manifest = Manifest.from_entries([FileEntry("model.bin", len(body), sha256_digest(raw))])
    return Content("a test's", manifest, False, root, (file,), {"model.bin": file}, ())


@dataclass
class Pusher:
    """Pushes one file to one repository, by the proxy."""

    host: str
    folder: Path
    name: str
    tag: str = "v1"
    kept: Sessions | None = None
    login: RegistryLogin | None = None
    rate_bytes_per_s: float | None = None
    silent_s: float = 20.0

    async def push(self, content: Content | None = None) -> Pushed:
        registries = Registries(OciOptions(timeout_s=self.silent_s))
        ref = parse_ref(f"oci://{self.host}/{self.name}:{self.tag}")
        assert isinstance(ref, OciRef)
        place = Place(f"http://{self.host}", self.name)

        def opened(others: Sequence[str]) -> Pushing:
            return Pushing(registries, place, self.login, others)

        destination = RegistryDestination(
            ref, place.registry, opened, Uploads(in_a_thread, None, 4, self.rate_bytes_per_s),
            self.kept or Sessions(self.folder / "kept"), lambda _: [],
            UploadOptions(
                whole_bytes=1 << 16, part_bytes=PART, first_wait_s=0.01, silent_s=self.silent_s
            ),
            registries.aclose,
        )  # fmt: skip
        content = content or content_of(self.folder)
        try:
            return await destination.send(content, await destination.plan(content), lambda _: None)
        finally:
            await destination.aclose()


def holds(there: Registry, name: str) -> bool:
    """Whether the registry itself has the tag, and all of what it names."""
    tags = there.data / "docker/registry/v2/repositories" / name / "_manifests/tags"
    if not tags.exists():
        return False
    asked = urllib.request.Request(f"http://{there.host}/v2/{name}/manifests/v1")
    asked.add_header("Accept", OCI_MANIFEST)
    with urllib.request.urlopen(asked) as reply:
        body = reply.read()
    assert json.loads(body)["layers"][0]["digest"] == DIGEST
    blob = there.data / f"docker/registry/v2/blobs/sha256/{DIGEST[7:9]}/{DIGEST[7:]}/data"
    assert blob.read_bytes() == BODY
    return True


def coded(status: int, code: str, *headers: tuple[str, str]) -> Fault:
    body = json.dumps({"errors": [{"code": code, "message": "said by the registry"}]}).encode()
    return Fault(status, body, headers)


SAID = "said by the registry"
REFUSALS = [
    ("POST", "uploads", coded(401, "UNAUTHORIZED"), errors.Denied, "without a login"),
    ("POST", "uploads", coded(403, "DENIED"), errors.Denied, SAID),
    ("POST", "uploads", coded(404, "NAME_UNKNOWN"), errors.NotFound, "is not there"),
    ("POST", "uploads", coded(405, "UNSUPPORTED"), errors.Denied, "takes no pushes"),
    ("POST", "uploads", coded(429, "TOOMANYREQUESTS", ("Retry-After", "0")),
     errors.Unavailable, "limits our requests"),
    ("POST", "uploads", Fault(503), errors.Unavailable, "HTTP 503"),
    ("POST", "uploads", Fault(507), errors.Unavailable, "HTTP 507"),
    ("POST", "uploads", Fault(202), errors.Untrusted, "does not say where"),
    ("POST", "uploads", Fault(202, headers=(("Location", "gopher://x/y"),)),
     errors.Untrusted, "leads an upload"),
    ("PATCH", "upload", coded(403, "DENIED"), errors.Denied, SAID),
    ("PATCH", "upload", coded(413, "SIZE_INVALID"), errors.Denied, "HTTP 413"),
    ("PATCH", "upload", Fault(500), errors.Unavailable, "HTTP 500"),
    ("PATCH", "upload", Fault(cut_after=0), errors.Unavailable, "cut"),
    ("PUT", "upload", coded(400, "DIGEST_INVALID"), errors.Untrusted, "are others"),
    ("PUT", "upload", Fault(instead=(("Docker-Content-Digest", OTHER),)),
     errors.Untrusted, "says that it has"),
    ("HEAD", "blob", Fault(200, headers=(("Content-Length", "7"),)),
     errors.Untrusted, "has 7 bytes"),
    ("HEAD", "blob", coded(403, "DENIED"), errors.Denied, "HTTP 403"),
    ("PUT", "manifest", coded(400, "MANIFEST_BLOB_UNKNOWN"), errors.Unavailable, "lost blobs"),
    ("PUT", "manifest", coded(400, "MANIFEST_INVALID"), errors.Denied, SAID),
    ("PUT", "manifest", Fault(500), errors.Unavailable, "HTTP 500"),
    ("PUT", "manifest", Fault(201, headers=(("Docker-Content-Digest", OTHER),)),
     errors.Untrusted, "says that it has"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "kind", "fault", "error", "match"), REFUSALS)
async def test_the_table_of_refusals(
    tmp_path: Path,
    there: Registry,
    proxy: RegistryProxy,
    request: pytest.FixtureRequest,
    method: str,
    kind: str,
    fault: Fault,
    error: type[errors.P2PCacheError],
    match: str,
) -> None:
    name = f"refused/n{abs(hash(request.node.name))}"
    proxy.fault = lambda ask: fault if ask.is_(method, kind) else None
    with pytest.raises(error, match=match):
        await Pusher(proxy.host, tmp_path, name).push()
    assert not holds(there, name), "a tag shows nothing before all of it is there"
    proxy.fault = lambda ask: None
    await Pusher(proxy.host, tmp_path, name).push()
    assert holds(there, name)


@pytest.mark.parametrize(("method", "kind"), [("POST", "uploads"), ("PATCH", "upload")])
async def test_a_registry_that_is_silent_is_given_up(
    tmp_path: Path, there: Registry, proxy: RegistryProxy, method: str, kind: str
) -> None:
    proxy.fault = lambda ask: Fault(wait_s=20.0) if ask.is_(method, kind) else None
    with pytest.raises(errors.Unavailable, match=r"silent|no progress in time"):
        await Pusher(proxy.host, tmp_path, "silent/r", silent_s=0.3).push()
    assert not holds(there, "silent/r")


def once(method: str, kind: str, fault: Fault, number: int = 0) -> object:
    return lambda ask: fault if ask.is_(method, kind) and ask.number == number else None


SURVIVED = {
    "429": (once("POST", "uploads", coded(429, "X", ("Retry-After", "0"))), 4),
    "503": (once("PATCH", "upload", Fault(503), 1), 5),
    "late": (once("PATCH", "upload", Fault(wait_s=1.5), 1), 4),
    "cut": (once("PATCH", "upload", Fault(cut_after=300_000), 1), 5),
    "a lost answer": (once("PATCH", "upload", Fault(mute=True), 1), 4),
    "the last answer lost": (once("PUT", "upload", Fault(mute=True), 0), 4),
    "out of step": (once("PATCH", "upload", coded(416, "RANGE_INVALID"), 2), 5),
    "a tag's answer lost": (once("PUT", "manifest", Fault(mute=True), 1), 4),
}


@pytest.mark.parametrize("case", SURVIVED)
async def test_what_passes_by_itself_is_waited_for(
    tmp_path: Path, there: Registry, proxy: RegistryProxy, case: str
) -> None:
    proxy.fault, patches = SURVIVED[case]  # type: ignore[assignment]
    name = f"survived/{case.replace(' ', '-').replace(chr(39), '')}"
    done = await Pusher(proxy.host, tmp_path, name).push()
    assert holds(there, name)
    assert proxy.count("PATCH", "upload") == patches, "nothing is sent twice but what was cut"
    assert done.notes == ()


async def test_a_small_blob_whose_answer_was_lost_is_not_sent_again(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    proxy.fault = once("PUT", "upload", Fault(mute=True), 0)  # type: ignore[assignment]
    small = content_of(tmp_path, some_bytes(50_000, b"small"))
    done = await Pusher(proxy.host, tmp_path, "survived/small").push(small)
    assert proxy.count("PUT", "upload") == 2, "the blob, and the config"
    assert proxy.count("POST", "uploads") == 2
    assert done.sent.objects == 3


async def test_a_session_that_is_lost_is_begun_anew(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    def forgets(ask: Ask) -> Fault | None:
        lost = coded(404, "BLOB_UPLOAD_UNKNOWN")
        first = proxy.count("POST", "uploads") == 1
        return lost if ask.kind == "upload" and first and ask.number >= 1 else None

    proxy.fault = forgets
    await Pusher(proxy.host, tmp_path, "lost/session").push()
    assert holds(there, "lost/session")
    assert proxy.count("POST", "uploads") == 3, "one of them for the config"


async def test_a_registry_that_loses_every_session_is_given_up(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    def forgets(ask: Ask) -> Fault | None:
        return coded(404, "BLOB_UPLOAD_UNKNOWN") if ask.kind == "upload" else None

    proxy.fault = forgets
    with pytest.raises(errors.Unavailable, match="forgets uploads"):
        await Pusher(proxy.host, tmp_path, "lost/all").push()
    assert proxy.count("POST", "uploads") == MAX_ANEW


async def test_a_registry_that_takes_bytes_and_has_none_is_given_up(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    def swallows(ask: Ask) -> Fault | None:
        if ask.is_("PATCH", "upload"):
            return Fault(202, headers=(("Range", "0-0"), ("Location", ask.path)))
        return None

    proxy.fault = swallows
    with trio.fail_after(30), pytest.raises(errors.Unavailable, match="has no more of them"):
        await Pusher(proxy.host, tmp_path, "swallows/all").push()
    assert not holds(there, "swallows/all")


async def test_a_registry_without_parts_gets_all_in_one_request_and_a_note(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    proxy.fault = lambda ask: coded(405, "UNSUPPORTED") if ask.method == "PATCH" else None
    done = await Pusher(proxy.host, tmp_path, "no/parts").push()
    assert holds(there, "no/parts")
    assert any("takes no parts" in note for note in done.notes)


async def test_an_upload_goes_on_after_a_crash_and_one_that_is_forgotten_says_so(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    kept = Sessions(tmp_path / "sessions")
    proxy.fault = lambda ask: Fault(500) if ask.is_("PATCH", "upload") and ask.number > 1 else None
    pusher = Pusher(proxy.host, tmp_path, "goes/on", kept=kept)
    with pytest.raises(errors.Unavailable):
        await pusher.push()
    (one,) = (tmp_path / "sessions").iterdir()
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    proxy.fault = lambda ask: None
    before = proxy.count("PATCH", "upload")
    done = await pusher.push()
    assert holds(there, "goes/on")
    assert proxy.count("PATCH", "upload") - before == 2, "two parts of four were there"
    assert not list((tmp_path / "sessions").iterdir())
    assert done.notes == ()
    assert (done.resumed_bytes, done.sent.objects) == (2 * PART, 3)
    forgotten = Pusher(proxy.host, tmp_path, "goes/anew", kept=kept)
    where = f"http://{proxy.host}/goes/anew"
    kept.keep(where, DIGEST, f"{where.replace('goes', 'v2/goes')}/blobs/uploads/none")
    done = await forgotten.push()
    assert any("sent anew" in note for note in done.notes)


async def test_two_pushes_of_one_blob_at_once_have_a_session_each(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    kept = Sessions(tmp_path / "sessions")
    first = Pusher(proxy.host, tmp_path / "a", "at/once", kept=kept)
    second = Pusher(proxy.host, tmp_path / "b", "at/once", kept=kept)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    begun = threading.Event()

    def waits(ask: Ask) -> Fault | None:
        """The first push has begun its session, and goes on when the second has one, too."""
        if ask.is_("PATCH", "upload") and ask.number == 0:
            begun.set()
            deadline = time.monotonic() + 5
            while proxy.count("POST", "uploads") < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        return None

    proxy.fault = waits
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.push)
        await trio.to_thread.run_sync(begun.wait, 20)
        nursery.start_soon(second.push)
    assert holds(there, "at/once")
    assert proxy.count("PATCH", "upload") == 8, "neither disturbed the other"
    assert not list((tmp_path / "sessions").iterdir())
    assert not kept.busy


async def test_another_digest_in_an_old_session_is_not_believed_twice(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    """The first bytes of a kept session are not ours: it is begun anew, and the registry is not
    blamed.
    """
    kept, name = Sessions(tmp_path / "sessions"), "damaged/session"
    pusher = Pusher(proxy.host, tmp_path, name, kept=kept)
    other = content_of(tmp_path / "other", bytes(len(BODY)))
    proxy.fault = lambda ask: Fault(500) if ask.is_("PATCH", "upload") and ask.number > 0 else None
    with pytest.raises(errors.Unavailable):
        await pusher.push(other)
    where = f"http://{proxy.host}/{name}"
    (one,) = (tmp_path / "sessions").iterdir()
    location = one.read_text()
    one.unlink()
    kept.keep(where, DIGEST, location)
    proxy.fault = lambda ask: None
    await pusher.push()
    assert holds(there, name)


async def test_a_tag_that_somebody_else_wrote_meanwhile_is_told(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    proxy.fault = lambda ask: (
        Fault(instead=(("Docker-Content-Digest", OTHER),))
        if ask.is_("HEAD", "manifest") and ask.path.endswith("/v1") and ask.number > 1
        else None
    )
    with pytest.raises(errors.Conflict, match="somebody else wrote that tag"):
        await Pusher(proxy.host, tmp_path, "two/pushers").push()


async def test_a_damaged_file_is_our_fault_and_no_byte_of_that_block_goes_out(
    tmp_path: Path, there: Registry, proxy: RegistryProxy
) -> None:
    content = content_of(tmp_path)
    with (tmp_path / "blob").open("r+b") as stream:
        stream.seek(PART + 17)
        stream.write(b"\0\0\0")
    with pytest.raises(errors.LocalFault, match="is damaged on this disk"):
        await Pusher(proxy.host, tmp_path, "damaged/file").push(content)
    assert not holds(there, "damaged/file")
    (tmp_path / "blob").unlink()
    with pytest.raises(errors.LocalFault, match="cannot read"):
        await Pusher(proxy.host, tmp_path, "damaged/file").push(content)


async def test_tokens_that_end_in_the_middle_are_renewed(tmp_path: Path) -> None:
    cert = make_server_cert(tmp_path / "cert")
    login = RegistryLogin("", USER, PASSWORD)
    with (
        token_server(cert, lasts_s=2.0) as tokens,
        registry(tmp_path / "r", auth=tokens.auth) as real,
    ):
        pusher = Pusher(real.host, tmp_path, "acme/m", login=login, rate_bytes_per_s=1.2e6)
        done = await pusher.push()
        assert done.sent.bytes > len(BODY)
        who, scope = tokens.given[-1]
        assert (who, scope) == (USER, "repository:acme/m:pull,push")
        assert len(tokens.given) > 2, "one alone would have ended"
        wrong = Pusher(
            real.host, tmp_path, "acme/m", tag="v2", login=RegistryLogin("", USER, "not this")
        )
        with pytest.raises(errors.Denied, match="does not accept the login") as caught:
            await wrong.push()
        assert "docker login" in (caught.value.hint or "")
        nobody = Pusher(real.host, tmp_path, "acme/m", tag="v2")
        with pytest.raises(errors.Denied, match="nobody push without a login"):
            await nobody.push()

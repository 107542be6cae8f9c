"""The port's conformance check on every adapter, each against a real server."""

from __future__ import annotations

import hashlib
import os
from itertools import product
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.content import cid as cids
from p2pcache.content.cloud_refs import AzureRef, GcsRef
from p2pcache.content.refs import CidRef, FileRef, HfRef, HttpRef, parse_ref
from p2pcache.content.s3_refs import S3Ref
from p2pcache.errors import NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.sources.azure.options import AzureOptions
from p2pcache.sources.azure.source import AzureSource
from p2pcache.sources.file import FileSource
from p2pcache.sources.gcs.options import GcsOptions
from p2pcache.sources.gcs.source import GcsSource
from p2pcache.sources.hf import HfOptions, HfSource
from p2pcache.sources.http import NAMED_BY_ARRIVAL, ONE_STREAM, HttpOptions, HttpSource
from p2pcache.sources.kubo import KuboSource
from p2pcache.sources.kubo_place import find_kubo
from p2pcache.sources.oci.options import OciOptions
from p2pcache.sources.oci.source import OciSource
from p2pcache.sources.port import AwsLogin, AzureLogin, Credentials, RegistryLogin
from p2pcache.sources.s3.options import S3Options
from p2pcache.sources.s3.source import S3Source
from tests.contract.check_source import ANONYMOUS, Missing, Truth, check_source
from tests.support import minio as buckets
from tests.support import registry as registries
from tests.support.azurite import ACCOUNT, KEY, azurite
from tests.support.certs import ServerCert, make_server_cert
from tests.support.fake_gcs import fake_gcs
from tests.support.hub_repo import HubRepo, build_repo, small_model
from tests.support.hub_stub import hub_stub
from tests.support.kubo_daemon import kubo_daemon
from tests.support.nginx import file_url, nginx, static_hub
from tests.support.olah import olah
from tests.support.partial_files import block_hashes, some_bytes
from tests.support.swift import swift

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.support.s3_server import S3Server

SOME_FILE = FileRef("/somewhere")
SOME_REPO = HfRef("model", "demo/model")
run_in_thread = trio.to_thread.run_sync


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"), small_model(lfs_bytes=300_000))


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> ServerCert:
    return make_server_cert(tmp_path_factory.mktemp("cert"))


def bodies(repo: HubRepo) -> dict[str, bytes]:
    return {path: file.on_disk.read_bytes() for path, file in repo.files.items()}


def hf_ref(repo: HubRepo, revision: str | None = None, path: str | None = None) -> HfRef:
    return HfRef(repo.repo_type, repo.repo_id, revision, path)


async def check_hub(
    url: str,
    repo: HubRepo,
    ca_file: str | None = None,
    fails: tuple[type[P2PCacheError], ...] = (),
) -> None:
    source = HfSource(run_in_thread, HfOptions(endpoint=url, ca_file=ca_file))
    missing = Missing(hf_ref(repo, "no-such-branch"), NotFound)
    truth = Truth(bodies(repo), "hub")
    listing = await check_source(source, hf_ref(repo), truth, missing, SOME_FILE, fails=fails)
    assert listing.immutable == repo.commit
    assert listing.mutable
    for file in listing.files:
        known = repo.files[file.path]
        assert file.size == known.size
        assert file.oid == known.oid
        assert file.digest is not None
        assert file.digest.hex().endswith(known.etag)


async def test_hf_conforms_on_olah(repo: HubRepo, tmp_path: Path) -> None:
    with olah(repo, tmp_path) as server:
        await check_hub(server.url, repo, fails=(Unavailable,))  # its 500 for such a version


@pytest.mark.parametrize("redirect", [True, False])
async def test_hf_conforms_on_the_stub(repo: HubRepo, redirect: bool) -> None:
    with hub_stub(repo) as stub:
        stub.redirect_lfs = redirect
        await check_hub(stub.url, repo)


async def test_hf_conforms_on_nginx_with_a_private_authority(
    repo: HubRepo, cert: ServerCert, tmp_path: Path
) -> None:
    hub = static_hub(repo, tmp_path / "site")
    with nginx(tmp_path / "site", tmp_path / "nginx", tls=cert, extra=hub) as server:
        await check_hub(server.url, repo, str(cert.ca_file))
        source = HfSource(run_in_thread, HfOptions(endpoint=server.url))
        with pytest.raises(Untrusted, match="certificate"):
            await source.list(hf_ref(repo), ANONYMOUS)


@pytest.mark.parametrize("path", ["config.json", "empty.txt", "sub dir/vocäb #1.txt"])
@pytest.mark.parametrize("tls", [False, True])
async def test_http_conforms_on_nginx(
    repo: HubRepo, cert: ServerCert, tmp_path: Path, path: str, tls: bool
) -> None:
    body = bodies(repo)[path]
    with nginx(repo.plain, tmp_path, tls=cert if tls else None) as server:
        source = HttpSource(HttpOptions(ca_file=str(cert.ca_file) if tls else None))
        listing = await check_source(
            source,
            HttpRef(file_url(server.url, path)),
            Truth({path.rpartition("/")[2]: body}, "none"),
            Missing(HttpRef(file_url(server.url, "absent")), NotFound),
            SOME_FILE,
        )
        assert listing.files[0].size == len(body)
        assert listing.immutable is not None  # nginx gives strong ETags
        assert NAMED_BY_ARRIVAL in listing.notes
        assert ONE_STREAM not in listing.notes


async def test_http_refuses_a_certificate_of_an_unknown_authority(
    repo: HubRepo, cert: ServerCert, tmp_path: Path
) -> None:
    with nginx(repo.plain, tmp_path, tls=cert) as server:
        source = HttpSource()
        with pytest.raises(Untrusted, match="certificate"):
            await source.list(HttpRef(f"{server.url}/config.json"), ANONYMOUS)
        await source.aclose()


async def test_http_conforms_on_a_list_of_sums(repo: HubRepo, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "files").symlink_to(repo.plain)
    marks = " *"
    lines = [
        f"{file.sha256} {marks[n % 2]}./files/{path}\n"
        for n, (path, file) in enumerate(repo.files.items())
    ]
    (site / "SHA256SUMS").write_text("".join(lines))
    (site / "bad").mkdir()
    (site / "bad" / "SHA256SUMS").write_text("not a sum\n")
    with nginx(site, tmp_path / "nginx") as server:
        listing = await check_source(
            HttpSource(),
            HttpRef(f"{server.url}/SHA256SUMS"),
            Truth({f"files/{path}": body for path, body in bodies(repo).items()}, "sha256"),
            Missing(HttpRef(f"{server.url}/bad/SHA256SUMS"), Untrusted),
            SOME_FILE,
        )
    assert all(file.size == repo.files[file.path[6:]].size for file in listing.files)
    assert listing.notes == ()


async def test_file_conforms_on_a_folder(repo: HubRepo, tmp_path: Path) -> None:
    os.symlink("config.json", repo.plain / "linked.json")
    try:
        listing = await check_source(
            FileSource(),
            FileRef(str(repo.plain)),
            Truth({**bodies(repo), "linked.json": bodies(repo)["config.json"]}, "none"),
            Missing(FileRef(str(tmp_path / "absent")), NotFound),
            SOME_REPO,
        )
    finally:
        (repo.plain / "linked.json").unlink()
    assert all(file.size is not None for file in listing.files)


async def test_file_conforms_on_one_file(repo: HubRepo, tmp_path: Path) -> None:
    path = repo.plain / "sub dir" / "vocäb #1.txt"
    await check_source(
        FileSource(),
        FileRef(str(path)),
        Truth({path.name: path.read_bytes()}, "none"),
        Missing(FileRef(str(tmp_path / "absent")), NotFound),
        SOME_REPO,
    )


@pytest.mark.slow
async def test_kubo_conforms(tmp_path: Path) -> None:
    small = {"a.txt": b"a", "sub/empty": b"", "sub/one": some_bytes(1 << 20, b"one")}
    large = some_bytes((3 << 20) + 7, b"large")
    for path, body in {**{f"d/{path}": body for path, body in small.items()}, "l": large}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(body)
    repo = tmp_path / "repo"
    repo.mkdir()
    missing = Missing(CidRef(cids.dagpb_cid(bytes(32))), NotFound)
    with kubo_daemon(repo, None, gateway=True, profile="unixfs-v1-2025") as kubo:
        place = find_kubo(str(repo))
        assert place is not None
        folder, file = (CidRef(cids.parse_cid(kubo.add(tmp_path / name))) for name in ("d", "l"))
        source = KuboSource(place)
        listing = await check_source(source, folder, Truth(small, "sha256"), missing, SOME_FILE)
        assert not listing.mutable
        truth = Truth({cids.format_cid(file.cid): large}, "none")
        (only,) = (await check_source(source, file, truth, missing, SOME_FILE)).files
        assert (only.root, only.block_map) == (file.cid, block_hashes(large))


@pytest.mark.parametrize(
    ("started", "versions", "digests"),
    [
        *((buckets.minio, *more) for more in product([False, True], ["none", "sha256"])),
        (swift, False, "none"),
    ],
)
async def test_s3_conforms(
    repo: HubRepo,
    tmp_path: Path,
    started: Callable[[Path], AbstractContextManager[S3Server]],
    versions: bool,
    digests: str,
) -> None:
    files = bodies(repo)
    with started(tmp_path) as server:
        s3 = server.bucket("models")
        if versions:
            enabled = {"Status": "Enabled"}
            s3.put_bucket_versioning(Bucket="models", VersioningConfiguration=enabled)
        sums = {"ChecksumAlgorithm": "SHA256"} if digests == "sha256" else {}
        for path, body in files.items():
            s3.put_object(Bucket="models", Key=f"demo/model/{path}", Body=body, **sums)
        source = S3Source(run_in_thread, S3Options())
        listing = await check_source(
            source,
            S3Ref("models", "demo/model"),
            Truth(files, digests),
            Missing(S3Ref("models", "demo/absent"), NotFound),
            SOME_FILE,
            Credentials(aws=AwsLogin(server.user, server.password, endpoint_url=server.url)),
        )
    assert listing.endpoint == server.url
    assert listing.gated
    assert all(file.size == len(files[file.path]) for file in listing.files)


@pytest.mark.parametrize("digests", ["none", "sha256"])
async def test_gcs_conforms_on_fake_gcs_server(repo: HubRepo, tmp_path: Path, digests: str) -> None:
    files = bodies(repo)
    with fake_gcs(tmp_path) as server:
        server.bucket("models")
        for path, body in files.items():
            ours = {"p2pcache-sha256": hashlib.sha256(body).hexdigest()}
            server.put("models", f"demo/model/{path}", body, ours if digests == "sha256" else None)
        listing = await check_source(
            GcsSource(run_in_thread, GcsOptions(endpoint=server.url, anonymous=True)),
            GcsRef("models", "demo/model"),
            Truth(files, digests),
            Missing(GcsRef("models", "demo/absent"), NotFound),
            SOME_FILE,
        )
    assert listing.endpoint == server.url
    assert not listing.gated
    assert all(file.size == len(files[file.path]) for file in listing.files)


@pytest.mark.parametrize("digests", ["none", "sha256"])
async def test_azure_conforms_on_azurite(repo: HubRepo, tmp_path: Path, digests: str) -> None:
    files = bodies(repo)
    with azurite(tmp_path) as server:
        server.container("models")
        for path, body in files.items():
            ours = {"p2pcache_sha256": hashlib.sha256(body).hexdigest()}
            server.put("models", f"demo/model/{path}", body, ours if digests == "sha256" else None)
        listing = await check_source(
            AzureSource(run_in_thread, AzureOptions(endpoint=f"{server.url}/{{account}}")),
            AzureRef(ACCOUNT, "models", "demo/model"),
            Truth(files, digests),
            Missing(AzureRef(ACCOUNT, "models", "demo/absent"), NotFound),
            SOME_FILE,
            Credentials(azure=AzureLogin(ACCOUNT, KEY)),
        )
    assert listing.endpoint == f"{server.url}/{ACCOUNT}"
    assert listing.gated
    assert all(file.size == len(files[file.path]) for file in listing.files)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["open", "login", "tls"])
async def test_registries_conform(cert: ServerCert, tmp_path: Path, kind: str) -> None:
    files = {"a.txt": b"a", "sub/empty": b"", "sub/large": some_bytes((1 << 20) + 7, b"large")}
    for path, body in files.items():
        (tmp_path / "f" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / path).write_bytes(body)
    tls = cert if kind == "tls" else None
    with registries.registry(tmp_path / "registry", login=kind == "login", tls=tls) as there:
        options = OciOptions(
            ca_file=None if tls is None else str(cert.ca_file),
            insecure=frozenset() if tls else frozenset({"loopback"}),
        )
        digest = there.push_files("acme/model:v1", tmp_path / "f", *there.client_tls(tls))
        login = (
            RegistryLogin(there.host, registries.USER, registries.PASSWORD)
            if kind == "login"
            else None
        )
        for ref in ("acme/model:v1?layout=files", f"acme/model@{digest}?layout=files"):
            listing = await check_source(
                OciSource(options),
                parse_ref(f"oci://{there.host}/{ref}"),
                Truth(files, "sha256"),
                Missing(parse_ref(f"oci://{there.host}/acme/model:v2"), NotFound),
                SOME_FILE,
                Credentials(registry=login),
            )
            assert listing.immutable == digest
            assert listing.mutable == ("@" not in ref)
            assert listing.gated == listing.credential_used == (kind == "login")

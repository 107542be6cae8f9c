"""scripts/bench s3: one object of a MinIO on this machine, tmpfs to tmpfs, plain HTTP.

Whole processes from start to exit, the agent running. What each gives for its time is not the same:

    p2pcache               sha2-256 of the whole, of what the bucket says where it says it; kept
                           durably (fsync), also what arrived before a crash
    boto3, obstore, s5cmd  the length alone; nothing is synced; what was interrupted begins again
    hf-cache-sync          sha2-256 of the whole; nothing is synced; begins again
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import measure as gauge
from scripts.bench_support import (
    GIB,
    MIB,
    P2PCACHE,
    Agent,
    Options,
    Row,
    agent,
    at_least,
    at_most,
    cli,
    environment,
    info,
    on_tmpfs,
    progress,
)
from scripts.race import Contestant, Lap, Result, command, figures, ours, race, random_file
from tests.support.building import go_program, python_with
from tests.support.minio import PASSWORD, REGION, USER, Minio, minio

if TYPE_CHECKING:
    from collections.abc import Mapping

BUCKET, KEY, NAMED_KEY = "bench", "plain/model.bin", "named/model.bin"
REPO, REVISION = "bench/model", "c0ffee" + 34 * "0"
BOTO3, HF_CACHE_SYNC = "boto3 download_file", "hf-cache-sync pull"
OURS, OURS_NAMED = "p2pcache", "p2pcache, an object with its sha256"
CHECKED = "s5cmd, then openssl sha256"
PUSH, UPLOAD = "p2pcache push", "boto3 upload_file"
FASTEST_OF = (BOTO3, "obstore", "s5cmd", HF_CACHE_SYNC)
_BOTO3 = """
import sys, boto3
from botocore.config import Config
boto3.client("s3", config=Config(s3={"addressing_style": "path"})).download_file(*sys.argv[1:4])
"""
_UPLOAD = """
import sys, boto3
from botocore.config import Config
client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
client.upload_file(*sys.argv[1:4], ExtraArgs={"ChecksumAlgorithm": "SHA256"})
"""
_OBSTORE = """
import os, sys, obstore
from obstore.store import S3Store
store = S3Store(
    sys.argv[1], endpoint=os.environ["AWS_ENDPOINT_URL"], region=os.environ["AWS_REGION"],
    access_key_id=os.environ["AWS_ACCESS_KEY_ID"], virtual_hosted_style_request=False,
    secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"], client_options={"allow_http": True},
)
with open(sys.argv[3], "wb") as file:
    for part in obstore.get(store, sys.argv[2]).stream(min_chunk_size=8 << 20):
        file.write(part)
"""
_SYNC = "from hf_cache_sync.cli import cli; cli()"


def _fill(server: Minio, folder: Path, size: int) -> str:
    """The object without and with its sha256, as boto3 uploads it; its sha256."""
    path = folder / "given.bin"
    random_file(path, size)
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    s3 = server.bucket(BUCKET)
    s3.upload_file(str(path), BUCKET, KEY)
    named = {"Metadata": {"p2pcache-sha256": sha256}}
    s3.upload_file(str(path), BUCKET, NAMED_KEY, ExtraArgs=named)
    path.unlink()
    return sha256


def _hub(folder: Path) -> Path:
    return folder / "models--bench--model"


def _fill_cache_sync(
    python: Path, env: Mapping[str, str], folder: Path, server: Minio, sha256: str
) -> None:
    """A repository in the bucket, put there by hf-cache-sync's own push out of a cache."""
    hub = _hub(folder / "pushed")
    for part in ("blobs", "refs", f"snapshots/{REVISION}"):
        (hub / part).mkdir(parents=True)
    server.client().download_file(BUCKET, KEY, str(hub / "blobs" / sha256))
    (hub / "refs" / "main").write_text(REVISION)
    link = hub / "snapshots" / REVISION / "model.bin"
    link.symlink_to(Path("../..") / "blobs" / sha256)
    gauge.run(
        [str(python), "-c", _SYNC, "--config", str(_config(folder, "pushed", server)), "push"], env
    )
    shutil.rmtree(folder / "pushed")


def _config(folder: Path, cache: str, server: Minio) -> Path:
    path = folder / f"{cache}.yaml"
    path.write_text(
        f"storage:\n  endpoint: {server.url}\n  bucket: {BUCKET}\n  region: {REGION}\n"
        f"cache:\n  hf_cache_dir: {folder / cache}\nteam:\n  prefix: sync\n"
    )
    return path


def _others(
    folder: Path, server: Minio, env: Mapping[str, str], size: int, sha256: str
) -> dict[str, Contestant]:
    s5cmd = go_program("s5cmd", "github.com/peak/s5cmd/v2", "v2.3.0")
    obstore = python_with("obstore-0.9.2", "obstore==0.9.2")
    sync = python_with("hf-cache-sync-0.1.0", "hf-cache-sync==0.1.0")
    _fill_cache_sync(sync, env, folder, server, sha256)
    config = str(_config(folder, "pulled", server))
    out = folder / "out.bin"
    copy = [str(s5cmd), "--endpoint-url", server.url, "cp", f"s3://{BUCKET}/{KEY}", str(out)]
    check = ["sh", "-c", '"$@" && openssl dgst -sha256 "$0"', str(out), *copy]
    pulled = _hub(folder / "pulled")
    found: dict[str, Contestant] = {
        name: command(argv, env, lambda: out, size, out.unlink)
        for name, argv in {
            BOTO3: [sys.executable, "-c", _BOTO3, BUCKET, KEY, str(out)],
            "obstore": [str(obstore), "-c", _OBSTORE, BUCKET, KEY, str(out)],
            "s5cmd": copy,
            CHECKED: check,
        }.items()
    }
    found[HF_CACHE_SYNC] = command(
        [str(sync), "-c", _SYNC, "--config", config, "pull", REPO], env,
        lambda: pulled / "blobs" / sha256, size, lambda: shutil.rmtree(folder / "pulled"),
    )  # fmt: skip
    return found


def _pushes(
    folder: Path, server: Minio, env: Mapping[str, str], running: Agent, size: int
) -> dict[str, Contestant]:
    """What is in the agent's store, and the same bytes as a file; each into an empty folder."""
    path = folder / "give" / "model.bin"
    random_file(path, size)
    given = cli(running.env, "push", str(path))
    path.unlink()
    random_file(path, size)  # of its own, whatever the store did with the first
    s3 = server.client()

    def push() -> Lap:
        before = gauge.cpu_s(running.pid)
        ref = f"sha256:{given['sha256']}"
        done = gauge.run(
            [P2PCACHE, "push", ref, f"s3://{BUCKET}/given", "--allow-gated"], running.env
        )
        spent = gauge.cpu_s(running.pid) - before + done.cpu_s
        clear("given/")
        return Lap(done.seconds, spent)

    def upload() -> Lap:
        argv = [sys.executable, "-c", _UPLOAD, str(path), BUCKET, "uploaded/model.bin"]
        done = gauge.run(argv, env)
        clear("uploaded/")
        return Lap(done.seconds, done.cpu_s)

    def clear(prefix: str) -> None:
        found = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
        if size not in {one["Size"] for one in found}:
            raise RuntimeError(f"nothing of that size was put into {prefix}")
        for one in found:
            s3.delete_object(Bucket=BUCKET, Key=one["Key"])

    return {PUSH: push, UPLOAD: upload}


def _rows(results: dict[str, Result], size: int) -> list[Row]:
    mine = results[OURS].seconds
    fastest = min(results[name].seconds for name in FASTEST_OF)
    checked = results[CHECKED].seconds
    return [
        *figures(results, size),
        at_least("pull: times as fast as boto3 download_file", results[BOTO3].seconds / mine, 2),
        at_least("pull: times as fast as hf-cache-sync", results[HF_CACHE_SYNC].seconds / mine, 3),
        at_most("pull: time over that of the fastest (unverified)", mine / fastest, 1.05),
        info("pull: time over that of s5cmd, then openssl sha256", mine / checked),
        at_least(
            "push: times as fast as boto3 upload_file",
            results[UPLOAD].seconds / results[PUSH].seconds,
            1,
        ),
    ]


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    size, rounds = (256 * MIB, 3) if options.quick else (GIB, 5)
    with on_tmpfs(9 * size + 256 * MIB) as folder, minio(folder / "minio") as server:
        progress("filling the bucket")
        sha256 = _fill(server, folder, size)
        login = {
            "AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_ENDPOINT_URL": server.url, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
        }  # fmt: skip
        env = environment(**login)
        others = _others(folder, server, env, size, sha256)
        with agent(folder / "home", **login) as running:
            mine = {
                OURS: ours(running, f"s3://{BUCKET}/{KEY}", size),
                OURS_NAMED: ours(running, f"s3://{BUCKET}/{NAMED_KEY}", size),
            }
            results = race({**mine, **others}, rounds, server.pid)
            pushes = _pushes(folder, server, env, running, size)
            results |= race(pushes, rounds, server.pid)
    return _rows(results, size)

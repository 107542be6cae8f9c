"""Stores that fall silent in the middle of a push: it ends, says so, and the next one goes on.

The real servers, behind a proxy that takes no bytes, or all of them without an answer to its end.
What sends has less patience here than in an agent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2pcache.content.cloud_refs import AzureRef, GcsRef
from p2pcache.content.s3_refs import S3Ref
from p2pcache.destinations.objects.azure import AzureStore
from p2pcache.destinations.objects.gcs import GcsStore
from p2pcache.destinations.objects.push import ObjectsDestination, PushOptions
from p2pcache.destinations.objects.s3 import S3Store
from p2pcache.destinations.sessions import Sessions
from p2pcache.destinations.uploads import Uploads
from p2pcache.errors import P2PCacheError, Unavailable, Untrusted
from p2pcache.lanes.send_part import PartOrder, PartReport, send_part
from p2pcache.sources.azure.options import AzureOptions
from p2pcache.sources.gcs.options import GcsOptions
from p2pcache.sources.port import AwsLogin, AzureLogin, GcsLogin
from p2pcache.sources.s3.options import S3Options
from tests.faults.test_push_registries import content_of
from tests.support.azurite import ACCOUNT, KEY
from tests.support.blobs import MIB
from tests.support.clouds import TOKEN, Azure, Gcs, running_cloud
from tests.support.minio import minio
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import Ask, Reply, s3_proxy
from tests.support.s3_server import S3Server
from tests.support.swift import swift

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pcache.destinations.objects.port import ObjectStore
    from p2pcache.destinations.port import Content

run_in_thread: Any = trio.to_thread.run_sync
BODY = some_bytes(17 * MIB, b"silence")  # more than a part


@dataclass(frozen=True)
class There:
    """One of the servers, as all of them are asked about a bucket."""

    cloud: S3Server | Gcs | Azure

    def make(self, bucket: str) -> None:
        if isinstance(self.cloud, S3Server):
            self.cloud.bucket(bucket)
        else:
            self.cloud.fill(bucket, {})

    def visible(self, bucket: str) -> dict[str, bytes]:
        """The objects of it, but for our own."""
        if isinstance(self.cloud, S3Server):
            s3 = self.cloud.client()
            rows = s3.list_objects_v2(Bucket=bucket).get("Contents", ())
            keys = [row["Key"] for row in rows if ".p2pcache" not in row["Key"]]
            return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
        keys = [key for key in self.cloud.keys(bucket) if ".p2pcache" not in key]
        return {key: self.cloud.read(bucket, key) for key in keys}

    def store(self, url: str, bucket: str, folder: Path, patience_s: float) -> ObjectStore:
        """Its folder `m`, asked at `url`."""
        uploads = Uploads(partial(in_a_thread, patience_s), None, 4)
        if isinstance(self.cloud, Gcs):
            google = GcsLogin(token=TOKEN, endpoint_url=url)
            sessions = Sessions(folder / "uploads")
            ref = GcsRef(bucket, "m")
            return GcsStore(ref, GcsOptions(), google, run_in_thread, uploads, sessions)
        if isinstance(self.cloud, Azure):
            azure = AzureLogin(ACCOUNT, key=KEY, endpoint_url=f"{url}/{ACCOUNT}")
            place = AzureRef(ACCOUNT, bucket, "m")
            return AzureStore(place, AzureOptions(), azure, run_in_thread, uploads)
        aws = AwsLogin(self.cloud.user, self.cloud.password, endpoint_url=url)
        return S3Store(S3Ref(bucket, "m"), S3Options(), aws, run_in_thread, uploads)


@pytest.fixture(
    scope="module", params=["minio", pytest.param("swift", marks=pytest.mark.slow), "gcs", "azure"]
)
def there(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[There]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in ("minio", "swift"):
        with (minio if request.param == "minio" else swift)(folder) as server:
            yield There(server)
    else:
        with running_cloud(request.param, folder) as cloud:
            yield There(cloud)


async def in_a_thread(patience_s: float, order: PartOrder) -> PartReport:
    limits = replace(order.limits, connect_timeout_s=patience_s, no_progress_s=patience_s)
    return await trio.to_thread.run_sync(send_part, replace(order, limits=limits))


async def push(store: ObjectStore, content: Content) -> None:
    one = ObjectsDestination(store, lambda: 0.5, PushOptions(tries=2, pause_s=0.1))
    try:
        await one.send(content, await one.plan(content), lambda _: None)
    finally:
        await one.aclose()


def is_part(ask: Ask) -> bool:
    parts = "partNumber" in ask.query or "upload_id" in ask.query
    return ask.writes and (parts or ask.query.get("comp") == ["block"])


SILENCES: dict[str, tuple[Reply, type[P2PCacheError], str]] = {
    "takes no bytes": (Reply(wait_s=15.0, cut_body=0), Unavailable, "no progress in time"),
    "never answers": (Reply(mute_s=15.0), Unavailable, "no progress in time"),
    "drips": (Reply(mute_s=15.0, drips=True), Untrusted, "without end"),
}


@pytest.mark.parametrize("silence", SILENCES)
async def test_a_store_that_falls_silent_is_given_up_and_the_next_push_goes_on(
    there: There, tmp_path: Path, silence: str
) -> None:
    reply, error, words = SILENCES[silence]
    bucket = f"silent-{list(SILENCES).index(silence)}"
    there.make(bucket)
    content = content_of(tmp_path, BODY)
    with s3_proxy(
        there.cloud if isinstance(there.cloud, S3Server) else there.cloud.server
    ) as proxy:
        proxy.fault = lambda ask: reply if is_part(ask) else None
        with trio.fail_after(40), pytest.raises(P2PCacheError, match=words) as seen:
            await push(there.store(proxy.url, bucket, tmp_path, patience_s=1.0), content)
        assert type(seen.value) is error
        assert there.visible(bucket) == {}
        proxy.fault = lambda ask: None
        with trio.fail_after(40):
            await push(there.store(proxy.url, bucket, tmp_path, patience_s=20.0), content)
    assert there.visible(bucket) == {"m/model.bin": BODY}

"""Google's store and Azure's, for tests that hold for both: fake-gcs-server and Azurite."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache import errors
from tests.support.azurite import ACCOUNT, KEY, Azurite, azurite
from tests.support.fake_gcs import FakeGcs, fake_gcs
from tests.support.s3_proxy import Ask, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

OFFLINE = {"NO_GCE_CHECK": "true"}  # no test asks 169.254.169.254
TOKEN = "ya29.a-token-of-google"  # fake-gcs-server takes any; the proxy is its doorkeeper


@dataclass(frozen=True)
class Gcs:
    server: FakeGcs
    mixed = errors.NotFound  # its address names a generation, which is not there any more

    def fill(self, bucket: str, files: Mapping[str, bytes]) -> None:
        self.server.bucket(bucket, files)

    def put(
        self, bucket: str, key: str, body: bytes, metadata: Mapping[str, str] | None = None
    ) -> None:
        self.server.put(bucket, key, body, metadata)

    def ref(self, path: str) -> str:
        return f"gs://{path}"

    def asks(self, url: str) -> dict[str, str]:
        return {"gcs_token": TOKEN, "gcs_endpoint_url": url}

    def wrong(self, url: str, secret: str) -> dict[str, str]:
        return {"gcs_token": secret, "gcs_endpoint_url": url}

    def read(self, bucket: str, key: str) -> bytes:
        return self.server.read(bucket, key)

    def keys(self, bucket: str) -> list[str]:
        return self.server.keys(bucket)

    def sha256(self, bucket: str, key: str) -> str:
        return str(self.server.about(bucket, key)["metadata"]["p2pcache-sha256"])

    def staged(self, bucket: str, key: str) -> int:
        """Its parts come one by one: all before the last one are there."""
        return 2

    def door(self, ask: Ask) -> Reply | None:
        session = "upload_id" in ask.query  # it is a login of its own
        good = session or ask.headers.get("authorization") == f"Bearer {TOKEN}"
        return None if good else Reply(401)


@dataclass(frozen=True)
class Azure:
    server: Azurite
    mixed = errors.Untrusted

    def fill(self, bucket: str, files: Mapping[str, bytes]) -> None:
        self.server.container(bucket, files)

    def put(
        self, bucket: str, key: str, body: bytes, metadata: Mapping[str, str] | None = None
    ) -> None:
        told = {name.replace("-", "_"): value for name, value in (metadata or {}).items()}
        self.server.put(bucket, key, body, told)

    def ref(self, path: str) -> str:
        return f"az://{ACCOUNT}/{path}"

    def asks(self, url: str) -> dict[str, str]:
        endpoint = f"{url}/{ACCOUNT}"
        return {"azure_account": ACCOUNT, "azure_key": KEY, "azure_endpoint_url": endpoint}

    def wrong(self, url: str, secret: str) -> dict[str, str]:
        return self.asks(url) | {"azure_key": secret}

    def staged(self, bucket: str, key: str) -> int:
        """How many parts wait to become a blob."""
        return len(self.server.staged(bucket, key))

    def door(self, ask: Ask) -> Reply | None:
        return None

    def read(self, bucket: str, key: str) -> bytes:
        return self.server.read(bucket, key)

    def keys(self, bucket: str) -> list[str]:
        return self.server.keys(bucket)

    def sha256(self, bucket: str, key: str) -> str:
        return self.server.sha256(bucket, key)


@contextlib.contextmanager
def running_cloud(name: str, folder: Path) -> Iterator[Gcs | Azure]:
    """Either of them, until the block ends."""
    if name == "gcs":
        with fake_gcs(folder) as gcs:
            yield Gcs(gcs)
    else:
        with azurite(folder) as azure:
            yield Azure(azure)

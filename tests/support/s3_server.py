"""What tests know of a server that speaks S3, whoever wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class S3Server:
    """A server that runs, with the login of its administrator. `closing` ends with it."""

    url: str
    port: int
    log: Path
    closing: contextlib.ExitStack
    ca_file: str | None
    user: str
    password: str
    region: str

    @property
    def aws(self) -> dict[str, str]:
        """What the caller's environment would bring to `get`."""
        return {
            "aws_access_key_id": self.user,
            "aws_secret_access_key": self.password,
            "aws_endpoint_url": self.url,
        }

    def client(self, service: str = "s3", user: str | None = None, secret: str = "") -> Any:
        """boto3, to fill it: unmodified, as anybody would."""
        client = boto3.client(
            service, endpoint_url=self.url, aws_access_key_id=user or self.user,
            aws_secret_access_key=secret or self.password, region_name=self.region,
            verify=self.ca_file, config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        self.closing.callback(client.close)
        return client

    def bucket(self, name: str, files: Mapping[str, bytes] | None = None) -> Any:
        """A new bucket with these objects, and the client."""
        s3 = self.client()
        s3.create_bucket(Bucket=name)
        for key, body in (files or {}).items():
            s3.put_object(Bucket=name, Key=key, Body=body)
        return s3

"""A registry out of scripted answers, for the faults that a real one cannot be made to have."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pcache.sources.oci.manifest import OCI_MANIFEST
from tests.support.faulty_http import ranged, status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.faulty_http import Answer, Exchange, FaultyServer

USER, PASSWORD = "tester", "a-secret-of-the-registry"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def descriptor(body: bytes, media_type: str = "a/b", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(body), "size": len(body), **more}


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """The manifest that oras would push for these files."""
    title = "org.opencontainers.image.title"
    layers = [descriptor(body, annotations={title: path}) for path, body in files.items()]
    said = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(b"{}", "application/vnd.oci.empty.v1+json"), "layers": layers,
    }  # fmt: skip
    return json.dumps(said).encode()


@dataclass
class Scripted:
    """One repository, `acme/m`, whose tag `v1` has these files."""

    server: FaultyServer
    files: dict[str, bytes]
    name: str = "acme/m"
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.body = manifest_of(self.files)
        self.publish(self.body)
        for body in (b"{}", *self.files.values()):
            self.server.on(self.blob(body), ranged(body))
        self.server.on("/v2/", status(200))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def ref(self) -> str:
        return f"oci://{self.host}/{self.name}:v1"

    def manifest(self, reference: str = "v1") -> str:
        return f"/v2/{self.name}/manifests/{reference}"

    def blob(self, body: bytes) -> str:
        return f"/v2/{self.name}/blobs/{sha256(body)}"

    def publish(self, body: bytes, kind: str = OCI_MANIFEST, **headers: object) -> None:
        answer = status(200, body, Content_Type=kind, **headers)
        self.server.on(self.manifest(), answer)
        self.server.on(self.manifest(sha256(body)), answer)

    def behind(self, challenge: str, accepts: Any, inner: Answer) -> Answer:
        """`inner` for requests whose Authorization is accepted; else 401 with a challenge."""

        def answer(ask: Exchange) -> bool:
            if accepts(ask.headers.get("authorization")):
                return inner(ask)
            return status(401, WWW_Authenticate=challenge)(ask)

        return answer

    def lock(self, challenge: str, accepts: Any) -> None:
        """All of it behind a challenge."""
        for path, inner in list(self.server.answers.items()):
            if path.startswith("/v2/"):
                self.server.on(path, self.behind(challenge, accepts, inner))

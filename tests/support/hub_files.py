"""Files as a Hub lists them and a store holds them: verified bytes under a sha256, mode 0444."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from p2pcache.store.hfcache.write import LinkedFile
from tests.support.hub_repo import git_blob_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS = (".safetensors", ".bin")
CONTENT: Mapping[str, bytes] = {
    "config.json": b'{"model_type": "demo"}\n',
    "empty.txt": b"",
    "same as config.json": b'{"model_type": "demo"}\n',
    "sub dir/deep/vocäb #1.txt": b"a\nb\n",
    "🤗/🚀 emoji.json": b"{}\n",
    "model.safetensors": random.Random(1).randbytes(1_500_000),
    "weights/part-2.safetensors": random.Random(2).randbytes(70_001),
}


def stored(store: Path, content: Mapping[str, bytes] = CONTENT) -> list[LinkedFile]:
    """Put every file into `store` and give what to materialise."""
    store.mkdir(parents=True, exist_ok=True)
    files = []
    for path, data in content.items():
        sha256 = hashlib.sha256(data).hexdigest()
        blob = store / sha256
        if not blob.exists():
            blob.write_bytes(data)
            blob.chmod(0o444)
        lfs = path.endswith(LFS)
        files.append(LinkedFile(path, sha256 if lfs else git_blob_id(data), len(data), blob))
    return files

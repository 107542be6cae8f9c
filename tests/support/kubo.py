"""Kubo, the IPFS of other people, as the oracle of our roots: offline, in a private repository.

No daemon is started and nothing is asked of a network.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.building import CACHE, go_build, go_module, made

VERSION = "v0.43.0"
COMMAND_S = 120.0  # `add --only-hash` of 1 GiB takes 3 s here


_CACHE = CACHE / f"kubo-{VERSION}"


def ipfs_binary() -> Path:
    """The `ipfs` command, built when it is missing."""
    return made(_CACHE / "ipfs", lambda draft: go_build(_source(), draft, "./cmd/ipfs"))


def go_car_binary() -> Path:
    """`go_car/main.go` with the go-car that Kubo is built with, whose sums Kubo's go.sum has."""
    program = Path(__file__).with_name("go_car") / "main.go"
    digest = hashlib.sha256(program.read_bytes()).hexdigest()[:12]

    def build(draft: Path) -> None:
        folder = draft.parent / "module"
        folder.mkdir()
        for name in ("go.mod", "go.sum"):
            (folder / name).write_bytes((_source() / name).read_bytes())
        (folder / "main.go").write_bytes(program.read_bytes())
        go_build(folder, draft, mod="mod")

    return made(_CACHE / f"go-car-{digest}", build)


def _source() -> Path:
    return go_module("github.com/ipfs/kubo", VERSION)


@dataclass(frozen=True)
class Kubo:
    """A repository of its own under the profile unixfs-v1-2025. `path` is its IPFS_PATH."""

    path: Path

    @classmethod
    def init(cls, path: Path, *, profile: str = "unixfs-v1-2025") -> Kubo:
        """Make the repository, with no content in it."""
        kubo = cls(path)
        kubo._run("init", "-e", f"--profile={profile}")
        return kubo

    def only_hash(self, content: Path | bytes) -> str:
        """The root of a file, or of bytes on stdin, as text; nothing is stored."""
        if isinstance(content, bytes):
            return self._run("add", "--only-hash", "-Q", stdin=content)
        return self._run("add", "--only-hash", "-Q", str(content))

    def only_hash_folder(self, path: Path) -> str:
        """The root of a folder, hidden files too; nothing is stored."""
        return self._run("add", "--only-hash", "-r", "-Q", "-H", str(path))

    def add(self, content: Path | bytes) -> str:
        """The root of a file or of bytes, stored."""
        if isinstance(content, bytes):
            return self._run("add", "-Q", stdin=content)
        return self._run("add", "-Q", str(content))

    def add_folder(self, path: Path) -> str:
        """The root of a folder, hidden files too, stored."""
        return self._run("add", "-r", "-Q", "-H", str(path))

    def add_with(self, content: Path | bytes, *options: str) -> str:
        """The root of a file, of bytes on stdin or of a folder, under options of `ipfs add`."""
        if isinstance(content, bytes):
            return self._run("add", "-Q", *options, stdin=content)
        return self._run("add", "-r", "-Q", "-H", *options, str(content))

    def import_car(self, path: Path) -> dict[str, str]:
        """Take in a CAR and pin its roots: what Kubo says of each root, empty when it is pinned."""
        said = self._run("dag", "import", "--enc=json", str(path))
        rows = [json.loads(line) for line in said.splitlines()]
        return {r["Root"]["Cid"]["/"]: r["Root"]["PinErrorMsg"] for r in rows if r.get("Root")}

    def export_car(self, root: str, path: Path) -> Path:
        """Write what is below a root as a CAR."""
        path.write_bytes(self._run_bytes("dag", "export", "--progress=false", root))
        return path

    def cat(self, path: str) -> bytes:
        """The bytes of `root/path`."""
        return self._run_bytes("cat", path)

    def dag_get(self, root: str) -> dict[str, object]:
        """A DAG-CBOR block as JSON."""
        found: dict[str, object] = json.loads(self._run("dag", "get", root))
        return found

    def put_dag(self, value: object) -> str:
        """The CID of a value, stored as DAG-CBOR."""
        return self._run("dag", "put", stdin=json.dumps(value).encode())

    def dag_size(self, root: str) -> int:
        """CumulativeSize of a stored root: bytes of all its blocks, repeats counted."""
        return int(self._run("files", "stat", "--format=<cumulsize>", f"/ipfs/{root}"))

    def block_bytes(self, root: str) -> int:
        """Length of the one block of a stored root."""
        return int(self._run("block", "stat", root).split("Size:")[1])

    def _run(self, *args: str, stdin: bytes = b"") -> str:
        return self._run_bytes(*args, stdin=stdin).decode().strip()

    def _run_bytes(self, *args: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(
            [ipfs_binary(), "--offline", *args],
            input=stdin, check=False, capture_output=True, timeout=COMMAND_S,
            env={"IPFS_PATH": str(self.path), "HOME": str(self.path), "IPFS_TELEMETRY": "off"},
        )  # fmt: skip
        assert done.returncode == 0, (args, done.stderr.decode())
        return done.stdout

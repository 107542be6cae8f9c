"""truss-transfer 0.0.44 itself, in an environment of its own, with the folders that it insists on.

It looks for pointer files at paths of the file system's root alone. So each call runs in a root of
its own: a folder that shows the machine's, in a mount namespace, with these files added.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.building import tool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CALL_S = 60.0
_ENTER = """
set -e
root=$1; shift
for name in $(ls -A /); do
  [ -d "/$name" ] && [ ! -L "/$name" ] && [ ! -e "$root/$name" ] || continue
  mkdir "$root/$name" && mount --rbind "/$name" "$root/$name"
done
for name in bin lib lib64 sbin; do
  [ ! -L "/$name" ] || [ -e "$root/$name" ] || cp -P "/$name" "$root/$name"
done
exec chroot "$root" "$@"
"""
_RESOLVE = "import sys, truss_transfer; truss_transfer.lazy_data_resolve(sys.argv[1])"


@dataclass(frozen=True)
class Resolved:
    returncode: int
    log: str


def truss_resolve(pointers: str, to: Path, scratch: Path, env: Mapping[str, str]) -> Resolved:
    """Its `lazy_data_resolve(to)`, which finds `pointers` at /static-bptr."""
    if sys.platform != "linux" or subprocess.run(_namespace("true"), check=False).returncode:
        pytest.skip("no mount namespaces here")
    root = scratch / "root"
    (root / "static-bptr").mkdir(parents=True)
    (root / "static-bptr" / "static-bptr-manifest.json").write_text(pointers)
    command = _namespace(
        "sh", "-c", _ENTER, "sh", str(root), str(tool("truss-transfer")), "-c", _RESOLVE, str(to)
    )
    done = subprocess.run(
        command, check=False, text=True, timeout=CALL_S,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "HOME": str(scratch), **env},
    )  # fmt: skip
    return Resolved(done.returncode, done.stdout)


def _namespace(*command: str) -> list[str]:
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["-r"]), *command]


def truss_call(code: str) -> object:
    """What an expression over `truss_transfer` is, as JSON."""
    program = f"import json, truss_transfer; print(json.dumps({code}))"
    done = subprocess.run(
        [tool("truss-transfer"), "-c", program], check=True, stdout=subprocess.PIPE, timeout=CALL_S
    )
    return json.loads(done.stdout)

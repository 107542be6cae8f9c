"""OpenStack Swift with its s3api: what S3 is at those who are not AWS and did not copy all of it.

It echoes no checksums and answers 501 to a PUT with If-Match. Four servers on loopback, one copy of
everything, one disk.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import hmac
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.building import python_with
from tests.support.processes import free_port, running
from tests.support.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator

_PINS = Path(__file__).resolve().parents[2] / "scripts" / "pins" / "swift.txt"
RINGS_S = 60.0
USER, PASSWORD, REGION = "test:tester", "testing", "us-east-1"
STORAGE = ("account", "container", "object")
# Its own commands are not where pip wrote that they are: `python_with`.
_SERVE = "import sys; from swift.{module}.server import main; sys.exit(main())"
_RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *servers = sys.argv[1:]
for server in servers:
    name, port = server.split("=")
    ring = RingBuilder(4, 1, 1)  # 16 partitions, one copy, an hour between moves
    place = {"ip": "127.0.0.1", "port": int(port), "device": "disk"}
    ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, **place})
    ring.rebalance()
    ring.get_ring().save(f"{folder}/{name}.ring.gz")
"""
# What a request of the container's owner would do, if there were a memcached to keep tokens in.
_SIGNING_KEY = """
import sys
from swift.common.direct_client import direct_post_container
from swift.common.ring import Ring
from swift.common.utils import set_swift_dir
folder, account, container, key = sys.argv[1:]
set_swift_dir(folder)
part, nodes = Ring(folder, ring_name="container").get_nodes(account, container)
told = {"X-Container-Meta-Temp-URL-Key": key}
direct_post_container(nodes[0], part, account, container, headers=told)
"""
_ACCOUNT = "AUTH_test"
_DEFAULT = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {etc}
devices = {disks}
mount_check = false
log_level = WARNING
recon_cache_path = {etc}
"""
_STORAGE = """\
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
_PROXY = """\
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats tempurl s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
conn_timeout = 10
node_timeout = 30
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:tempurl]
use = egg:swift#tempurl
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
_SWIFT = """\
[swift-hash]
swift_hash_path_suffix = a
swift_hash_path_prefix = b
[storage-policy:0]
name = one
default = yes
"""


def swift_python() -> Path:
    """The Python that has it, installed from pinned packages when it is missing."""
    mark = hashlib.sha256(_PINS.read_bytes()).hexdigest()[:12]
    return python_with(f"swift-{mark}", "--require-hashes", "-r", _PINS)


def signing_key(server: S3Server, container: str, key: str) -> None:
    """Have a container's temporary URLs signed with `key`."""
    etc = server.log.parent / "etc"
    subprocess.run(
        [swift_python(), "-c", _SIGNING_KEY, etc, _ACCOUNT, container, key],
        check=True, timeout=RINGS_S,
    )  # fmt: skip


def temporary_url(server: S3Server, container: str, name: str, key: str, valid_s: int) -> str:
    """An address of Swift's own kind, for one object."""
    path, until = f"/v1/{_ACCOUNT}/{container}/{name}", int(time.time()) + valid_s
    told = hmac.digest(key.encode(), f"GET\n{until}\n{path}".encode(), "sha256").hex()
    return f"{server.url}{path}?temp_url_sig={told}&temp_url_expires={until}"


@contextlib.contextmanager
def swift(folder: Path) -> Iterator[S3Server]:
    """The servers, until the block ends."""
    etc, disks = folder / "etc", folder / "disks"
    etc.mkdir(parents=True)
    (disks / "disk").mkdir(parents=True)
    python = str(swift_python())
    ports = {name: free_port() for name in (*STORAGE, "proxy")}
    (etc / "swift.conf").write_text(_SWIFT)
    for name, port in ports.items():
        common = _DEFAULT.format(port=port, user=getpass.getuser(), etc=etc, disks=disks)
        rest = _PROXY if name == "proxy" else _STORAGE.format(name=name)
        (etc / f"{name}.conf").write_text(common + rest)
    rings = [f"{name}={ports[name]}" for name in STORAGE]
    subprocess.run([python, "-c", _RINGS, etc, *rings], check=True, timeout=RINGS_S)
    log = folder / "swift.log"
    with contextlib.ExitStack() as stack:
        for name, port in ports.items():
            module = "obj" if name == "object" else name
            argv = [python, "-c", _SERVE.format(module=module), str(etc / f"{name}.conf"), "-v"]
            stack.enter_context(
                running(argv, port=port, log=log, env={"HOME": str(folder), "SWIFT_DIR": str(etc)})
            )
        url = f"http://127.0.0.1:{ports['proxy']}"
        yield S3Server(url, ports["proxy"], log, stack, None, USER, PASSWORD, REGION)

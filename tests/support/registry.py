"""The CNCF's registry (distribution), and the clients crane and oras, as others wrote them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.building import go_program
from tests.support.processes import free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.certs import ServerCert

# name: module, version, package. Each is the newest whose checksum Go's database has.
TOOLS = {
    "registry": ("github.com/distribution/distribution/v3", "v3.1.2", "./cmd/registry"),
    "crane": ("github.com/google/go-containerregistry", "v0.22.1", "./cmd/crane"),
    "oras": ("oras.land/oras", "v1.2.3", "./cmd/oras"),
}
COMMAND_S = 120.0
USER, PASSWORD = "tester", "a-secret-of-the-registry"
# bcrypt of PASSWORD: `htpasswd -nbB`, which no machine has to have
_HTPASSWD = "tester:$2b$05$vfceu.oi8t9l0LVk7pdc0OM/CACnCQF0UGX73XABp9WQnF74HzkVC"


def tool(name: str) -> Path:
    """`registry`, `crane` or `oras`, built when it is missing."""
    module, version, package = TOOLS[name]
    return go_program(name, module, version, package)


@dataclass(frozen=True)
class Registry:
    """A registry that runs. `home`: the HOME of its clients, with a login where there is one."""

    port: int
    log: Path
    home: Path
    data: Path
    pid: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path and status of everything that was asked, in order."""
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError):
                said = json.loads(line)
                if said.get("msg", "").startswith("response completed"):
                    status = said["http.response.status"]
                    found.append((said["http.request.method"], said["http.request.uri"], status))
        return found

    def run(self, name: str, *args: object, cwd: Path | None = None) -> str:
        """One command of crane or oras, logged in where the registry wants it; its output."""
        done = subprocess.run(
            [tool(name), *map(str, args)], cwd=cwd, check=False, capture_output=True,
            timeout=COMMAND_S, env={"HOME": str(self.home), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert done.returncode == 0, (args, done.stderr.decode())
        return done.stdout.decode().strip()

    def client_tls(self, tls: ServerCert | None) -> tuple[str, ...]:
        """What oras needs to be told to trust it."""
        return () if tls is None else ("--ca-file", str(tls.ca_file))

    def push_files(self, name: str, folder: Path, *options: str) -> str:
        """`oras push` of all files of a folder; the digest of the manifest."""
        options = options or ("--plain-http",)
        files = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
        where = f"{self.host}/{name}"
        said = self.run("oras", "push", *options, where, *files, cwd=folder)
        return said.rpartition("Digest: ")[2].split()[0]


def docker_config(home: Path, host: str, user: str = USER, password: str = PASSWORD) -> Path:
    """What `docker login` leaves in a HOME; the folder that DOCKER_CONFIG may name."""
    folder = home / ".docker"
    folder.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return folder


@contextlib.contextmanager
def registry(
    folder: Path,
    *,
    login: bool = False,
    tls: ServerCert | None = None,
    auth: dict[str, object] | None = None,
    redirect_to: str | None = None,
) -> Iterator[Registry]:
    """Run one. `login`: it wants USER and PASSWORD (htpasswd); `auth`: that part of its settings;
    `redirect_to`: where its blobs are read, as with a CDN in front of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, data = free_port(), folder / "data"
    settings: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(data)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "of no importance"},
    }
    if tls is not None:
        http = {"certificate": str(tls.cert_file), "key": str(tls.key_file)}
        settings["http"] = {"addr": f"127.0.0.1:{port}", "secret": "none", "tls": http}
    if login:
        passwords = folder / "htpasswd"
        passwords.write_text(_HTPASSWD + "\n")
        auth = {"htpasswd": {"realm": "tests", "path": str(passwords)}}
    if auth is not None:
        settings["auth"] = auth
    if redirect_to is not None:
        settings["middleware"] = {
            "storage": [{"name": "redirect", "options": {"baseurl": redirect_to}}]
        }
    config = folder / "config.yml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    home = folder / "clients"
    home.mkdir(exist_ok=True)
    log = folder / "registry.log"
    env = {"HOME": str(folder), "OTEL_TRACES_EXPORTER": "none"}
    argv = [str(tool("registry")), "serve", str(config)]
    with running(argv, port=port, log=log, env=env) as process:
        there = Registry(port, log, home, data, process.pid)
        if login:
            docker_config(home, there.host)
        yield there

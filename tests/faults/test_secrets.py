"""What opens something is written down nowhere: logins of every kind, through pulls and pushes that
work and that fail, are looked for in all that an agent keeps, says, logs and starts.

A new kind of login belongs into `KINDS`.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from p2pcache import errors
from p2pcache.sources.azure.sign import LIST, signed_query
from tests.support import registry as registries
from tests.support.agents import Agent, running_agent
from tests.support.azurite import ACCOUNT, KEY
from tests.support.cloud_logins import GoogleLogins, google_logins
from tests.support.clouds import OFFLINE, TOKEN, Azure, Gcs, running_cloud
from tests.support.hub_repo import build_repo, lfs, text
from tests.support.hub_stub import GOOD_TOKEN, hub_stub
from tests.support.minio import PASSWORD, USER, Minio, minio
from tests.support.partial_files import some_bytes
from tests.support.proctable import descendants
from tests.support.s3_proxy import Reply, S3Proxy, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BAD = "wJalrXUtnFEMI-planted-"  # begins every login that is wrong
LOOK_S = 0.05


@dataclass(frozen=True)
class Servers:
    """`door`: stands before Google's store, which asks nobody for a login itself."""

    hub: str
    store: Minio
    registry: registries.Registry
    google: GoogleLogins
    door: S3Proxy
    azure: Azure


@dataclass
class World:
    """The servers, an agent, and what is to be found nowhere. `said`: all that anybody was told."""

    agent: Agent
    folder: Path
    at: Servers
    said: list[Any] = field(default_factory=list)
    secrets: set[str] = field(default_factory=lambda: {BAD})

    def pull(self, ref: str, **options: Any) -> None:
        with self.agent.client() as client:
            self.said.append(client.resolve(ref, **options))
            self.said.append(client.pull(ref, hf_cache=False, **options))
        self.look(ref)

    def push(self, dest: str, **options: Any) -> None:
        what = self.folder / "what"
        what.mkdir(exist_ok=True)
        (what / "w.bin").write_bytes(os.urandom(70_000))
        with self.agent.client() as client:
            self.said.append(client.push(what, dest, **options))
        self.look("last")

    def fails(self, call: Callable[..., None], *args: Any, **options: Any) -> None:
        with pytest.raises(errors.P2PCacheError) as seen:
            call(*args, **options)
        self.said.append((repr(seen.value), str(seen.value), seen.value.hint))
        self.look("last")

    def look(self, ref: str) -> None:
        with self.agent.client() as client:
            with suppress(errors.NotFound):
                self.said.append(client.why(ref))
            self.said += [client.status(), client.ls(), client.origins(), client.doctor()]
            self.said.append(client.config())


def of_hub(world: World) -> None:
    """HF tokens."""
    ours = {"hf_endpoint": world.at.hub}
    world.secrets.add(GOOD_TOKEN)
    world.pull("hf://org/gated", credentials={**ours, "hf_token": GOOD_TOKEN})
    wrong = {**ours, "hf_token": f"{BAD}hf"}
    world.fails(world.pull, "hf://org/gated", credentials=wrong, refresh=True)


def of_s3(world: World) -> None:
    """AWS keys and a session."""
    world.secrets.add(PASSWORD)
    login = world.at.store.aws
    world.pull("s3://models/m", credentials=login)
    world.push("s3://models/pushed", to_credentials=login)
    bad = {"aws_secret_access_key": f"{BAD}key", "aws_session_token": f"{BAD}session"}
    for wrong in (login | bad, login | {"aws_session_token": f"{BAD}session"}):
        world.fails(world.pull, "s3://models/m", credentials=wrong, refresh=True)
        world.fails(world.push, "s3://models/pushed", to_credentials=wrong)
    world.fails(world.push, "s3://no-such-bucket/pushed", to_credentials=login)


def of_registry(world: World) -> None:
    """A user's password."""
    world.secrets.add(registries.PASSWORD)
    ref = f"oci://{world.at.registry.host}/models/m:v1"
    login = {"registry_host": world.at.registry.host, "registry_user": registries.USER}
    right = login | {"registry_password": registries.PASSWORD}
    world.pull(ref, credentials=right)
    world.push(f"oci://{world.at.registry.host}/models/n:v1", to_credentials=right)
    wrong = login | {"registry_password": f"{BAD}registry"}
    world.fails(world.pull, ref, credentials=wrong, refresh=True)
    world.fails(world.push, f"oci://{world.at.registry.host}/models/n:v1", to_credentials=wrong)


def of_google(world: World) -> None:
    """The key of a service account, the tokens that it gives, and one that a user has."""
    google, endpoint = world.at.google, {"gcs_endpoint_url": world.at.door.url}
    world.secrets |= {TOKEN, *private(google.account)}
    for login in ({"gcs_account": google.account}, {"gcs_token": TOKEN}):
        world.pull("gs://models/m", credentials=endpoint | login, refresh=True)
        world.push("gs://models/pushed", to_credentials=endpoint | login)
    other = google.other_account()
    world.secrets |= {*google.tokens, *private(other)}
    for wrong in ({"gcs_account": other}, {"gcs_token": f"{BAD}token"}):
        world.fails(world.pull, "gs://models/m", credentials=endpoint | wrong, refresh=True)
        world.fails(world.push, "gs://models/pushed", to_credentials=endpoint | wrong)


def private(account: str) -> set[str]:
    """Lines of a service account's key: the first one is the same in all of them."""
    return set(json.loads(account)["private_key"].splitlines()[2:-1])


def of_azure(world: World) -> None:
    """The key of an account, and a signature that somebody was given."""
    login = world.at.azure.asks(world.at.azure.server.url)
    world.secrets |= {KEY, *signature(4e9)}
    plain = {name: value for name, value in login.items() if name != "azure_key"}
    world.pull("az://tester/models/m", credentials=login)
    world.push("az://tester/models/pushed", to_credentials=login)
    world.pull("az://tester/models/m", credentials=plain | {"azure_sas": sas(4e9)}, refresh=True)
    bad = base64.b64encode(f"{BAD}azure".encode()).decode()
    world.secrets |= {bad, *signature(1e9)}
    for wrong in ({"azure_key": bad}, {"azure_sas": sas(1e9)}):
        world.fails(world.pull, "az://tester/models/m", credentials=plain | wrong, refresh=True)
        world.fails(world.push, "az://tester/models/pushed", to_credentials=plain | wrong)


def sas(ends: float) -> str:
    """A signature for all of the container."""
    return signed_query(ACCOUNT, KEY, "models", None, LIST, ends)


def signature(ends: float) -> set[str]:
    """What of it nobody else can make, as it is and as it is written in an address."""
    quoted = next(one for one in sas(ends).split("&") if one.startswith("sig="))[4:]
    return {quoted, unquote(quoted)}


def of_addresses(world: World) -> None:
    """A presigned URL's signature, fields that are called like secrets, a user and password."""
    sign = world.at.store.client().generate_presigned_url
    for key, seconds in (("m/a.bin", 600), ("m/absent.bin", 600), ("m/a.bin", 1)):
        url = sign("get_object", Params={"Bucket": "models", "Key": key}, ExpiresIn=seconds)
        world.secrets.add(url.partition("X-Amz-Signature=")[2])
        if seconds == 1:
            time.sleep(2)
        if (key, seconds) == ("m/a.bin", 600):
            world.pull(url)
        else:
            world.fails(world.pull, url)
    where = world.at.store.url.partition("://")[2]
    world.fails(world.pull, f"http://{where}/models/m/a.bin?api_token={BAD}url")
    world.fails(world.pull, f"http://user:{BAD}url@{where}/models/m/a.bin")
    world.fails(world.push, f"s3://user:{BAD}url@models/x", to_credentials=world.at.store.aws)


def by_name(world: World) -> None:
    """Logins as truss keeps them: a variable, a file."""
    keys = {"access_key_id": USER, "secret_access_key": PASSWORD, "region": "eu-test-1"}
    endpoint = {"aws_endpoint_url": world.at.store.url}
    with environment(
        TRUSS_SECRET_hub=GOOD_TOKEN,
        TRUSS_SECRET_bucket=json.dumps(keys),
        TRUSS_SECRET_docker=f"{registries.USER}:{registries.PASSWORD}",
        TRUSS_SECRET_wrong=f"{BAD}name",
    ):
        world.pull("hf://org/gated", credentials={"hf_endpoint": world.at.hub}, secret="hub")
        world.pull("s3://models/m", credentials=endpoint, secret="bucket", refresh=True)
        world.push("s3://models/named", to_credentials=endpoint, to_secret="bucket")
        world.pull(f"oci://{world.at.registry.host}/models/m:v1", secret="docker", refresh=True)
        for ref in (
            "s3://models/m",
            f"oci://{world.at.registry.host}/models/m:v1",
            "hf://org/gated",
        ):
            login = endpoint | {"hf_endpoint": world.at.hub}
            world.fails(world.pull, ref, credentials=login, secret="wrong", refresh=True)
        world.fails(world.push, "s3://models/named", to_credentials=endpoint, to_secret="wrong")
        world.fails(world.pull, f"{world.at.store.url}/models/m/a.bin", secret="hub")
        world.fails(world.pull, "hf://org/gated", secret="absent")


def by_name_of_clouds(world: World) -> None:
    """The same for Google's store and Azure's."""
    google, azure = "gs://models/m", "az://tester/models/m"
    login = world.at.azure.asks(world.at.azure.server.url)
    ends = {
        "gcs_endpoint_url": world.at.door.url,
        "azure_endpoint_url": login["azure_endpoint_url"],
    }
    world.secrets |= {KEY, *signature(4e9), *private(world.at.google.account)}
    with environment(
        TRUSS_SECRET_google=world.at.google.account,
        TRUSS_SECRET_key=json.dumps({"account_key": KEY}),
        TRUSS_SECRET_sas=json.dumps({"sas_token": sas(4e9)}),
        TRUSS_SECRET_wrong=f"{BAD}name",
    ):
        for ref, name in ((google, "google"), (azure, "key"), (azure, "sas")):
            world.pull(ref, credentials=ends, secret=name, refresh=True)
        for dest, name in (("gs://models/named", "google"), ("az://tester/models/named", "key")):
            world.push(dest, to_credentials=ends, to_secret=name)
            world.fails(world.push, dest, to_credentials=ends, to_secret="wrong")
        for ref in (google, azure):
            world.fails(world.pull, ref, credentials=ends, secret="wrong", refresh=True)
    world.secrets |= world.at.google.tokens.keys()


KINDS = [
    of_hub, of_s3, of_registry, of_google, of_azure, of_addresses, by_name, by_name_of_clouds,
]  # fmt: skip


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Of this process, which is the caller."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    files = {"config.json": text('{"gated": 1}'), "m.safetensors": lfs(2_000_000, 4)}
    repo = build_repo(folder / "repo", files, repo_id="org/gated")
    (folder / "layers").mkdir()
    (folder / "layers" / "l.bin").write_bytes(some_bytes(90_000, b"layer"))
    with ExitStack() as stack:
        hub = stack.enter_context(hub_stub(repo))
        hub.gated.add("org/gated")
        store = stack.enter_context(minio(folder / "minio"))
        store.bucket("models", {"m/a.bin": some_bytes(2_000_000, b"a"), "m/b.json": b"{}"})
        one = stack.enter_context(registries.registry(folder / "registry", login=True))
        one.push_files("models/m:v1", folder / "layers")
        google = stack.enter_context(google_logins())
        gcs = stack.enter_context(running_cloud("gcs", folder / "gcs"))
        azure = stack.enter_context(running_cloud("azure", folder / "azure"))
        assert isinstance(gcs, Gcs)
        assert isinstance(azure, Azure)
        for cloud in (gcs, azure):
            cloud.fill("models", {"m/a.bin": some_bytes(2_000_000, b"a"), "m/b.json": b"{}"})
        door = stack.enter_context(s3_proxy(gcs.server))
        door.fault = lambda ask: (
            None if google.accepts(ask.headers) or gcs.door(ask) is None else Reply(401)
        )
        yield Servers(hub.url, store, one, google, door, azure)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_login_is_ever_written_or_said(
    servers: Servers, tmp_path: Path, kind: Callable[[World], None]
) -> None:
    settings = {"resolve.ttl": "0s"}
    offline = {**OFFLINE, "AWS_EC2_METADATA_DISABLED": "true"}
    with running_agent(tmp_path / "agent", settings=settings, **offline) as agent:
        world = World(agent, tmp_path, servers)
        with listening(agent) as heard:
            kind(world)
    texts = {f"said {number}": repr(one).encode() for number, one in enumerate(world.said)}
    texts |= {"trace": "\n".join(heard.lines).encode(), "arguments": b"\n".join(heard.arguments)}
    assert heard.lines, "nothing was traced"
    assert any(b"p2pcache.agent" in line for line in heard.arguments)
    texts |= {str(p): p.read_bytes() for p in (tmp_path / "agent").rglob("*") if p.is_file()}
    assert any("index.sqlite" in name for name in texts)
    for name, body in texts.items():
        found = [secret for secret in world.secrets if secret.encode() in body]
        assert not found, (name, found)


@dataclass
class Heard:
    """Lines of `trace`, and the arguments of the agent's processes."""

    lines: list[str] = field(default_factory=list)
    arguments: set[bytes] = field(default_factory=set)


@contextmanager
def listening(agent: Agent) -> Iterator[Heard]:
    """To an agent's pulls and processes, as long as the block lasts."""
    heard, over = Heard(), threading.Event()
    assert agent.process is not None
    pid, client = agent.process.pid, agent.client()

    def trace() -> None:
        with suppress(errors.P2PCacheError):
            client.trace(heard.lines.append, once=False)

    def look() -> None:
        while not over.wait(LOOK_S):
            for one in [pid, *(child.pid for child in descendants(pid))]:
                with suppress(OSError):
                    heard.arguments.add(Path(f"/proc/{one}/cmdline").read_bytes())

    threads = [threading.Thread(target=trace), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        over.set()
        client.cancel()
        for thread in threads:
            thread.join(20)
        client.close()

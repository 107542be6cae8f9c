"""The caller's logins to registries, as docker, podman and Ollama keep them on this machine.

Looked for in this order, the first that knows the registry counts: `$REGISTRY_AUTH_FILE`; docker's
`config.json` in `$DOCKER_CONFIG` (default `~/.docker`); podman's `auth.json` in
`$XDG_RUNTIME_DIR/containers` and `~/.config/containers`. For a model of Ollama's then its key.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pcache.content.registry_refs import DOCKER_HUB, OciRef, OllamaRef
from p2pcache.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_FILE_BYTES = 1 << 20
HELPER_S = 30.0  # a credential helper may ask a cloud for a token; a keychain may ask the user
_HELPER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOT_THERE = "credentials not found"  # what every helper says then (docker-credential-helpers)
_HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"  # where `docker login` writes that of Docker Hub
_BY_TOKEN = "<token>"  # a helper's user name, where what it gives is an identity token


def login_for(ref: OciRef | OllamaRef, environment: Mapping[str, str]) -> dict[str, str]:
    """The fields of `Credentials` for the registry of a ref; none where nobody is logged in.

    Blocking: a credential helper is run where one is configured. Raises LocalFault when it fails.
    """
    found: dict[str, str] = {}
    for file in _files(environment):
        found = _from_file(_read(file), ref.registry, ref.repository)
        if found:
            break
    if not found and isinstance(ref, OllamaRef):
        key = _text(_ollama_home(environment) / "id_ed25519")
        found = {} if key is None else {"registry_ollama_key": key}
    return {"registry_host": ref.registry, **found} if found else {}


def ollama_models(environment: Mapping[str, str]) -> Path:
    """Where Ollama keeps its models, by its own rule."""
    named = environment.get("OLLAMA_MODELS", "").strip()
    return Path(named).expanduser().absolute() if named else _ollama_home(environment) / "models"


def _ollama_home(environment: Mapping[str, str]) -> Path:
    return _home(environment) / ".ollama"


def _home(environment: Mapping[str, str]) -> Path:
    named = environment.get("HOME")
    return Path(named) if named else Path.home()


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    home = _home(environment)
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    yield home / ".config" / "containers" / "auth.json"


def _text(path: Path) -> str | None:
    """A small file's text; None: there is none, or it cannot be read, which is the same here."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        return data.decode() if len(data) <= MAX_FILE_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(_text(path) or "{}")
    except (ValueError, RecursionError) as exc:
        raise LocalFault(f"{path} is no JSON", hint="`docker login` writes it anew") from exc
    return said if isinstance(said, dict) else {}


def _from_file(said: dict[str, Any], registry: str, repository: str) -> dict[str, str]:
    helpers, auths = _map(said.get("credHelpers")), _map(said.get("auths"))
    keys = list(_keys(registry, repository))
    for key in keys:
        if isinstance(helper := helpers.get(key), str):
            return _helped(helper, key)
    if isinstance(store := said.get("credsStore"), str) and store:
        server = _DOCKER_HUB_KEY if registry == DOCKER_HUB else registry
        if found := _helped(store, server):
            return found
    for key in keys:
        if found := _entry(_map(auths.get(key))):
            return found
    return {}


def _keys(registry: str, repository: str) -> Iterator[str]:
    """How files name a registry: podman also by repository, the longest first; docker also by old
    URLs.
    """
    names = _HUB_NAMES if registry == DOCKER_HUB else (registry,)
    parts = repository.split("/")
    for name in names:
        for count in range(len(parts), 0, -1):
            yield "/".join((name, *parts[:count]))
    for name in names:
        yield name
        for end in ("", "/", "/v1/", "/v2/"):
            yield f"https://{name}{end}"
            yield f"http://{name}{end}"


def _entry(entry: dict[str, Any]) -> dict[str, str]:
    user, password = entry.get("username"), entry.get("password")
    if isinstance(entry.get("auth"), str) and entry["auth"]:
        try:
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return {}
        password = password.rstrip("\0")  # as docker does: old versions padded it
    identity, bearer = entry.get("identitytoken"), entry.get("registrytoken")
    if isinstance(bearer, str) and bearer:
        return {"registry_bearer": bearer}
    if isinstance(identity, str) and identity:
        return {"registry_identity": identity}
    if isinstance(user, str) and user and isinstance(password, str):
        return {"registry_user": user, "registry_password": password}
    return {}


def _helped(helper: str, server: str) -> dict[str, str]:
    """What a credential helper knows, called as docker calls it."""
    command = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise LocalFault(f"{command!r} is not a credential helper's name", hint="see config.json")
    try:
        done = subprocess.run(
            [command, "get"], input=server.encode(), capture_output=True, timeout=HELPER_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        why = "it took too long" if isinstance(exc, subprocess.TimeoutExpired) else exc.strerror
        raise _failed(command, server, why or "") from exc
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")
        if _NOT_THERE in said:
            return {}
        raise _failed(command, server, f"it ended with {done.returncode}")
    try:
        told = json.loads(done.stdout)
        user, secret = told["Username"], told["Secret"]
    except (ValueError, RecursionError, LookupError, TypeError) as exc:
        raise _failed(command, server, "it answers something else than a login") from exc
    if not isinstance(user, str) or not isinstance(secret, str) or not secret:
        return {}
    if user == _BY_TOKEN:
        return {"registry_identity": secret}
    return {"registry_user": user, "registry_password": secret}


def _failed(command: str, server: str, why: str) -> LocalFault:
    """Never with what it said: a helper may have printed half a secret."""
    return LocalFault(
        f"`{command}` gives no login for {server}: {why}",
        hint="it is named in docker's config.json: install it, or take it out there",
    )


def _map(said: object) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}

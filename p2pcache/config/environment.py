"""The one reader of environment variables. Everything else gets values as arguments.

`ENVIRONMENT` lists every variable with its meaning; docs/cli.md must name each of them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from p2pcache.config.aws_profile import profile_endpoint
from p2pcache.config.cloud_logins import AZURE_HOSTS, azure_caller, gcs_caller
from p2pcache.errors import UsageError

ENVIRONMENT: tuple[tuple[str, str], ...] = (
    ("P2PCACHE_HOME", "where the store, the socket and the configuration are"),
    ("P2PCACHE_NO_PROGRESS", "any value: no progress display"),
    ("NO_COLOR", "any value: no colour"),
    ("TERM", "dumb: no line is drawn again; progress is written as into a log"),
    ("_P2PCACHE_COMPLETE", "set by the completion script alone"),
    ("HF_TOKEN", "Hugging Face access token"),
    ("HUGGING_FACE_HUB_TOKEN", "the older name of HF_TOKEN"),
    ("HF_TOKEN_PATH", "file that holds the token (default: token in HF_HOME)"),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1: send no token that was not asked for"),
    ("HF_ENDPOINT", "another Hugging Face server"),
    ("HF_HOME", "Hugging Face's folder (default: ~/.cache/huggingface)"),
    ("HF_HUB_CACHE", "Hugging Face's hub cache (default: hub in HF_HOME)"),
    ("HUGGINGFACE_HUB_CACHE", "the older name of HF_HUB_CACHE"),
    ("AWS_ACCESS_KEY_ID", "login for S3; without it boto3 looks where it always does"),
    ("AWS_SECRET_ACCESS_KEY", "its other half"),
    ("AWS_SESSION_TOKEN", "of a login that ends (STS)"),
    ("AWS_PROFILE", "a login of ~/.aws"),
    ("AWS_DEFAULT_PROFILE", "the older name of AWS_PROFILE"),
    ("AWS_CONFIG_FILE", "where profiles say which store they are for (default: ~/.aws/config)"),
    ("AWS_REGION", "region of buckets, before it is found out"),
    ("AWS_DEFAULT_REGION", "the other name of AWS_REGION"),
    ("AWS_ENDPOINT_URL_S3", "another S3 than Amazon's"),
    ("AWS_ENDPOINT_URL", "the same, after AWS_ENDPOINT_URL_S3"),
    ("GOOGLE_APPLICATION_CREDENTIALS", "file of a login for gs://; else what is found there"),
    ("CLOUDSDK_AUTH_ACCESS_TOKEN", "a token for gs://, as gcloud takes it"),
    ("STORAGE_EMULATOR_HOST", "another server than Google's, which wants no login"),
    ("AZURE_STORAGE_ACCOUNT", "the account that the next two are of"),
    ("AZURE_STORAGE_KEY", "key of an account, for az://"),
    ("AZURE_STORAGE_SAS_TOKEN", "a shared access signature, for az://"),
    ("AZURE_STORAGE_CONNECTION_STRING", "account, key or signature, and endpoint in one"),
    ("AZURE_TENANT_ID", "of a service principal, for az://"),
    ("AZURE_CLIENT_ID", "its name"),
    ("AZURE_CLIENT_SECRET", "its secret"),
    ("B2_APPLICATION_KEY_ID", "p2pcache bucket: the login, before AWS_* and the file of settings"),
    ("B2_APPLICATION_KEY", "its other half"),
    ("B2_ENDPOINT", "p2pcache bucket: where the store is, before storage.endpoint"),
    ("B2_BUCKET", "the bucket, before storage.bucket"),
    ("B2_REGION", "its region, before storage.region"),
    (
        "IPFS_BACKEND",
        "the backend of p2pcache.ipfs_backend: p2pcache, kubo, memory or a registered one",
    ),
    ("IPFS_ROUTER_CACHE", "0: p2pcache.ipfs_backend chooses anew at every call"),
    ("ENABLE_IPFS_KIT", "0, as ENABLE_HF_CACHE: p2pcache.ipfs_backend goes to Kubo"),
    ("IPFS_KIT_DISABLE", "1: the same as ENABLE_IPFS_KIT=0"),
    ("ENABLE_HF_CACHE", "0, as ENABLE_IPFS_KIT: p2pcache.ipfs_backend goes to Kubo"),
    ("DOCKER_CONFIG", "folder of docker's config.json, which has logins (default: ~/.docker)"),
    ("REGISTRY_AUTH_FILE", "podman's file of logins; looked into before docker's"),
    ("OLLAMA_MODELS", "Ollama's models (default: ~/.ollama/models)"),
    ("TRUSS_TRANSFER_DOWNLOAD_DIR", "p2pcache.truss: the folder that files go into"),
    ("TRUSS_TRANSFER_NUM_WORKERS", "p2pcache.truss and bptr pull: files at once (6)"),
    ("TRUSS_SECRET_NAME", "the login that pointers call NAME; else the file /secrets/NAME"),
    ("IPFS_PATH", "Kubo's repository, whose files say where it listens (default: ~/.ipfs)"),
    ("XDG_CACHE_HOME", "base of both default folders"),
    ("XDG_RUNTIME_DIR", "holds the socket when the path of P2PCACHE_HOME is too long for one"),
)

_AWS = {  # as `sources.port.AwsLogin` has it
    "aws_access_key_id": ("AWS_ACCESS_KEY_ID",),
    "aws_secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
    "aws_session_token": ("AWS_SESSION_TOKEN",),
    "aws_profile": ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
    "aws_region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "aws_endpoint_url": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
}

# sockaddr_un.sun_path holds 108 bytes on Linux and 104 on macOS, the closing NUL included.
MAX_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107


@dataclass(frozen=True, slots=True)
class TerminalOptions:
    """What the user's environment says about output."""

    color: bool
    progress: bool
    redraws: bool = True
    completion: str | None = None  # what the shell's completion script asks for


def home() -> Path:
    """The folder of this user's agent, absolute. Not created here."""
    named = os.environ.get("P2PCACHE_HOME")
    if named:
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_dir  # only needed when the variable is not set

    return Path(user_cache_dir("p2pcache")).absolute()


def socket_path(home: Path) -> Path:
    """Where the agent of `home` listens: inside it, or a short stand-in when that is too long.

    The stand-in's folder is private: made 0700 here, and refused by the listener if it is not.
    """
    path = home / "agent.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    import hashlib  # rare, and the command line should start fast

    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16] + ".sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        path = Path(runtime) / "p2pcache" / name
        if path.is_absolute() and len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
    return Path(f"/tmp/p2pcache-{os.getuid()}") / name


def hf_home() -> Path:
    """Hugging Face's own folder, by the rules of huggingface_hub."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(os.environ.get("HF_HOME") or f"{base}/huggingface")


def _expanded(path: str) -> Path:
    """With `~` and `$NAME` replaced, as huggingface_hub does."""
    return Path(os.path.expandvars(os.path.expanduser(path))).absolute()


def hub_cache_dir() -> Path:
    """Hugging Face's hub cache, by the rules of huggingface_hub."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expanded(named) if named else hf_home() / "hub"


def is_of_registry(ref: str) -> bool:
    """Whether a text is the ref of a registry, by its scheme."""
    return ref.partition(":")[0].lower() in ("oci", "docker", "ollama")


def caller_credentials(ref: str = "") -> dict[str, str]:
    """What the calling user brings to an origin: `hf_token`, `hf_endpoint` and the keys of `_AWS`,
    each if set; what `cloud_logins` finds, unless `ref` is of another kind; for the ref of a
    registry the login there (`registry_login`), for which a helper may be run. Raises LocalFault
    when that fails.
    """
    found: dict[str, str] = {}
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    if endpoint:
        found["hf_endpoint"] = endpoint
    token = _hf_token()
    if token:
        found["hf_token"] = token
    for key, names in _AWS.items():
        if value := next((v for name in names if (v := os.environ.get(name, "").strip())), None):
            found[key] = value
    if (profile := found.get("aws_profile")) is not None:
        url = found.get("aws_endpoint_url") or profile_endpoint(profile, os.environ)
        found |= {} if url is None else {"aws_endpoint_url": url}
    kind = ref.partition(":")[0].lower()
    if kind in ("", "gs", "gcs"):
        found |= gcs_caller(os.environ)
    if kind in ("", "az", "azure") or AZURE_HOSTS in ref:
        found |= azure_caller(os.environ)
    if is_of_registry(ref):
        from p2pcache.config.registries import registry_ref
        from p2pcache.config.registry_login import login_for

        if (of := registry_ref(ref)) is not None:
            found |= login_for(of, os.environ)
    return found


def ollama_models_dir(wish: bool | None) -> Path | None:
    """Where Ollama keeps its models, if they are to be shown there; `wish` None: where
    OLLAMA_MODELS names it.
    """
    from p2pcache.config.registry_login import ollama_models

    named = bool(os.environ.get("OLLAMA_MODELS", "").strip())
    return ollama_models(os.environ) if (named if wish is None else wish) else None


def kubo_of_caller(said: str | None) -> str | None:
    """What `--kubo` says, with `auto` as this user's folder. Raises UsageError."""
    from p2pcache.config.ipfs import kubo, where_kubo  # only where a Kubo is named

    if said is None:
        return None
    try:
        return where_kubo(kubo(said), os.environ)
    except ValueError as exc:
        raise UsageError(f"`--kubo`: {exc}", hint="http://127.0.0.1:5001, or auto") from exc


def terminal_options() -> TerminalOptions:
    """NO_COLOR and P2PCACHE_NO_PROGRESS count when set to anything but nothing (no-color.org)."""
    return TerminalOptions(
        color=not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        progress=not os.environ.get("P2PCACHE_NO_PROGRESS"),
        redraws=os.environ.get("TERM") != "dumb",
        completion=os.environ.get("_P2PCACHE_COMPLETE"),
    )


def _hf_token() -> str | None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        token = os.environ.get(name, "").strip()
        if token:
            return token
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return None
    named = os.environ.get("HF_TOKEN_PATH")
    path = _expanded(named) if named else hf_home() / "token"
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None  # no token file is the common case; an unreadable one cannot be used either


@dataclass(frozen=True, slots=True)
class BackendEnvironment:
    """What the environment wants of `p2pcache.ipfs_backend`. `agent`: whether it may be asked."""

    backend: str | None
    agent: bool
    cache: bool
    ipfs_path: Path


def backend_environment() -> BackendEnvironment:
    """As it is now. The router's words for its first two backends switch the agent off together:
    that was how its callers got to Kubo.
    """

    def on(name: str) -> bool:
        return os.environ.get(name, "1").strip().lower() not in ("0", "false", "no", "off")

    disabled = os.environ.get("IPFS_KIT_DISABLE", "").strip().lower() in ("1", "true", "yes", "on")
    kit = on("ENABLE_IPFS_KIT") and not disabled
    path = os.environ.get("IPFS_PATH")
    return BackendEnvironment(
        backend=os.environ.get("IPFS_BACKEND", "").strip() or None,
        agent=kit or on("ENABLE_HF_CACHE"),
        cache=on("IPFS_ROUTER_CACHE"),
        ipfs_path=Path(path).expanduser() if path else Path.home() / ".ipfs",
    )

"""Keyword arguments of both clients, as typed maps."""

from __future__ import annotations

from typing import Required, TypedDict


class GetOptions(TypedDict, total=False):
    """Keyword arguments of `get`.

    revision: branch, tag or commit. include, exclude: fnmatch patterns of paths. to: materialise
    into this folder. hf_cache: True (the default) for the user's own Hugging Face cache, a folder
    for another one, False for none; only Hugging Face refs are put there, and with `to` nothing is
    unless asked. links: allow links into the store. limit_rate: bytes per second. offline: ask
    no origin. refresh: do not trust the recorded resolution. max_age: seconds; older words of
    other agents on a name do not count. trust: whose words do, "any", "none" or peer ids with
    commas between (default of both: the agent's settings). credentials: keys hf_token and
    hf_endpoint (default: from the environment, as huggingface_hub finds them), for S3
    aws_access_key_id, aws_secret_access_key, aws_session_token, aws_profile, aws_region and
    aws_endpoint_url (default: from the environment), for Google gcs_account (the JSON), gcs_token
    and gcs_endpoint_url, for Azure azure_account, azure_key, azure_sas, azure_tenant,
    azure_client_id, azure_client_secret and azure_endpoint_url (the same), and for registries
    registry_host, registry_user, registry_password (default: as `docker login` left them). kubo:
    URL of the RPC of a Kubo that is asked for a CID, or "auto" (default: the agent's settings).
    platform, layout: of oci:// refs, "linux/arm64" and "oci" or "files". to_ollama: True for
    Ollama's own store, a folder for another one (default: for an ollama:// ref where OLLAMA_MODELS
    is set and there is no `to`). ollama_name: of the model that is made of a GGUF of any other
    ref, "[namespace/]name[:tag]" (default: the file's name). secret: the login of this name,
    before `credentials`: TRUSS_SECRET_<name>, else the file /secrets/<name>.
    """

    revision: str | None
    include: list[str]
    exclude: list[str]
    to: str | None
    hf_cache: bool | str
    links: bool
    dry_run: bool
    offline: bool
    refresh: bool
    limit_rate: int | None
    max_age: float | None
    trust: str | None
    credentials: dict[str, str] | None
    kubo: str | None
    platform: str | None
    layout: str | None
    to_ollama: bool | str | None
    ollama_name: str | None
    secret: str | None


class PushOptions(TypedDict, total=False):
    """to: where it goes: "ipfs", the configured Kubo, or s3://bucket/folder. kubo: another one, by
    its RPC's URL, `auto` or the folder of its repository. dry_run: send nothing, say what would be.
    allow_gated: also what is gated or private where it came from. limit_rate: bytes per second.
    credentials: as of GetOptions, for a ref that is not here yet; to_credentials: for the place.
    replicas: for "peers", how many other agents are to have it. secret, to_secret: logins by name,
    as of GetOptions, for a ref that is not here yet and for the place.
    """

    to: str
    kubo: str | None
    dry_run: bool
    allow_gated: bool
    limit_rate: int | None
    replicas: int | None
    credentials: dict[str, str] | None
    to_credentials: dict[str, str] | None
    secret: str | None
    to_secret: str | None


class PreloadOptions(TypedDict, total=False):
    """Keyword arguments of `preload`.

    revision: branch, tag or commit. nodes: "all" (the default), a number, or labels. replicas: how
    many copies evictions leave. at, deadline: unix seconds. keep_s: for how long copies are kept
    and states remembered. limit_rate: bytes/s of each agent. credentials: as for `get`, to resolve
    the ref; they are not passed on.
    """

    revision: str | None
    nodes: str
    replicas: int
    at: float | None
    deadline: float | None
    keep_s: float | None
    limit_rate: int | None
    credentials: dict[str, str] | None


class BptrOptions(TypedDict, total=False):
    """Keyword arguments of `bptr_pull`.

    folders (required): where names go, by the prefix of absolute ones; "" is for relative ones.
    inline: the text of one more pointer file. model_path: what the names of its `models` begin
    with. links, offline, limit_rate, credentials: as of `get`.
    """

    folders: Required[dict[str, str]]
    inline: str | None
    model_path: str
    links: bool
    offline: bool
    limit_rate: float | None
    credentials: dict[str, str] | None


class BucketOptions(TypedDict, total=False):
    """Keyword arguments of `bucket`; each operation takes those that mean something to it.

    config: the file of settings (default: .hf-cache-sync.yaml here, then in the home folder).
    hf_cache: another Hugging Face cache. credentials: as of GetOptions; a login of the settings
    comes before it. repo, repo_type, revision: what is pulled; fallback: "hf-hub". repos: what is
    pushed (default: all). workers: blobs that are sent at once. max_gb: what `prune` leaves, in
    GiB. debounce: seconds; once: end a watch after the first push of a change. write: for `doctor`,
    that the login may write. dry_run, allow_gated, limit_rate: as elsewhere.
    """

    config: str | None
    hf_cache: str | None
    credentials: dict[str, str] | None
    repo: str
    repo_type: str | None
    revision: str | None
    fallback: str | None
    repos: list[str]
    workers: int
    max_gb: float | None
    debounce: float
    once: bool
    write: bool
    dry_run: bool
    allow_gated: bool
    limit_rate: int | None

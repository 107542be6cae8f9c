"""What the caller's environment says about logins at Google and Azure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

AZURE_HOSTS = ".blob.core.windows.net"
MAX_ACCOUNT_BYTES = 1 << 16  # service accounts have 3 KB

_AZURE = {  # as `sources.port.AzureLogin` has it
    "azure_account": "AZURE_STORAGE_ACCOUNT",
    "azure_key": "AZURE_STORAGE_KEY",
    "azure_sas": "AZURE_STORAGE_SAS_TOKEN",
    "azure_tenant": "AZURE_TENANT_ID",
    "azure_client_id": "AZURE_CLIENT_ID",
    "azure_client_secret": "AZURE_CLIENT_SECRET",
}
_CONNECTION = {
    "accountname": "azure_account",
    "accountkey": "azure_key",
    "sharedaccesssignature": "azure_sas",
    "blobendpoint": "azure_endpoint_url",
}


def gcs_caller(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's login at Google: the account's file is read here, for the agent may run as
    somebody else. With an emulator there is none to send.
    """
    if host := environment.get("STORAGE_EMULATOR_HOST", "").strip().rstrip("/"):
        return {"gcs_endpoint_url": host if "://" in host else f"http://{host}"}
    if token := environment.get("CLOUDSDK_AUTH_ACCESS_TOKEN", "").strip():
        return {"gcs_token": token}
    if path := environment.get("GOOGLE_APPLICATION_CREDENTIALS", "").strip():
        text = _read(path)
        return {} if text is None else {"gcs_account": text}
    return {}


def azure_caller(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's login at Azure; what a connection string says comes first. Key and signature of
    the other variables are no part of it where it has one itself, or is of another account.
    """
    found = {key: environment.get(name, "").strip() for key, name in _AZURE.items()}
    said: dict[str, str] = {}
    for part in environment.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"):
        name, _, value = part.strip().partition("=")
        if key := _CONNECTION.get(name.lower()):
            said[key] = value.rstrip("/") if key == "azure_endpoint_url" else value
    if "azure_account" not in said and (url := said.get("azure_endpoint_url")):
        said["azure_account"] = _account_of(url)  # with a signature it names none
    other = found["azure_account"]
    is_other = other and said.get("azure_account") and other != said["azure_account"]
    if is_other or said.get("azure_key") or said.get("azure_sas"):
        found |= {"azure_account": "", "azure_key": "", "azure_sas": ""}
    found |= {key: value for key, value in said.items() if value}
    return {key: value for key, value in found.items() if value}


def _account_of(url: str) -> str:
    """The account of `https://ACCOUNT.blob...`; empty where the address names none so."""
    account, dot, rest = (urlsplit(url).hostname or "").partition(".")
    return account if dot and rest.startswith("blob.") else ""


def _read(path: str) -> str | None:
    try:
        with Path(path).expanduser().open(encoding="utf-8") as stream:
            return stream.read(MAX_ACCOUNT_BYTES)
    except (OSError, UnicodeDecodeError):
        return None  # as with Hugging Face's token: what is public needs no login

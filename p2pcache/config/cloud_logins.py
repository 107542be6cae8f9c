"""What the caller's environment says about logins at Google and Azure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    """The caller's login at Azure; what a connection string says comes first."""
    found = {key: environment.get(name, "").strip() for key, name in _AZURE.items()}
    for part in environment.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"):
        name, _, value = part.strip().partition("=")
        if key := _CONNECTION.get(name.lower()):
            found[key] = value.rstrip("/") if key == "azure_endpoint_url" else value
    return {key: value for key, value in found.items() if value}


def _read(path: str) -> str | None:
    try:
        with Path(path).expanduser().open(encoding="utf-8") as stream:
            return stream.read(MAX_ACCOUNT_BYTES)
    except (OSError, UnicodeDecodeError):
        return None  # as with Hugging Face's token: what is public needs no login

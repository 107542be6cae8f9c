"""Whose login opens a container of Azure's: keys and signatures as they are given, tokens by
azure-identity, in a worker process.

In this order: the caller's key, then the caller's SAS, if they are for this account; the caller's
service principal; what azure-identity finds where the agent runs (its environment, workload
identity, the machine's managed identity, `az login`). The agent's own login goes to the configured
endpoint alone, whatever a caller names.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pcache.errors import Denied, Unavailable, UsageError
from p2pcache.sources.azure.options import PUBLIC_AZURE, AzureOptions, account_url
from p2pcache.sources.azure.sign import AzureGrant
from p2pcache.sources.rest import missing_library
from p2pcache.sources.tokens import Token

if TYPE_CHECKING:
    from p2pcache.sources.port import AzureLogin

SCOPE = "https://storage.azure.com/.default"
HELP = (
    "set AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or "
    "AZURE_STORAGE_CONNECTION_STRING; or run `az login` where the agent runs (p2pcache[azure])"
)


@dataclass(frozen=True, slots=True)
class AzureRequest:
    """One question about a container. `key`, `folder`: as in `content.cloud_refs`."""

    account: str
    container: str
    options: AzureOptions
    login: AzureLogin | None = field(repr=False)
    key: str | None = None
    folder: bool = False

    @property
    def endpoint(self) -> str:
        """Who is asked: the caller's server, if it is for this account, else the configured one."""
        said = self.login
        if said is not None and said.endpoint_url is not None and self._is_ours(said):
            return account_url(said.endpoint_url, self.account)
        return account_url(self.options.endpoint, self.account)

    @property
    def own_login(self) -> AzureLogin | None:
        """The caller's, where it is for this account."""
        return self.login if self.login is not None and self._is_ours(self.login) else None

    def _is_ours(self, login: AzureLogin) -> bool:
        return login.account in (None, self.account)


def grant_azure(request: AzureRequest) -> AzureGrant:
    """What opens the account. Raises Denied, Unavailable, UsageError, LocalFault."""
    account, login = request.account, request.own_login
    if request.options.anonymous:
        return AzureGrant(account)
    if login is not None and login.key is not None:
        return AzureGrant(account, key=login.key)
    if login is not None and login.sas is not None:
        return AzureGrant(account, sas=login.sas.lstrip("?"))
    principal = request.login  # of a tenant, and not of an account
    if principal is not None and principal.client_secret is not None:
        return AzureGrant(account, token=_principal(principal, request.options))
    trusted = {account_url(url, account) for url in (request.options.endpoint, PUBLIC_AZURE)}
    if request.endpoint not in trusted:
        return AzureGrant(account)
    return AzureGrant(account, token=_found(request.options))


def _principal(login: AzureLogin, options: AzureOptions) -> Token:
    try:
        from azure.identity import ClientSecretCredential
    except ImportError as exc:
        raise missing_library("a login at Azure", "azure-identity", "azure") from exc
    try:
        credential = ClientSecretCredential(
            login.tenant, login.client_id, login.client_secret, **_bounds(options)
        )
    except ValueError:
        raise UsageError(
            "a service principal has AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
        ) from None
    token = _token(credential, required=True)
    assert token is not None
    return token


def _found(options: AzureOptions) -> Token | None:
    """The agent's own login, if there is one; without the library there is none."""
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError:
        return None
    logging.getLogger("azure.identity").setLevel(logging.ERROR)  # that there is none is common
    bounds = _bounds(options)
    return _token(DefaultAzureCredential(process_timeout=5, **bounds), required=False)


def _bounds(options: AzureOptions) -> dict[str, Any]:
    timeout_s = options.rest.request_timeout_s
    return {
        "connection_timeout": timeout_s,
        "read_timeout": timeout_s,
        "retry_total": 0,
        "connection_verify": options.rest.ca_file or True,
    }


def _token(credential: Any, *, required: bool) -> Token | None:  # noqa: ANN401
    from azure.core import exceptions as theirs
    from azure.identity import CredentialUnavailableError

    try:
        with credential:
            found = credential.get_token(SCOPE)
    except CredentialUnavailableError:
        if required:
            raise Denied("there is no login for Azure", hint=HELP) from None
        return None
    except theirs.ClientAuthenticationError:
        if not required:  # the chain ends with this, too, where it finds none
            return None
        raise Denied("Azure does not accept the service principal", hint=HELP) from None
    except theirs.AzureError as exc:
        raise Unavailable("Azure's login server cannot be reached") from exc
    except (ValueError, KeyError, TypeError) as exc:  # it parses replies without checking them
        raise Unavailable("Azure's login server does not answer like one") from exc
    return Token(found.token, float(found.expires_on))

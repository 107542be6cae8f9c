"""Arguments of a local API call, checked by type: whatever a client sends, only UsageError."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from p2pcache.errors import UsageError
from p2pcache.sources.port import AwsLogin, AzureLogin, Credentials, GcsLogin, RegistryLogin

if TYPE_CHECKING:
    from collections.abc import Mapping


class Args:
    """Typed access to one call's arguments."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """A required text."""
        value = self.optional_text(name)
        if not value:
            raise UsageError(f"`{name}` is missing")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None when it is left out."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise UsageError(f"`{name}` must be text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty when it is left out."""
        value = self._values.get(name) or []
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise UsageError(f"`{name}` must be a list of texts")
        return tuple(value)

    def only(self, *names: str) -> Args:
        """These alone, for another operation."""
        return Args({name: self._values[name] for name in names if name in self._values})

    def having(self, **values: object) -> Args:
        """The same with other values."""
        return Args({**self._values, **values})

    def all(self) -> dict[str, Any]:
        """Every one as it came, for the same operation again."""
        return dict(self._values)

    def text_map(self, name: str) -> dict[str, str]:
        """A map of texts to texts; empty when it is left out."""
        value = self._values.get(name) or {}
        if not isinstance(value, dict) or not all(
            isinstance(v, str) for v in (*value, *value.values())
        ):
            raise UsageError(f"`{name}` must be a map of texts")
        return dict(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise UsageError(f"`{name}` must be true or false")
        return value

    def positive(self, name: str) -> float | None:
        """A positive number, or None when it is left out."""
        value = self._number(name)
        if value is not None and not value > 0:
            raise UsageError(f"`{name}` must be a positive number")
        return value

    def size(self, name: str) -> int | None:
        """A number of bytes, 0 among them, or None when it is left out."""
        value = self._number(name)
        if value is not None and value < 0:
            raise UsageError(f"`{name}` must not be negative")
        return None if value is None else int(value)

    def _number(self, name: str) -> float | None:
        value = self._values.get(name)
        if value is None:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise UsageError(f"`{name}` must be a number")
        return cast("float", value)

    def credentials(self) -> Credentials:
        """What the calling user brings along."""
        given = self._values.get("credentials") or {}
        if not isinstance(given, dict):
            raise UsageError("`credentials` must be a map")
        return credentials_of(given)


def credentials_of(given: Mapping[str, Any]) -> Credentials:
    """What `config.caller_credentials` found, or a client says. Raises UsageError."""
    inner = Args(given)
    login = RegistryLogin(
        **{one.name: inner.optional_text(f"registry_{one.name}") for one in fields(RegistryLogin)}
    )
    gcs = GcsLogin(*(inner.optional_text(f"gcs_{one.name}") for one in fields(GcsLogin)))
    azure = AzureLogin(*(inner.optional_text(f"azure_{one.name}") for one in fields(AzureLogin)))
    aws = AwsLogin(*(inner.optional_text(f"aws_{one.name}") for one in fields(AwsLogin)))
    return Credentials(
        inner.optional_text("hf_token"),
        inner.optional_text("hf_endpoint"),
        None if aws == AwsLogin() else aws,
        registry=None if login.host is None else login,
        gcs=None if gcs == GcsLogin() else gcs,
        azure=None if azure == AzureLogin() else azure,
    )

"""What the settings say about origins' budgets: `huggingface.co concurrent=8 month=10TB; ...`."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.errors import UsageError
from p2pcache.transfer.budgets import Limits, origin_name
from p2pcache.transfer.costs import Price
from p2pcache.units import exact_bytes, parse_bytes, parse_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_BUDGETS = 64  # what one message to the members tells of
MAX_CONCURRENT = 1024
MAX_REQUESTS_PER_S = 1e6
EXAMPLE = "huggingface.co requests=50/s concurrent=8 rate=100MiB/s month=10TB"

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,253}")
_FIELDS = "requests=N/s, concurrent=N, rate=BYTES/s, month=BYTES or except=PEER"

PRICE_EXAMPLE = "s3.amazonaws.com gb=0.09 requests=0.0004 USD"
MAX_PRICE = 1e9
_CURRENCY = re.compile(r"[A-Za-z]{1,8}")

Budgets = tuple[tuple[str, Limits], ...]
Prices = tuple[tuple[str, Price], ...]


def budgets(text: str) -> Budgets:
    """One budget a host (or `host:port`), between them `;` or a new line; `none`: no budget."""
    found: dict[str, Limits] = {}
    for part in re.split(r"[;\n]", text):
        words = part.replace(",", " ").split()
        if not words or words == ["none"]:
            continue
        host = _host(words[0])
        if host in found:
            raise ValueError(f"`{host}` has two budgets")
        found[host] = _limits(host, words[1:])
    if len(found) > MAX_BUDGETS:
        raise ValueError(f"more than {MAX_BUDGETS} hosts have a budget")
    return tuple(found.items())


def prices(text: str) -> Prices:
    """One price a host, between them `;` or a new line: `HOST gb=0.09 requests=0.40 USD`."""
    found: dict[str, Price] = {}
    for part in re.split(r"[;\n]", text):
        words = part.split()
        if not words or words == ["none"]:
            continue
        host = _host(words[0])
        if host in found:
            raise ValueError(f"`{host}` has two prices")
        found[host] = _price(host, words[1:])
    if len(found) > MAX_BUDGETS:
        raise ValueError(f"more than {MAX_BUDGETS} hosts have a price")
    return tuple(found.items())


def _price(host: str, words: Sequence[str]) -> Price:
    values: dict[str, float] = {}
    currency = None
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and currency is None and _CURRENCY.fullmatch(word):
            currency = word
        elif equals and name in ("gb", "requests") and name not in values:
            values[name] = _amount(host, value)
        else:
            raise ValueError(f"`{word}` of {host} is none of gb=N, requests=N and a currency")
    if not values:
        raise ValueError(f"`{host}` has no price; write it like `{PRICE_EXAMPLE}`")
    return Price(values.get("gb", 0.0), values.get("requests", 0.0), currency or Price().currency)


def _amount(host: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_PRICE:
        raise ValueError(f"`{text}` of {host} is no price, like 0.09")
    return value


def format_prices(found: Prices) -> str:
    """What `prices` reads."""
    shown = []
    for host, price in found:
        parts = [f"{price.per_gb:g}", f"{price.per_1000_requests:g}"]
        shown.append(f"{host} gb={parts[0]} requests={parts[1]} {price.currency}")
    return "; ".join(shown) or "none"


def _host(text: str) -> str:
    try:
        if not _HOST.fullmatch(text):
            raise ValueError
        return origin_name(text)
    except ValueError:
        raise ValueError(f"`{text}` is not a host; write it like `{EXAMPLE}`") from None


def _limits(host: str, words: Sequence[str]) -> Limits:
    values: dict[str, str] = {}
    unheard = set()
    for word in words:
        name, equals, value = word.partition("=")
        if name == "except":
            unheard.add(_peer(value))
        elif not equals or name not in ("requests", "concurrent", "rate", "month"):
            raise ValueError(f"`{word}` of {host} is none of {_FIELDS}")
        elif name in values:
            raise ValueError(f"{host} has two of `{name}=`")
        else:
            values[name] = value
    if not values:
        raise ValueError(f"`{host}` has no limit; write it like `{EXAMPLE}`")
    rate, month = values.get("rate"), values.get("month")
    return Limits(
        requests_per_s=_requests(values["requests"]) if "requests" in values else None,
        concurrent=_count(values["concurrent"]) if "concurrent" in values else None,
        bytes_per_s=None if rate is None else float(parse_rate(rate)),
        month_bytes=None if month is None else parse_bytes(month.removesuffix("/month")),
        unheard=frozenset(unheard),
    )


def _requests(text: str) -> float:
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = math.nan
    if not 1e-3 <= rate <= MAX_REQUESTS_PER_S:
        raise ValueError(f"`requests={text}` is no number of requests a second, like 50/s")
    return rate


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MAX_CONCURRENT):
        raise ValueError(f"`concurrent={text}` is not a number from 1 to {MAX_CONCURRENT}")
    return int(text)


def _peer(text: str) -> bytes:
    try:
        return parse_peer_id(text)
    except UsageError as exc:
        raise ValueError(f"`except={text}`: {exc.message}") from exc


def format_limits(limits: Limits) -> str:
    """What `budgets` reads behind a host."""
    words = []
    if limits.requests_per_s is not None:
        words.append(f"requests={limits.requests_per_s:g}/s")
    if limits.concurrent is not None:
        words.append(f"concurrent={limits.concurrent}")
    if limits.bytes_per_s is not None:
        words.append(f"rate={_bytes(limits.bytes_per_s)}/s")
    if limits.month_bytes is not None:
        words.append(f"month={_bytes(limits.month_bytes)}")
    words += sorted(f"except={format_peer_id(peer)}" for peer in limits.unheard)
    return " ".join(words)


def _bytes(count: float) -> str:
    """Exactly, in powers of two or of ten, whichever is shorter."""
    power = 0
    while count % 1000 ** (power + 1) == 0 and power < len(_DECIMAL) - 1:
        power += 1
    decimal = f"{int(count / 1000**power)}{_DECIMAL[power]}"
    return min(exact_bytes(count).replace(" ", ""), decimal, key=len)


def format_budgets(found: Budgets) -> str:
    """What `budgets` reads."""
    return "; ".join(f"{host} {format_limits(limits)}" for host, limits in found) or "none"

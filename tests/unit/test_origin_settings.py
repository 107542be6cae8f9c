"""Budgets of origins as settings: what is understood, and what is refused with its reason."""

from __future__ import annotations

import pytest

from p2pcache.config import settings
from p2pcache.config.origins import (
    MAX_BUDGETS,
    budgets,
    format_budgets,
    format_prices,
    prices,
)
from p2pcache.content.peerid import format_peer_id, peer_id_of
from p2pcache.errors import UsageError
from p2pcache.transfer.budgets import Limits

PEER = format_peer_id(peer_id_of(bytes(32)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", ()),
        ("", ()),
        (
            "HuggingFace.co requests=50/s, concurrent=8, rate=100MiB/s, month=10TB",
            (("huggingface.co", Limits(50.0, 8, 100.0 * 2**20, 10 * 10**12)),),
        ),
        ("a requests=0.5", (("a", Limits(requests_per_s=0.5)),)),
        (
            f"\na.example:8080 month=1GiB/month except={PEER}\n; 10.0.0.7 concurrent=1;\n",
            (
                ("a.example:8080", Limits(month_bytes=2**30, unheard=frozenset({bytes.fromhex(
                    "002408011220") + bytes(32)}))),
                ("10.0.0.7", Limits(concurrent=1)),
            ),
        ),
        (
            "fd00::7 concurrent=1; [FD00::8]:80 concurrent=2",
            (("[fd00::7]", Limits(concurrent=1)), ("[fd00::8]:80", Limits(concurrent=2))),
        ),
    ],
)  # fmt: skip
def test_a_budget_is_read_and_shown_as_it_may_be_written(text, expected):
    assert budgets(text) == expected
    assert budgets(format_budgets(expected)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("huggingface.co", "has no limit; write it like"),
        ("https://huggingface.co month=1TB", "is not a host"),
        ("a:99999 month=1TB", "is not a host"),
        ("[fd00::7:80 month=1TB", "is not a host"),
        ("[a]:80 month=1TB", "is not a host"),
        ("fd00::7 month=1TB; [FD00::7] concurrent=2", "`.fd00::7.` has two budgets"),
        ("a month=1TB; a concurrent=2", "`a` has two budgets"),
        ("a month=1TB month=2TB", "two of `month=`"),
        ("a speed=3", "`speed=3` of a is none of requests=N/s, concurrent=N"),
        ("a month", "is none of"),
        ("a month=lots", "is not a size"),
        ("a rate=0", "at least one byte per second"),
        ("a requests=0", "no number of requests a second"),
        ("a requests=nan", "no number of requests a second"),
        ("a requests=1e9", "no number of requests a second"),
        ("a concurrent=0", "is not a number from 1"),
        ("a concurrent=2.5", "is not a number from 1"),
        ("a month=1TB except=me", "is not a peer id"),
        (f"a except={PEER}", "has no limit"),
        (";".join(f"h{n} concurrent=1" for n in range(MAX_BUDGETS + 1)), "more than"),
    ],
)
def test_what_is_no_budget_is_refused_with_its_reason(tmp_path, text, said):
    with pytest.raises(UsageError, match=said) as caught:
        settings.load(tmp_path, {"P2PCACHE_ORIGINS_BUDGETS": text})
    assert "origins.budgets" in caught.value.message


def test_a_budget_may_stand_in_the_file(tmp_path):
    (tmp_path / "config.toml").write_text(
        '[origins]\nbudgets = """\nhuggingface.co month=10TB\n10.0.0.7:8080 concurrent=2\n"""\n'
    )
    loaded = settings.load(tmp_path, {})
    assert dict(loaded.budgets) == {
        "huggingface.co": Limits(month_bytes=10**13),
        "10.0.0.7:8080": Limits(concurrent=2),
    }
    assert loaded.show()["origins.budgets"]["text"] == (
        "huggingface.co month=10TB; 10.0.0.7:8080 concurrent=2"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hub.example gb=0.09", "hub.example gb=0.09 requests=0 USD"),
        (
            "hub.example:8080 EUR requests=0.4 gb=1\n\ns3.example gb=0",
            "hub.example:8080 gb=1 requests=0.4 EUR; s3.example gb=0 requests=0 USD",
        ),
        ("none", "none"),
    ],
)
def test_prices_are_read_and_shown_as_they_may_be_written(text: str, shown: str) -> None:
    assert format_prices(prices(text)) == shown
    assert prices(shown) == prices(text)


@pytest.mark.parametrize(
    "text",
    ["hub.example", "hub.example USD", "hub.example gb=-1", "hub.example gb=x",
     "hub.example gb=nan",
     "hub.example gb=1 gb=2", "hub.example gb=1 USD EUR", "hub.example kg=1", "a/b gb=1",
     "hub.example gb=1; hub.example gb=2", ";".join(f"h{n} gb=1" for n in range(65))],
)  # fmt: skip
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"`|64"):
        prices(text)

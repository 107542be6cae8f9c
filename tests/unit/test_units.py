import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache import units


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("512", 512), ("512B", 512), ("512 bytes", 512), ("10M", 10_000_000),
     ("10MB", 10_000_000), ("1 MiB", 1 << 20), ("1Mi", 1 << 20), ("1.5GB", 1_500_000_000),
     ("4kib", 4096), ("2T", 2 * 10**12), ("9007199254740993", 9007199254740993),
     (" 1 GiB ", 1 << 30), ("0.5KiB", 512)],
)  # fmt: skip
def test_sizes_as_people_write_them(text, count):
    assert units.parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    ["", "M", "-1", "+1", "1e6", "10 X", "1MBit", "1,5G", "nan", "inf", "٣M", "1 2", "99P9"],
)
def test_what_is_no_size_is_refused_with_the_text(text):
    with pytest.raises(ValueError, match=r"size|more than"):
        units.parse_bytes(text)


def test_a_rate_may_say_per_second_and_is_never_zero():
    assert units.parse_rate("10 MiB/s") == units.parse_rate("10 MiB") == 10 << 20
    with pytest.raises(ValueError, match="at least one"):
        units.parse_rate("0")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("250ms", 0.25), ("1h30m", 5400), ("2 d", 172800)],
)
def test_times_as_people_write_them(text, seconds):
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "1x", "-1s", "1h 5", "s1"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="not a time"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1.0 KiB"), (1 << 20, "1.0 MiB"),
     (812 << 20, "812 MiB"), (1023 << 20, "1.0 GiB"), (int(4.9 * 2**30), "4.9 GiB")],
)  # fmt: skip
def test_sizes_are_shown_short(count, text):
    assert units.format_bytes(count) == text


def test_done_and_total_share_the_totals_unit():
    assert units.format_progress(int(3.1 * 2**30), int(4.9 * 2**30)) == "3.1/4.9 GiB"
    assert units.format_progress(0, 1 << 30) == "0/1.0 GiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00s"), (0.034, "0.03s"), (3, "3s"), (3.25, "3.2s"), (9.97, "10s"), (59.6, "1m00s"),
     (125, "2m05s"), (3725, "1h02m"), (270000, "3d03h")],
)  # fmt: skip
def test_times_are_shown_short(seconds, text):
    assert units.format_duration(seconds) == text


@given(st.integers(0, 2**62))
def test_what_is_shown_is_near_what_is_meant(count):
    assert units.parse_bytes(units.format_bytes(count)) == pytest.approx(count, rel=0.06, abs=1)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_value_error(text):
    for parse in (units.parse_bytes, units.parse_rate, units.parse_duration):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


def test_one_thing_is_one_and_not_several():
    shown = [units.format_count(n, thing) for n, thing in ((0, "file"), (1, "file"), (2, "copy"))]
    assert shown == ["0 files", "1 file", "2 copies"]


@pytest.mark.parametrize("text", ["99999999999d", "0", "0s", "-5m", "1ms", "3651d", "soon"])
def test_what_expires_does_so_within_a_second_and_ten_years(text):
    assert units.parse_expiry("1s") == 1
    assert units.parse_expiry("3650d") == units.MAX_EXPIRES_S
    with pytest.raises(ValueError, match="from 1s to 3650d"):
        units.parse_expiry(text)

"""The file that Kubo reads too, and what is shown of the key (nothing)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.errors import LocalFault, UsageError
from p2pcache.net.network_key import (
    MAX_FILE_BYTES,
    NetworkKey,
    format_network_key,
    load_network_key,
    parse_network_key,
    save_network_key,
)

KEYS = st.binary(min_size=32, max_size=32).map(NetworkKey)
KEY = NetworkKey(bytes(range(32)))
HEADER = b"/key/swarm/psk/1.0.0/\n"


@given(KEYS)
def test_what_is_written_is_read(key):
    assert parse_network_key(format_network_key(key)) == key


def test_the_format_is_kubos():
    assert (
        format_network_key(KEY) == HEADER + b"/base16/\n" + bytes(range(32)).hex().encode() + b"\n"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"/base16/\n" + KEY.secret.hex().encode(),  # no newline at the end
        b"/base16/\r\n" + KEY.secret.hex().upper().encode() + b"\r\n",
        b"/base64/\n" + base64.b64encode(KEY.secret) + b"\n",
        b"/bin/\n" + KEY.secret,
    ],
)
def test_every_encoding_of_the_spec_is_read(body):
    assert parse_network_key(HEADER + body) == KEY


@given(st.binary(max_size=2 * MAX_FILE_BYTES) | st.binary(max_size=200).map(HEADER.__add__))
def test_anything_else_is_a_usage_error_with_a_hint(data):
    caught: list[str | None] = []
    try:
        parse_network_key(data)
    except UsageError as exc:
        caught.append(exc.hint)
    assert all(caught)
    assert caught or data.startswith(HEADER)


@given(KEYS, st.data())
def test_a_shortened_or_lengthened_key_is_refused(key, data):
    text = format_network_key(key).rstrip()
    cut = data.draw(st.integers(1, len(text) - 1))
    for damaged in (text[:cut], text + b"00"):
        with pytest.raises(UsageError):
            parse_network_key(damaged)


@given(KEYS, KEYS)
def test_a_fingerprint_names_the_network_and_tells_nothing_of_the_key(a, b):
    assert (a.fingerprint == b.fingerprint) == (a == b)
    assert a.secret.hex() not in repr(a) + str(a) + a.fingerprint
    assert repr(a.secret) not in repr(a)
    assert len(a.fingerprint) == 32


def test_the_fingerprint_never_changes():
    assert KEY.fingerprint == "ea578e505ebecda93f8da05ef4f0af4a"


def test_new_keys_differ():
    assert NetworkKey.generate() != NetworkKey.generate()


def test_a_key_is_kept_for_us_alone_and_never_replaced(tmp_path):
    path = tmp_path / "home" / "network.key"
    save_network_key(path, KEY)
    save_network_key(path, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="another network"):
        save_network_key(path, NetworkKey.generate())
    assert load_network_key(path) == KEY
    assert [entry.name for entry in path.parent.iterdir()] == ["network.key"]


def test_no_file_a_damaged_one_and_a_readable_one_are_faults_of_this_machine(tmp_path):
    path = tmp_path / "network.key"
    with pytest.raises(LocalFault, match="no network key") as caught:
        load_network_key(path)
    assert "p2pcache init" in (caught.value.hint or "")
    save_network_key(path, KEY)
    path.chmod(0o644)
    with pytest.raises(LocalFault, match="others can read") as caught:
        load_network_key(path)
    assert "chmod 600" in (caught.value.hint or "")
    path.chmod(0o600)
    path.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(LocalFault, match="too long"):
        load_network_key(path)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", HEADER, HEADER + b"/base16/\nzz\n", HEADER + b"/base16/\n00\n"]
)
def test_a_damaged_key_is_told_in_one_sentence_with_the_way_out(tmp_path, content):
    path = tmp_path / "network.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LocalFault) as caught:
        load_network_key(path)
    assert caught.value.message == f"the network key `{path}` is damaged"
    assert "three lines" in (caught.value.hint or "")
    assert "move it away" in (caught.value.hint or "")

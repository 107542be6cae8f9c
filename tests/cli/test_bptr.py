"""`p2pcache bptr show` and `create`, which need no origin, and what commands say of bad files."""

from __future__ import annotations

import json

import pytest

from p2pcache.cli.main import main

ENTRY = {
    "resolution": {"url": "https://h/m.bin?signature=secret", "expiration_timestamp": 5},
    "uid": "u", "file_name": "/app/model_cache/v/m.bin", "hashtype": "etag", "hash": "a" * 64,
    "size": 2048,
}  # fmt: skip
MODEL = {
    "repo_id": "o/n", "revision": "main", "allow_patterns": None, "ignore_patterns": None,
    "volume_folder": "v", "runtime_secret_name": "s", "kind": "hf",
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "bptr.json"
    path.write_text(json.dumps({"pointers": [ENTRY], "models": [MODEL]}))
    return path


def test_show_lists_names_and_how_they_are_verified_and_no_signature(file, capsys):
    assert main(["bptr", "show", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "2.0 KiB" in out
    assert "sha256 aaaaaaaaaaaa" in out
    assert "/app/model_cache/v/m.bin" in out
    assert "secret" not in out
    assert "hf://o/n@main" in err


def test_show_in_json_is_a_line_for_each(file, capsys):
    assert main(["bptr", "show", str(file), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["type"] for row in rows] == ["pointer", "model"]
    assert rows[0]["sha256"] == "a" * 64
    assert rows[1]["ref"] == "hf://o/n@main"


def test_a_file_that_makes_no_sense_is_exit_12_and_one_that_is_not_there_11(tmp_path, capsys):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    assert main(["bptr", "show", str(bad)]) == 12
    assert main(["bptr", "show", str(tmp_path / "none")]) == 11
    assert main(["bptr", "pull", str(bad), "--to", str(tmp_path), "--model-path", "rel"]) == 2
    assert "absolute" in capsys.readouterr().err


def test_pull_prints_its_folder_and_sends_the_logins_that_the_file_names(
    agent, file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TRUSS_SECRET_s", "of-this-user")
    monkeypatch.setenv("TRUSS_SECRET_other", "not asked for")
    to = str(tmp_path / "to")
    assert main(["bptr", "pull", str(file), "--to", to, "--copy", "--limit-rate", "1M"]) == 0
    out, err = capsys.readouterr()
    assert out == to + "\n"
    assert "note: named by what arrived" in err
    assert "1 file, 4 B: 3 B fetched, 1 B were here" in err
    (op, args) = agent.calls[-1]
    assert (op, args["files"], args["links"]) == ("bptr_pull", [str(file)], False)
    assert args["secrets"] == {"s": "of-this-user"}
    assert args["folders"] == {"": to, "/app/model_cache": to}
    assert main(["bptr", "pull", str(file), "--to", to, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "bptr"


def test_create_writes_what_refs_mean_and_no_file_when_two_have_files_of_one_name(
    agent, tmp_path, capsys
):
    out = tmp_path / "out.json"
    assert main(["bptr", "create", "org/model", "org/model", "--out", str(out)]) == 2
    assert not out.exists()
    argv = ["bptr", "create", "org/model", "--include", "config.json", "--out"]
    assert main([*argv, "-", "--volume", "v"]) == 0
    (made,) = json.loads(capsys.readouterr().out)["pointers"]
    assert made["file_name"] == "/app/model_cache/v/config.json"
    assert made["resolution"]["url"].endswith(f"/org/model/resolve/{'a' * 40}/config.json")
    assert main([*argv, str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(out)
    assert json.loads(out.read_text())["pointers"][0]["uid"] == "org/model:config.json"
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.json"]

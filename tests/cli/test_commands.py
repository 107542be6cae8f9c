"""The commands against a real server with fixed answers."""

import json
import os
import sys

import pytest

from p2pcache.agent.localapi import embedded
from p2pcache.cli.look import status_lines
from p2pcache.cli.main import ALIASES, COMMANDS, FIRST_SCREEN, cli, main
from p2pcache.cli.origins import origin_lines
from p2pcache.errors import ALL_ERRORS
from tests.support.agent_thread import running_agent
from tests.support.scripted_service import (
    ADDRESS,
    LAST_ITEM_COUNT,
    MANIFEST,
    OTHER_PEER,
    PEER,
)

EVERY_DATA_COMMAND = [
    ["get", "org/model"], ["resolve", "org/model"], ["push", "."], ["ls"], ["pin", "org/model"],
    ["unpin", "org/model"], ["rm", "org/model"], ["gc"], ["verify"], ["status"], ["why"],
    ["doctor"], ["config", "show"], ["agent", "status"], ["agent", "stop"], ["init"], ["invite"],
    ["join", "p2pcache1-token"], ["peers"], ["peers", "--banned"], ["unban", PEER],
    ["grant", "hf://org/gated", PEER], ["grant", "--list"],
    ["grant", "--revoke", "hf://org/gated", PEER], ["export", "org/model", "-o", "x.car"],
    ["import", __file__], ["status", "--origins"], ["publish", "org/model"], ["publish", "--list"],
    ["unpublish", "org/model"], ["adopt", "."], ["adopt", "--list"], ["unadopt", "."],
]  # fmt: skip


def test_get_prints_the_path_and_nothing_else_on_stdout(agent, capsys, tmp_path):
    assert main(["get", "org/model"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'hub'}\n"
    assert "400 B fetched" in err
    assert "note: named by what arrived" in err


@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ([], f"{PEER}\n", f"{PEER} may talk to this agent again\n"),
        (["--json"], f'{{"type": "unban", "peer": "{PEER}"}}\n', ""),
        (["-q"], f"{PEER}\n", ""),
    ],
)
def test_unban_says_whose_ban_was_lifted(agent, capsys, options, out, err):
    assert main(["unban", PEER, *options]) == 0
    assert capsys.readouterr() == (out, err)


def test_publish_prints_the_root_and_says_who_gets_it(agent, capsys):
    assert main(["publish", "org/model"]) == 0
    out, err = capsys.readouterr()
    assert out == "bafybeiroot\n"
    assert err == "published org/model: 3 blocks\nnote: nobody gets it yet\n"
    assert main(["publish", "--list"]) == 0
    assert "hf://org/model@main" in capsys.readouterr().out
    assert main(["unpublish", "bafybeiroot", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("args", [["publish"], ["publish", "--list", "x"], ["unpublish"]])
def test_publish_needs_to_know_what(agent, capsys, args):
    assert main(args) == 2


def test_pull_is_get_and_quiet_says_only_the_path(agent, capsys):
    assert main(["pull", "org/model", "--to", "/x", "-q"]) == 0
    assert capsys.readouterr() == ("/x\n", "")


def test_every_option_of_get_reaches_the_agent(agent, capsys):
    args = [
        "get",
        "org/model",
        "--to",
        "/x",
        "--hf-cache",
        "--include",
        "a*",
        "--include",
        "b*",
        "--exclude",
        "*.bin",
    ]
    args += ["--revision", "v1", "--copy", "--dry-run", "--limit-rate", "1 MiB"]
    args += ["--max-age", "1h30m", "--trust", PEER]
    assert main([*args, "--refresh"]) == 0
    assert main([*args, "--offline"]) == 0
    (_, refreshed), (_, sent) = agent.calls
    assert (refreshed["offline"], refreshed["refresh"]) == (False, True)
    assert sent["to"] == "/x"
    assert sent["hf_cache"] == os.environ["HF_HUB_CACHE"]
    assert (sent["include"], sent["exclude"]) == (["a*", "b*"], ["*.bin"])
    assert (sent["revision"], sent["limit_rate"]) == ("v1", 1 << 20)
    assert (sent["links"], sent["dry_run"], sent["offline"], sent["refresh"]) == (
        False, True, True, False,
    )  # fmt: skip
    assert (sent["max_age"], sent["trust"]) == (5400, PEER)
    out, err = capsys.readouterr()
    assert out == ""
    assert "would fetch 400 B" in err


def test_without_trust_and_max_age_the_agents_settings_count(agent):
    assert main(["get", "org/model"]) == 0
    ((_, sent),) = agent.calls
    assert (sent["max_age"], sent["trust"]) == (None, None)


def test_no_hf_cache_and_to_keep_the_hub_cache_out(agent):
    assert main(["get", "org/model", "--no-hf-cache"]) == 0
    assert main(["get", "org/model", "--to", "/x"]) == 0
    assert [args["hf_cache"] for _, args in agent.calls] == [None, None]


@pytest.mark.parametrize("command", EVERY_DATA_COMMAND, ids=" ".join)
def test_json_of_every_command_is_objects_with_a_type_and_nothing_else(home, capsys, command):
    with running_agent(home):
        code = main([*command, "--json"])
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines
    assert all("type" in line for line in lines)
    if command == ["doctor"]:  # one of its checks is bad
        assert (code, json.loads(err)["code"]) == (1, "failed")
    else:
        assert (code, err) == (0, "")


@pytest.mark.parametrize("command", EVERY_DATA_COMMAND, ids=" ".join)
def test_every_command_has_something_to_say_to_people(home, capsys, command):
    with running_agent(home):
        main(command)
    out, err = capsys.readouterr()
    assert out or err
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_an_error_sets_the_exit_code_and_says_what_to_do(agent, capsys, kind):
    assert main(["get", f"fail:{kind.code}"]) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["error: what happened", "  more of it", "hint: do this"]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_an_error_as_json_is_one_object_on_stderr(agent, capsys, kind):
    assert main(["get", f"fail:{kind.code}", "--json"]) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    error = json.loads(err)
    assert (error["type"], error["code"], error["exit_code"]) == (
        "error",
        kind.code,
        kind.exit_code,
    )


@pytest.mark.parametrize(
    "args",
    [["frobnicate"], ["get"], ["get", "a", "b"], ["get", "a", "--nope"],
     ["get", "a", "--limit-rate", "fast"], ["gc", "--target", "-1"], ["completion", "csh"],
     ["push", "a", "--dry-run"], ["export", "org/model"],
     ["export", "-o", "x.car"], ["export", "org/model", "-o", "/"]],
)  # fmt: skip
def test_wrong_usage_exits_2_with_a_hint(home, capsys, args):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "--help` shows the usage" in err


@pytest.mark.parametrize("command", ["get", "resolve"])
def test_offline_and_refresh_exclude_each_other(agent, capsys, command):
    assert main([command, "org/model", "--offline", "--refresh"]) == 2
    assert "--offline and --refresh" in capsys.readouterr().err
    assert agent.calls == []


def test_ls_in_quiet_mode_is_data_alone(agent, capsys):
    assert main(["ls", "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == LAST_ITEM_COUNT
    assert lines[0].startswith("hf://")


def test_what_looks_at_a_running_agent_exits_10_without_one_and_starts_none(home, capsys):
    for command in (
        ["status"], ["status", "--origins"], ["agent", "status"], ["agent", "stop"], ["peers"],
        ["peers", "--banned"], ["invite"], ["grant", "hf://org/gated", PEER], ["grant", "--list"],
        ["grant", "--revoke", "hf://org/gated", PEER],
    ):  # fmt: skip
        assert main(command) == 10
        assert "hint: start one with `p2pcache agent run`" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_damage_that_verify_leaves_behind_exits_12(agent, capsys):
    assert main(["verify", "bad"]) == 12
    out, err = capsys.readouterr()
    assert out == f"bad  {'0' * 64}  2 blocks\n"
    assert "--repair" in err
    assert main(["verify", "bad", "--repair"]) == 0
    assert "3 links in a Hugging Face cache or a folder" in capsys.readouterr().err


def test_what_verify_could_not_read_is_no_damage_and_still_a_failure(agent, capsys):
    assert main(["verify", "unread"]) == 1
    out, err = capsys.readouterr()
    assert out == f"unread  {'1' * 64}  no memory\n"
    assert "1 stored blob could not be read: no memory" in err


def test_gc_says_how_many_bytes_it_kept_and_why(agent, capsys):
    assert main(["gc"]) == 0
    assert capsys.readouterr().err == "freed 3.0 GiB in 4 blobs\n  kept 2.0 GiB: pinned\n"


def test_config_alone_takes_the_options_of_config_show(agent, capsys):
    assert main(["config", "--json"]) == 0
    alone = capsys.readouterr().out
    assert main(["config", "show", "--json"]) == 0
    assert capsys.readouterr().out == alone != ""


def test_ls_aligns_its_columns_and_streams_json_lines(agent, capsys):
    assert main(["ls"]) == 0
    heading, first, *_ = capsys.readouterr().out.splitlines()
    assert heading.index("revision") == first.index("aaaaaaaaaaaa")
    assert "50%" in first
    assert main(["ls", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == LAST_ITEM_COUNT


def test_a_name_with_control_characters_cannot_move_the_terminal(agent, capsys):
    assert main(["resolve", "org/model"]) == 0
    out = capsys.readouterr().out
    assert "new\\nline" in out
    assert MANIFEST in out


def test_the_first_screen_has_a_tagline_five_commands_and_an_example(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("p2pcache: a peer-to-peer")
    assert len(FIRST_SCREEN) == out.count("\n  Get") + sum(
        out.count(f"\n  {group}") for group in ("Keep", "Share", "Look", "Fix")
    )
    assert "p2pcache get hf://org/model" in out


def test_status_shows_the_network_with_its_lanes_and_dht(agent, capsys):
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "network  2f5996096c987138a1f4f8c4a1edb038, 2 other agents" in out
    assert f"peer     {PEER}" in out
    assert f"address  {ADDRESS.partition('/p2p/')[0]}\n" in out
    assert "lanes    port 4802, TLS, 5.0 GiB sent, at most 10 MiB/s" in out
    assert "dht      7 names announced, 2 servers" in out


@pytest.mark.parametrize(
    ("network", "line"),
    [
        ({"state": "none", "why": "no network key"}, "network  none: no network key\n"),
        ({"state": "off", "why": "port 4801 is in use"}, "network  off: port 4801 is in use\n"),
    ],
)
def test_status_says_why_there_is_no_network(agent, capsys, network, line):
    agent.network = network
    assert main(["status"]) == 0
    assert line in capsys.readouterr().out


def test_an_invitation_is_the_token_alone_on_stdout(agent, capsys):
    assert main(["invite", "--expires", "1h"]) == 0
    assert capsys.readouterr().out == "p2pcache1-token\n"
    assert agent.calls == [("invite", {"expires_s": 3600})]


@pytest.mark.parametrize("command", [["init"], ["join", "p2pcache1-token"]])
def test_where_no_agent_runs_the_user_is_told_to_run_one(home, monkeypatch, capsys, command):
    run_one = "now run `p2pcache agent run`"
    with running_agent(home):
        assert main(command) == 0
        assert run_one not in capsys.readouterr().err
    scripted = (sys.executable, "-m", "tests.support.scripted_service")
    monkeypatch.setattr(embedded, "agent_command", lambda **_: scripted)
    assert main(command) == 0
    assert run_one in capsys.readouterr().err


@pytest.mark.parametrize("time", ["99999999999d", "0", "1ms"])
@pytest.mark.parametrize("command", [["invite"], ["grant", "hf://org/gated", PEER]])
def test_an_expiry_that_cannot_be_is_refused_before_the_agent_is_asked(
    agent, capsys, command, time
):
    assert main([*command, "--expires", time]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "--expires" in err
    assert "from 1s to 3650d" in err
    assert agent.calls == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "p2pcache peers"), (["hf://org/gated"], "p2pcache peers"), (["", PEER], "p2pcache"),
        (["--revoke"], "p2pcache peers"), (["--list", "hf://org/gated"], "--list shows all"),
        (["--list", "--revoke"], "--list shows all"), (["--list", "--expires", "1d"], "new grant"),
        (["--revoke", "hf://org/gated", PEER, "--expires", "1d"], "new grant"),
    ],
)  # fmt: skip
def test_a_grant_without_its_arguments_or_with_too_many_is_refused(agent, capsys, args, said):
    assert main(["grant", *args]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert said in err
    assert agent.calls == []


def test_grants_are_given_listed_and_taken_back(agent, capsys):
    assert main(["grant", "hf://org/gated", PEER]) == 0
    err = capsys.readouterr().err
    assert f"{PEER} may read hf://org/gated until" in err
    assert "right peer id" not in err
    assert main(["grant", "hf://org/other", PEER]) == 0
    assert "right peer id" in capsys.readouterr().err
    assert main(["grant", "--list"]) == 0
    title, one, two = capsys.readouterr().out.splitlines()
    assert title.split() == ["repository", "peer", "until"]
    assert "taken back" not in one
    assert two.endswith("taken back")
    assert main(["grant", "--revoke", "hf://org/gated", PEER]) == 0
    assert "no more" in capsys.readouterr().err
    assert [args["expires_s"] for op, args in agent.calls if op == "grant"] == [30 * 86400] * 2


def test_peers_shows_who_is_there_and_why_somebody_is_not_talked_to(agent, capsys):
    assert main(["peers"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.index("sent") == row.index("3.0 MiB")
    assert main(["peers", "--banned"]) == 0
    assert "sent\\nwrong bytes" in capsys.readouterr().out


def test_status_shows_who_spent_the_budget_of_an_origin(agent, capsys):
    assert main(["status", "--origins"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "huggingface.co  1.0/1.0 TiB in 2026-11, 10 requests",
        "  budget  50 requests/s, 8 at once, 100 MiB/s, 1.0 TiB a month; "
        "the month renews on 2026-12-01 (UTC)",
        "  used up: no agent asks it before then",
        "  cost    1.05 copies of 2.0 MiB, 3 errors here, 1.0 MiB sent there, 98.96 USD",
        f"  {PEER} (this agent)  1.0 TiB, 9 requests  asks now, 4 at once",
        f"  {OTHER_PEER}  5.0 MiB, 1 request  (not counted)",
        f"  {PEER} (this agent)  was told to wait, 1m30s more",
    ]
    assert origin_lines([]) == ["no origin has a budget, and none was asked in that month"]


def test_one_blob_is_no_blobs():
    status = {"version": "1", "pid": 1, "uptime_s": 1.0, "rss_bytes": 1, "home": "/x", "clients": 1,
              "pulls": [], "store": {"blobs": 1, "used_bytes": 3, "partials": 0},
              "network": {"state": "opening", "why": None}}  # fmt: skip
    lines = status_lines(status)
    assert "store    3 B in 1 blob, 0 partial" in lines
    assert "network  opening" in lines


def test_the_network_settings_are_shown_as_they_are_written(agent, capsys):
    assert main(["config", "show"]) == 0
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in _lines(capsys)}
    assert shown["names.trust"].split()[0] == "any"
    assert shown["store.capacity"].startswith("1 GiB")
    assert shown["network.hosts"].startswith("0.0.0.0, ::")
    assert shown["network.dns"].split()[0] == "none"


def _lines(capsys):
    return capsys.readouterr().out.splitlines()


def every_command():
    for group in COMMANDS.values():
        for name in group:
            command = cli.get_command(None, name)
            yield [name], command
            for inner in getattr(command, "commands", {}).values():
                yield [name, inner.name], inner


@pytest.mark.parametrize("path", [path for path, _ in every_command()], ids=" ".join)
def test_help_of_every_command_has_one_line_an_example_and_exit_codes(path, capsys):
    assert main([*path, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: p2pcache {' '.join(path)}" in out
    if path not in (["config"], ["agent"], ["bptr"]):  # groups list their commands instead
        assert "Example:" in out
        assert "130  interrupted" in out


def test_every_line_of_the_overview_is_the_commands_own():
    for group in COMMANDS.values():
        for name, (_, _, line) in group.items():
            assert cli.get_command(None, name).short_help == line
    assert ALIASES == {"pull": "get"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "_P2PCACHE_COMPLETE" in capsys.readouterr().out

"""`p2pcache trace` against a real agent: followed, recorded, replayed; and `why` beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2pcache.agent.localapi.aclient import AsyncClient
from p2pcache.cli.main import main
from p2pcache.cli.trace import readable
from tests.support.agents import REPO, running_agent
from tests.support.faulty_http import FaultyServer, ranged
from tests.support.partial_files import some_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "X-Amz-Signature=0123456789abcdef"
BODY = some_bytes(5 * (1 << 20) + 3, b"traced")


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    with running_agent(tmp_path_factory.mktemp("agent")) as agent:
        yield agent


@pytest.fixture
def url() -> Iterator[str]:
    with FaultyServer() as web:
        yield web.on("/model.bin", ranged(BODY)) + "?" + SECRET


class Listening(threading.Thread):
    """`Client.trace` in a thread of its own: from its first line on, all."""

    def __init__(self, agent: Any, ref: str | None = None) -> None:
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self.first = threading.Event()
        self._agent, self._ref = agent, ref

    def run(self) -> None:
        with self._agent.client() as client:
            client.trace(self._note, self._ref, once=True)

    def _note(self, line: str) -> None:
        self.lines.append(line)
        self.first.set()


@contextmanager
def listening(agent, ref=None) -> Iterator[Listening]:
    thread = Listening(agent, ref)
    thread.start()
    assert thread.first.wait(10)
    yield thread
    thread.join(10)
    assert not thread.is_alive(), "it ends with the pull"


def test_a_traced_pull_has_no_secret_and_is_replayed_with_the_same_actions(
    agent, url, tmp_path, capsys
):
    with listening(agent) as heard:
        answer = agent.get(url, to=str(tmp_path / "here"))
    assert answer["fetched_bytes"] == len(BODY)
    kinds = [json.loads(line)["type"] for line in heard.lines]
    assert (kinds[:3], kinds[-1]) == (["trace", "pull", "blobs"], "end")
    assert not any("Signature" in line for line in heard.lines)
    names = {json.loads(line).get("action") for line in heard.lines}
    assert {"open", "fetch", "digest", "finished"} <= names
    recording = tmp_path / "pull.jsonl"
    recording.write_text("\n".join(heard.lines) + "\n")
    assert main(["trace", "--replay", str(recording), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["same"] is True
    assert shown["where"] == json.loads(heard.lines[-1])["where"]
    assert main(["trace", "--replay", str(recording)]) == 0
    assert "the same" in capsys.readouterr().out
    why = agent.why()
    assert sum(why["where"].values()) == pytest.approx(why["times"]["fetch_s"])
    assert why["origin_copies"] == {"own": pytest.approx(1.0), "heard": None}
    assert why["duplicates"] == {"restart": 0} or sum(why["duplicates"].values()) == 0


def test_a_recording_with_another_decision_fails_and_says_where(agent, url, tmp_path, capsys):
    with listening(agent) as heard:
        agent.get(url + "&again=1", to=str(tmp_path / "here"))
    recording = tmp_path / "pull.jsonl"
    changed = [line.replace('"action":"digest"', '"action":"open"') for line in heard.lines]
    changed = [line.replace(',"again":false', "") for line in changed]
    assert changed != heard.lines
    recording.write_text("\n".join(changed))
    assert main(["trace", "--replay", str(recording)]) == 1
    assert "differs at step" in capsys.readouterr().out


def test_only_the_pulls_of_the_ref_that_was_named_are_heard(agent, tmp_path):
    one, two = (tmp_path / name for name in ("one.bin", "two.bin"))
    for number, path in enumerate((one, two)):
        path.write_bytes(BODY + bytes([number]))
    with listening(agent, str(two)) as heard:
        agent.get(str(one))
        agent.get(str(two))
    refs = [json.loads(line)["ref"] for line in heard.lines if '"type":"pull"' in line]
    assert len(refs) == 1
    assert refs[0].endswith("two.bin")


def test_what_is_no_recording_is_wrong_usage(tmp_path, capsys):
    wrong = tmp_path / "wrong"
    wrong.write_text("not json\n")
    none = str(tmp_path / "none")
    for arguments, code in (([str(wrong)], 2), ([none], 11), ([str(wrong), "--once"], 2)):
        assert main(["trace", "--replay", *arguments]) == code
        assert "error:" in capsys.readouterr().err


async def test_the_async_client_follows_too_and_a_cancel_ends_it(agent, tmp_path):
    path = tmp_path / "three.bin"
    path.write_bytes(BODY + b"3")
    lines: list[str] = []
    async with AsyncClient(agent.home) as client, trio.open_nursery() as nursery:

        async def follow() -> None:
            await client.trace(lines.append, once=False)

        nursery.start_soon(follow)
        with trio.fail_after(10):
            while not lines:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await client.get(str(path), hf_cache=False)
            while '"type":"end"' not in lines[-1]:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


def test_the_program_prints_lines_for_people_and_stops_with_its_reader(tmp_path):
    """Also: an agent that stops does not wait for those who listen."""
    with running_agent(tmp_path / "home") as agent:
        program = subprocess.Popen(
            [sys.executable, "-m", "p2pcache", "trace"], stdout=subprocess.PIPE, text=True,
            cwd=REPO, env=agent.env,
        )  # fmt: skip
        assert program.stdout is not None
        assert program.stdout.readline().startswith("listening to p2pcache/")
        path = tmp_path / "four.bin"
        path.write_bytes(BODY)
        agent.get(str(path))
        began = time.monotonic()
        agent.stop()
        assert time.monotonic() - began < 4.0
        out, _ = program.communicate(timeout=10)
    assert "pull {" in out
    assert "> source_up" in out
    assert "< fetch" in out
    assert program.returncode == 0


def test_every_kind_of_record_is_one_line_for_people():
    assert readable({"type": "lost", "steps": 3}).startswith("... 3 steps were lost")
    assert readable({"type": "event", "event": "tick", "pull": 1, "t": 0.5, "step": 1}) == (
        "  1     0.500s  > tick {}"
    )
    long = readable({"type": "action", "action": "say", "pull": 1, "t": 0.5, "brings": [1] * 999})
    assert long.endswith("...")
    assert "\n" not in readable({"type": "new\nkind"})

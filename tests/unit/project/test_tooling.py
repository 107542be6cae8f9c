"""What the project promises about its own set-up, benchmarks and documents."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import demo, measure
from scripts.bench import BENCHES
from scripts.bench_support import above, at_least, at_most, document, info, last_json, table
from scripts.setup_checkout import BUILD_TOOLS, make_venv, pinned_entries

ROOT = Path(__file__).resolve().parents[3]
PINS = [ROOT / "constraints.txt", *sorted((ROOT / "scripts" / "pins").glob("*.txt"))]
ENTRY = re.compile(r"[a-z0-9.-]+==[^\s;]+( ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def normalised(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.mark.parametrize("pins", PINS, ids=lambda path: path.stem)
def test_pins_are_names_versions_and_hashes_only(pins: Path) -> None:
    lines = pins.read_text().splitlines()
    assert [line for line in lines if not ENTRY.fullmatch(line) and not HASH.fullmatch(line)] == []


@pytest.mark.parametrize("pins", PINS, ids=lambda path: path.stem)
def test_pins_are_sorted_and_each_has_a_hash(pins: Path) -> None:
    names = [line.partition("==")[0] for line in pins.read_text().splitlines() if "==" in line]
    assert names == sorted(names)
    for name in names:
        assert "--hash=sha256:" in pinned_entries(pins, (name,))


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {*project["dependencies"], *project["optional-dependencies"]["test"]}
    constraints = (ROOT / "constraints.txt").read_text()
    pinned = {
        normalised(line) for line in constraints.splitlines() if line and not line.startswith(" ")
    }
    assert {normalised(each) for each in asked} - pinned == set()


def test_the_build_tools_are_taken_out_of_the_pins_with_their_hashes() -> None:
    entries = pinned_entries(ROOT / "constraints.txt", BUILD_TOOLS).splitlines()
    names = [line.partition("==")[0] for line in entries if not line.startswith(" ")]
    assert names == list(BUILD_TOOLS)
    assert len(entries) > len(names)


def test_setup_leaves_an_environment_alone_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "theirs.txt").write_text("mine")
    with pytest.raises(SystemExit):
        make_venv(tmp_path, ROOT / "constraints.txt", "mark", editable=False)
    assert (tmp_path / "theirs.txt").read_text() == "mine"


def test_the_readme_begins_with_the_two_commands_that_set_everything_up() -> None:
    top = (ROOT / "README.md").read_text().splitlines()[:6]
    assert any(line.startswith("scripts/demo") for line in top)
    assert any(line.startswith("scripts/test") for line in top)


def test_the_quickstart_begins_with_the_exports_that_the_demo_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo.finish({"nginx": 0}, Path.home() / ".cache/p2pcache-demo/nginx")
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if "export " in line]
    readme = (ROOT / "README.md").read_text()
    quickstart = readme.partition("## Quickstart")[2].partition("\n## ")[0]
    shown = re.findall(r"^\$ (export .*)", quickstart, re.M)
    assert len(shown) == 2
    assert [line.replace("=~/", f"={Path.home()}/") for line in shown] == printed


def test_every_benchmark_in_the_list_is_a_module_and_the_other_way_round() -> None:
    shared = {"bench_support", "bench_network"}
    modules = {path.stem for path in (ROOT / "scripts").glob("bench_*.py")} - shared
    assert {f"bench_{name}" for name in BENCHES} == modules


def test_a_row_holds_only_within_its_goal() -> None:
    assert [at_most("a", 2.0, 2.0).holds, at_most("a", 2.1, 2.0).holds] == [True, False]
    assert [at_least("a", 2.0, 2.0).holds, at_least("a", 1.9, 2.0).holds] == [True, False]
    assert [above("a", 1.1, 1.0).holds, above("a", 1.0, 1.0).holds] == [True, False]
    assert info("a", 1.0).holds is None


def test_a_missed_goal_is_shown_and_kept_in_the_document() -> None:
    rows = [at_most("slow", 3.0, 2.0), info("left out", None)]
    assert "MISSED" in table(rows)
    assert "not measured" in table(rows)
    said = last_json("noise\n" + document("origin", rows, quick=True, seconds=1.0))
    assert said["bench"] == "origin"
    assert [row["holds"] for row in said["results"]] == [False, None]
    assert set(said) >= {"bench", "machine", "version", "results"}


def test_memory_and_cpu_of_a_child_of_a_child_are_counted() -> None:
    grandchild = "kept = bytearray(64 << 20); print(sum(range(3_000_000)), flush=True); input()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(measure.tree(parent.pid)) == 2
        assert measure.memory_bytes(parent.pid) > 64 << 20
        assert measure.cpu_s(parent.pid) > 0.02
        parent.communicate(b"\n")


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="wrong turn"):
        measure.run([sys.executable, "-c", "import sys; sys.exit('wrong turn')"], {})

"""Nothing undocumented ships: commands, options, exit codes and variables against docs/cli.md."""

import re
from pathlib import Path

import click
import pytest

from p2pcache import config, errors
from p2pcache.cli.main import ALIASES, COMMANDS, cli, main
from p2pcache.cli.output import EXIT_CODES
from p2pcache.config import environment, settings

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
README = (Path(__file__).parents[2] / "README.md").read_text()
SHARED = {"--json", "--quiet", "-q", "--help"}  # documented once, for all


def commands():
    for group in COMMANDS.values():
        for name in group:
            command = cli.get_command(None, name)
            inner = getattr(command, "commands", {})
            for sub in inner.values():
                yield f"{name} {sub.name}", sub
            if not inner:
                yield name, command


ALL = dict(commands())


def section(name):
    found = re.search(rf"^### p2pcache {re.escape(name)}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert found, f"docs/cli.md has no section `### p2pcache {name}`"
    return found[1]


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_a_section_with_its_example(name):
    assert ALL[name].example in section(name)


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_in_its_commands_section(name):
    for param in ALL[name].params:
        if isinstance(param, click.Option):
            for option in {*param.opts, *param.secondary_opts} - SHARED:
                assert f"`{option}" in section(name), option


@pytest.mark.parametrize("name", ALL)
def test_every_exit_code_of_a_command_is_in_its_section(name):
    listed = re.search(r"^Exits: (.*)$", section(name), re.M)
    assert listed, f"{name}: no `Exits:` line"
    assert tuple(map(int, listed[1].split(", "))) == ALL[name].exits


def test_the_readme_lists_every_command_in_its_group():
    rows = re.findall(r"^\| (\w+) \| (`.*`) \|$", README, re.M)
    listed = {group: re.findall(r"`(\w+)`", names) for group, names in rows}
    assert listed == {group: list(names) for group, names in COMMANDS.items()}


@pytest.mark.parametrize("name", [*ALL, "config", "agent"])
def test_every_help_shows_an_example_and_exit_codes(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example:" in out
    assert "Exit codes:" in out


@pytest.mark.parametrize("name", [*ALL, "config"])
def test_every_command_but_those_that_the_page_names_takes_json(name):
    assert "Every command but `agent run` and `completion` takes" in PAGE
    command = ALL.get(name) or cli.get_command(None, name)
    takes = any("--json" in param.opts for param in command.params)
    assert takes == (name not in ("agent run", "completion"))


def test_no_section_documents_what_does_not_exist():
    assert set(re.findall(r"^### p2pcache (.+)$", PAGE, re.M)) == set(ALL)
    for name in ALL:
        known = {o for p in ALL[name].params for o in (*p.opts, *p.secondary_opts)}
        assert set(re.findall(r"`(--[a-z-]+)", section(name))) <= known | SHARED


def test_every_exit_code_of_every_error_has_its_meaning():
    for code in {kind.exit_code for kind in errors.ALL_ERRORS} | set(EXIT_CODES):
        assert f"| {code} | {EXIT_CODES[code]} |" in PAGE


@pytest.mark.parametrize("name", [name for name, _ in config.ENVIRONMENT])
def test_every_variable_is_in_the_table(name):
    assert f"| `{name}` |" in PAGE


def test_every_variable_that_is_read_is_listed():
    source = Path(environment.__file__).read_text()
    read = set(re.findall(r"environ(?:\.get\(|\[)\s*\"(\w+)\"", source))
    read |= set(re.findall(r'for name in \("(\w+)", "(\w+)"\)', source)[0])
    assert read
    assert read <= {name for name, _ in config.ENVIRONMENT}


def test_aliases_and_shared_options_are_documented():
    for text in (*ALIASES, *SHARED):
        assert f"`{text}`" in PAGE


@pytest.mark.parametrize("setting", settings.SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_is_in_the_table(setting):
    assert f"| `{setting.key}` | `{setting.variable}` |" in PAGE


@pytest.mark.parametrize("setting", settings.SETTINGS, ids=lambda setting: setting.key)
def test_every_default_in_the_table_is_written_as_it_may_be_set(setting):
    shown = re.search(rf"^\| `{setting.key}` \| `\w+` \| (.*?) \|", PAGE, re.M)
    assert shown
    value = shown[1]
    assert setting.parse(value) == setting.default

"""The table in option_table.py says what the real uv's help says, in every version."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache

import pytest
from support.uvs import VERSIONS, all_versions, uv

from uv_mutex.uv import commandline, option_table

_SUBCOMMANDS = ("", *sorted(option_table.GUARDED))
all_subcommands = pytest.mark.parametrize("subcommand", _SUBCOMMANDS)
#: Without UV_ variables, whose values the help would show.
_ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("UV_")} | {"NO_COLOR": "1"}


def _ask(uv_version: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [uv(uv_version), *words], env=_ENVIRON, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@lru_cache
def _help(uv_version: str, subcommand: str) -> str:
    return _ask(uv_version, *([subcommand] if subcommand else []), "--help").stdout


def _lacks(uv_version: str, subcommand: str) -> bool:
    """Whether a version has no such subcommand. Old ones have no `upgrade` and no `check`."""
    return subcommand in ("check", "upgrade") and not _help(uv_version, subcommand)


def _no_help(subcommand: str) -> str:
    raise AssertionError(f"the table lacks an option of {subcommand or 'uv itself'}")


@all_subcommands
@all_versions
def test_the_table_has_every_option_of_the_help(uv_version: str, subcommand: str) -> None:
    if _lacks(uv_version, subcommand):
        return
    listed = option_table.options_in_help(_help(uv_version, subcommand))
    assert {"--help", "-q", "--quiet", "--directory", "--color"} <= set(listed)
    table = option_table.known_options(subcommand)
    assert {name: table.get(name) for name in listed} == listed


@all_subcommands
@all_versions
def test_the_help_is_read_whole(uv_version: str, subcommand: str) -> None:
    """Every word that looks like an option where an option stands is one."""
    lines = [line.strip() for line in _help(uv_version, subcommand).splitlines()]
    starts = {line.replace(",", " ").replace("...", " ").split()[0] for line in lines if line.startswith("-")}
    assert starts <= set(option_table.options_in_help(_help(uv_version, subcommand)))


@all_subcommands
@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_the_table_is_right_about_hidden_options(uv_version: str, subcommand: str) -> None:
    """uv itself says of an option without a value whether it wants one, or doesn't know it."""
    if _lacks(uv_version, subcommand):
        return
    listed = option_table.options_in_help(_help(uv_version, subcommand))
    hidden = {name: value for name, value in option_table.known_options(subcommand).items() if name not in listed}
    words = [subcommand] if subcommand else []
    known = 0
    for name, takes_value in hidden.items():
        if name in ("-V", "--version", "-h", "--help", "--show-settings"):
            continue
        done = _ask(uv_version, *words, name, "--help")
        if f"unexpected argument '{name}' found" in done.stderr:
            continue  # of another version
        known += 1
        assert ("a value is required" in done.stderr) == takes_value, (name, done.stderr)
        assert (done.returncode == 0) != takes_value, (name, done.stderr)
    assert known > 5, hidden


@all_subcommands
def test_every_option_exists_in_some_version(subcommand: str) -> None:
    """No option stands in the table for nothing."""
    words = [subcommand] if subcommand else []
    left = set(option_table.known_options(subcommand))
    shared = set(option_table.known_options("")) if subcommand else set()
    for version in reversed(VERSIONS):
        left -= set(option_table.options_in_help(_help(version, subcommand)))
    unheard = []
    for name in sorted(left - shared):
        answers = (_ask(version, *words, name, "--help").stderr for version in reversed(VERSIONS))
        if all(f"unexpected argument '{name}' found" in answer for answer in answers):
            unheard.append(name)
    assert not [name for name in unheard if subcommand in ("", "run")], unheard


@all_versions
def test_the_table_makes_help_unnecessary(uv_version: str) -> None:
    for subcommand in option_table.GUARDED:
        for name, takes_value in option_table.options_in_help(_help(uv_version, subcommand)).items():
            call = commandline.parse([subcommand, name, *(["x"] if takes_value else [])], _no_help)
            assert call is not None
            assert call.options == [(name, "x" if takes_value else None)]


@all_versions
def test_an_option_that_the_table_lacks_is_read_from_the_help(uv_version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(option_table, "_GROUP_VALUES", "")
    monkeypatch.setattr(option_table, "_FLAGS", {**option_table._FLAGS, "run": ""})
    monkeypatch.setattr(option_table, "_VALUES", {**option_table._VALUES, "run": ""})
    words = ["run", "--extra", "sync", "--with=six", "--all-extras", "-m", "python", "-c", "1"]
    call = commandline.parse(words, lambda subcommand: _help(uv_version, subcommand))
    assert call is not None
    assert call.options == [("--extra", "sync"), ("--with", "six"), ("--all-extras", None), ("-m", None)]
    assert call.operands == ["python", "-c", "1"]
    unknown = commandline.parse(["run", "--sorcery", "x"], lambda subcommand: _help(uv_version, subcommand))
    assert unknown is not None
    assert not unknown.understood

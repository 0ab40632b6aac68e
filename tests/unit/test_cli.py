"""What the `uv-mutex` command says before it does anything."""

from __future__ import annotations

import sys

import pytest

from uv_mutex import cli
from uv_mutex.commands import completion


@pytest.mark.parametrize("command", [*completion.commands(cli.parser()), "--help"])
def test_other_systems_are_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cli.main([command]) == 2
    assert capfd.readouterr() == ("", "uv-mutex: darwin is not supported; run uv-mutex on Linux\n")

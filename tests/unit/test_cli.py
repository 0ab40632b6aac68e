"""What the `uv-mutex` command says before it does anything."""

from __future__ import annotations

import sys

import pytest

from uv_mutex import cli
from uv_mutex.shim import main


@pytest.mark.parametrize("command", [*cli.parser().commands, "--help"])
def test_other_systems_are_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cli.main([command]) == 2
    assert capfd.readouterr() == ("", "uv-mutex: darwin is not supported; run uv-mutex on Linux\n")


def test_the_launcher_refuses_other_systems(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(sys, "argv", ["/opt/bin/uv", "sync"])
    with pytest.raises(SystemExit) as ended:
        main.main(["sync"])
    assert ended.value.code == 2
    assert capfd.readouterr().err == "uv-mutex: darwin is not supported; remove /opt/bin/uv, or run it on Linux\n"

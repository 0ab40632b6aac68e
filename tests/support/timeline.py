"""Logs to draw, and their pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from uv_mutex import cli


def line(**fields: Any) -> str:
    """A line of a log, with these fields instead."""
    call = {
        "time": 1_700_000_000.25,
        "host": "node-1",
        "pid": 4121,
        "command": "uv run true",
        "project": "/p",
        "waited": 0.0,
        "held": 0.01,
        "prepared": False,
        "exit": None,
    }
    return json.dumps({**call, **fields}) + "\n"


def draw(tmp_path: Path, text: str | bytes, *words: str) -> Path:
    """Draw a log; return the picture."""
    log, output = tmp_path / "log", tmp_path / "out"
    log.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert cli.main(["timeline", str(log), "-o", str(output), *words]) == 0
    return output

"""A renderer of SVG reads what the timeline draws."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support import need
from support.timeline import draw, line


def test_a_renderer_takes_it(tmp_path: Path) -> None:
    renderer = need.executable("rsvg-convert")
    text = "".join(line(time=1_700_000_000 + number / 100, waited=0.1, host=f"n{number % 3}") for number in range(100))
    picture = draw(tmp_path, text)
    done = subprocess.run([renderer, str(picture)], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"\x89PNG")

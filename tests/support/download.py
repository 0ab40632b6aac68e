"""Commands that load something over the network, which now and then fails for a moment: they are tried again."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PAUSES = (2, 10)


def download(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command until it succeeds, three times at most; return how it ended, with what it said.

    :param options: for subprocess.run.
    """
    defaults = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    for pause in (*_PAUSES, 0):
        done: subprocess.CompletedProcess[str] = subprocess.run(command, check=False, **{**defaults, **options})
        if not done.returncode:
            break
        time.sleep(pause)
    return done


def machines_variables(certificates: str) -> dict[str, str]:
    """For a pip and a uv on a machine of the tests: this machine's way to the package index, and patience with it.

    :param certificates: where that machine has the certificates of this one.
    """
    carried = {name: value for name, value in os.environ.items() if re.match("PIP_|.*_PROXY", name.upper())}
    carried.pop("PIP_FIND_LINKS", None)
    patience = {"PIP_RETRIES": "10", "PIP_DEFAULT_TIMEOUT": "60", "UV_HTTP_RETRIES": "10", "UV_HTTP_TIMEOUT": "60"}
    return {**carried, **patience, "PIP_CERT": certificates}

"""Who waits in the kernel."""

from __future__ import annotations

import re
from pathlib import Path


def is_blocked(pid: int) -> bool:
    """Whether a process waits for a flock, in the native launcher or in Python."""
    return bool(re.search(rf"-> FLOCK\s+ADVISORY\s+\w+\s+{pid} ", Path("/proc/locks").read_text()))

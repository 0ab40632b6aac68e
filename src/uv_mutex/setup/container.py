"""Whether this is a container, and the PATH of programs that read no profile."""

import os
from pathlib import Path

#: The default PATH of Docker, systemd, sudo and Debian's root.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What process 1 is called on a machine that is no container.
_INIT_PROGRAMS = ("systemd", "init", "runit", "openrc-init")


def bare_paths() -> list[str]:
    """The values of PATH that programs get which read no profile: those of the image in a container."""
    if not _in_container():
        return [DEFAULT_PATH]
    found = [_first_process_path(), os.environ.get("PATH")]
    return list(dict.fromkeys(path for path in found if path)) or [DEFAULT_PATH]


def _in_container() -> bool:
    """Whether this is a container, or an image that is being built."""
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return True
    try:
        return Path("/proc/1/comm").read_text(encoding="utf-8").strip() not in _INIT_PROGRAMS
    except (OSError, ValueError):
        return False


def _first_process_path() -> str | None:
    """The PATH of process 1, which in a container is the PATH of its image; None if it can't be read."""
    try:
        block = os.fsdecode(Path("/proc/1/environ").read_bytes())
    except OSError:
        return None
    return next((item[5:] for item in block.split("\0") if item.startswith("PATH=")), None)

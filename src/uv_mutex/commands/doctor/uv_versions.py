"""What a version of uv guards by itself, and what it doesn't.

From uv's changelog and from measurements (DESIGN: 0.5.31, 0.7.8, 0.7.13 and 0.13.9, with the tests of this repository).
"""

from packaging.version import InvalidVersion, Version

#: From this version on, what uv has learned; the number is the one of uv's changelog.
_LEARNED = (
    ("0.5.29", "locks the creation of .venv, with a file in TMPDIR, so on this host alone"),
    ("0.7.12", "`uv sync`, `uv add` and `uv remove` lock the environment while they change it"),
    ("0.7.14", "`uv run` locks the environment while it changes it"),
    ("0.9.16", "a wait for one of its locks fails after 5 minutes (UV_LOCK_TIMEOUT)"),
)
#: Before this version, what breaks; None: in every version so far.
_BREAKS = (
    ("0.7.12", "parallel `uv sync` break each other's .venv"),
    ("0.8", "parallel `uv run` break each other's .venv"),
    (None, "parallel `uv add` and `uv remove` lose each other's changes, and exit with 0"),
    (None, "hosts that share a project break each other's .venv: the lock of its creation is in each one's TMPDIR"),
    (None, "without flock nothing is locked"),
)
_TIMES_OUT = ("0.9.16", "whoever waits behind a build of more than 5 minutes fails (UV_LOCK_TIMEOUT)")


def parse(text: str) -> Version | None:
    """The version in what `uv --version` says, None if there is none in it."""
    try:
        return Version(text.split()[1])
    except (IndexError, InvalidVersion):
        return None


def guards(version: Version) -> list[str]:
    """What this uv does by itself."""
    return [what for since, what in _LEARNED if version >= Version(since)]


def breaks(version: Version) -> list[str]:
    """What goes wrong with this uv, without uv-mutex."""
    found = [what for until, what in _BREAKS if until is None or version < Version(until)]
    since, what = _TIMES_OUT
    return [*found, what] if version >= Version(since) else found

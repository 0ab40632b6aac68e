"""What each version of uv protects by itself, and what it does not.

From uv's changelog, and from the tests of this repository on uv 0.5.31, 0.7.8, 0.7.13 and 0.13.9.
"""

from packaging.version import InvalidVersion, Version

#: What uv does since a version, by its changelog.
_GUARDS_SINCE = (
    ("0.5.29", "locks the creation of .venv, with a file in TMPDIR, so on this host alone"),
    ("0.7.12", "`uv sync`, `uv add` and `uv remove` lock the environment while they change it"),
    ("0.7.14", "`uv run` locks the environment while it changes it"),
    ("0.9.16", "a wait for one of its locks fails after 5 minutes (UV_LOCK_TIMEOUT)"),
)
#: What goes wrong in the versions before this one; None: in all versions so far.
_BREAKS_BEFORE = (
    ("0.7.12", "parallel `uv sync` break each other's .venv"),
    ("0.8", "parallel `uv run` break each other's .venv"),
    (None, "parallel `uv add` and `uv remove` lose each other's changes, and exit with 0"),
    (None, "hosts that share a project break each other's .venv: the lock of its creation is in each one's TMPDIR"),
    (None, "without flock nothing is locked"),
)
#: What goes wrong since a version.
_BREAKS_SINCE = ("0.9.16", "whoever waits behind a build of more than 5 minutes fails (UV_LOCK_TIMEOUT)")


def parse(text: str) -> Version | None:
    """The version in the output of `uv --version`; None if there is none in it."""
    try:
        return Version(text.split()[1])
    except (IndexError, InvalidVersion):
        return None


def guards(version: Version) -> list[str]:
    """What this version of uv protects by itself, a sentence for each."""
    return [what for since, what in _GUARDS_SINCE if version >= Version(since)]


def breaks(version: Version) -> list[str]:
    """What goes wrong with this version of uv where uv-mutex is not used, a sentence for each."""
    found = [what for until, what in _BREAKS_BEFORE if until is None or version < Version(until)]
    since, what = _BREAKS_SINCE
    return [*found, what] if version >= Version(since) else found

"""The user's folders for settings and for what can be lost.

Follows crates/uv-dirs/src/lib.rs, and the crate etcetera below it.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def config(environ: "Mapping[str, str]") -> str | None:
    """The folder in which programs keep the user's settings; None if nobody can say where the user's home is."""
    return _folder(environ, "XDG_CONFIG_HOME", ".config")


def cache(environ: "Mapping[str, str]") -> str | None:
    """The folder in which programs keep what they can make again; None as for :func:`config`."""
    return _folder(environ, "XDG_CACHE_HOME", ".cache")


def _folder(environ: "Mapping[str, str]", variable: str, default: str) -> str | None:
    home = environ.get("HOME")
    if home is None:
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # the user ids of containers often have no name
            return None
    given = environ.get(variable, "")
    return given if given.startswith("/") else os.path.join(home, default)

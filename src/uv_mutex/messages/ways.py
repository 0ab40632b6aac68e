"""What wiring a machine comes to."""


def unreachable(path: str, folder: str) -> str:
    """Root wires a machine with something that only root can reach."""
    return (
        f"other users cannot reach {path}, since {folder} is closed to them; "
        "choose a --prefix such as /opt/uv-mutex, and a Python outside a home folder"
    )


def no_record(path: str, reason: str) -> str:
    """The list of what is wired can't be written, so nothing was."""
    return f"cannot write {path}: {reason}; nothing was wired"


def not_wired(path: str, reason: str) -> str:
    """One of many places; the others are wired."""
    return f"cannot write {path}: {reason}; run this again once it can be written"


def not_unwired(path: str, reason: str) -> str:
    """The list of what is wired stays, so that it can be tried again."""
    return f"cannot restore {path}: {reason}; make it writable, and uninstall again"


def foreign_link(path: str) -> str:
    """Something else has the place of our link."""
    return f"{path} is not a uv-mutex shim, and is left alone: calls by that folder go past the shim"


def way(name: str, prefix: str, first: str, real: str, *, shimmed: bool) -> str:
    """What one way in finds now."""
    if not first:
        return f"  ?     {name}: no uv on its PATH"
    if not shimmed:
        return f"  PAST  {name}: {first} comes first; put {prefix}/bin before its folder there"
    if not real:
        return f"  ok    {name}: the shim, but no real uv is on that PATH"
    return f"  ok    {name}: the shim, then {real}"


def silent_way(name: str) -> str:
    """A shell that said nothing, or not in time."""
    return f"  ?     {name}: its profile did not end; try it by hand"


def needs_root(name: str) -> str:
    """What a user can't wire."""
    return f"  --    {name}: not reached without root; run this as root, or set PATH in the image"


def own_uv(user: str, path: str) -> str:
    """What root can't wire."""
    return f"  PAST  {user}'s shells: a profile there may put {path} first; run this as {user} too"


def out_of_reach(prefix: str) -> str:
    """What no wiring reaches."""
    return (
        "  --    an absolute path to uv, $UV, `python -m uv`, a program started with a PATH of its own\n"
        f"        (for Python programs: PYTHONPATH={prefix}/lib/uv-mutex/python)"
    )


def undo(prefix: str) -> str:
    """How to take it all back."""
    command = f"{prefix}/bin/uv-mutex uninstall --prefix {prefix}"
    return f"Running programs keep the PATH they have. To undo all of this: {command}"

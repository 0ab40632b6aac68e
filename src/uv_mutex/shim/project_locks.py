"""Which locks a call on a project needs."""

import os

from uv_mutex.locking.lock_file import LockFile, LockTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from uv_mutex.uv.project import Project
    from uv_mutex.uv.script import Script


def project_locks(project: "Project", *, keeps_lockfile: bool, to_look: bool = False) -> list[LockTarget]:
    """The locks that a call on this project needs, its own first; none if it can't write anything.

    :param project: the project.
    :param keeps_lockfile: whether the call leaves pyproject.toml and uv.lock alone.
    :param to_look: create nothing and leave nothing out: a user who can't write a project can see who does.
    """
    if project.script:
        return list(_script_locks(project, project.script, keeps_lockfile=keeps_lockfile))
    root, environment = project.root, project.environment
    if os.path.islink(environment):
        environment = os.path.realpath(environment)
    inside = environment == f"{root}/.venv"
    found: list[LockTarget] = []
    if inside or not keeps_lockfile:
        changeable = (root, f"{root}/pyproject.toml", f"{root}/uv.lock", *([environment] if inside else []))
        if to_look or _writable(*changeable):
            lock = LockFile(root, instead=root, environment=environment if inside else None)
            found.append(_seen(lock, root) if to_look else lock)
    if not inside:
        found.extend(_environment_lock(environment, to_look=to_look))
    return found


def _script_locks(project: "Project", script: "Script", *, keeps_lockfile: bool) -> "Iterator[LockTarget]":
    """The lock of a script where it lies, and that of its environment, which lies in uv's cache."""
    if script.path and (script.edited or (script.is_locked and not keeps_lockfile)):
        file = os.path.realpath(script.path)
        if _writable(project.root, file):
            yield LockFile(project.root, f"{os.path.basename(file)}.lock")
    if not script.edited:
        yield from _environment_lock(project.environment)


def _environment_lock(environment: str, *, to_look: bool = False) -> "Iterator[LockTarget]":
    above, name = os.path.split(environment)
    try:
        if not to_look:
            os.makedirs(above, exist_ok=True)  # uv would, but then the lock would move there while it is held
    except OSError:
        pass
    while not to_look and not os.path.isdir(above):  # uv creates the folders above an environment as well
        above, missing = os.path.split(above)
        name = f"{missing}-{name}"
    # For the `.venv` of a project this is the project lock, whichever project asks.
    instead = above if name == ".venv" else environment
    lock = LockFile(above, "lock" if name == ".venv" else f"{name}.lock", instead=instead, environment=environment)
    if to_look:
        yield _seen(lock, instead)
    elif _writable(above, environment):
        yield lock


def _seen(lock: LockFile, instead: str) -> LockTarget:
    """What is locked at present, for a caller that creates nothing."""
    if os.path.exists(lock.path) or not os.path.isdir(instead) or _writable(lock.above):
        return lock
    return next(stand_in for stand_in in lock.stand_ins() if os.path.exists(stand_in.path))


def _writable(*paths: str) -> bool:
    return any(os.access(path, os.W_OK) for path in paths)

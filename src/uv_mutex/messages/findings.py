"""What the doctor finds that is not as it should be: a fact, and what to do."""

import os

_Found = tuple[str, str]


def read_only(root: str) -> _Found:
    return f"{root} can't be written by you, so your calls take no lock", "give yourself write access, or leave it so"


def switched_off() -> _Found:
    return f"UV_MUTEX={os.environ['UV_MUTEX']} switches the shim off", "unset it"


def no_uv_on_path() -> _Found:
    return "there is no uv on PATH, and no shim", "install uv, then run `uv-mutex install` and do what it prints"


def not_first(first: str, folder: str) -> _Found:
    return (
        f"the first uv on PATH is {first}, which is not the shim",
        f'put the shim first: export PATH={folder}:"$PATH"',
    )


def shim_fails(shim: str, problem: str) -> _Found:
    return f"the shim {shim} doesn't start ({problem})", "install it again with `uv-mutex install`"


def unknown_version(uv: str) -> _Found:
    return f"{uv} doesn't say which version of uv it is", "check that it runs: uv --version"


def environment_unwritable(environment: str) -> _Found:
    return (
        f"{environment} can't be written by you",
        "make it yours with chown, or name another in UV_PROJECT_ENVIRONMENT",
    )


def tracked(folder: str) -> _Found:
    return f"git tracks files in {folder}", "git rm -r --cached .uv-mutex, and commit"


def problem_of_a_call(problem: str) -> _Found:
    """What a call itself would say."""
    fact, _, remedy = problem.partition("; ")
    return fact, remedy


def cannot_try(path: str, error: OSError) -> _Found:
    return f"the lock can't be tried out: {path}: {error.strerror}", "mend that, then run this again"


def unknown_backend(name: str) -> _Found:
    return f"UV_MUTEX_BACKEND={name} is neither flock nor lease", "set one of them, or unset it"


def mixed(path: str, forced: str, recorded: str) -> _Found:
    return (
        f"UV_MUTEX_BACKEND={forced}, but {path} is locked by {recorded} on other hosts or before",
        f"set it alike on all hosts while none runs, and remove {os.path.dirname(path)}/backend",
    )


def lease_does_not_exclude(path: str) -> _Found:
    return f"a lease does not exclude here: {path} could be created twice", "move the project to another file system"


def clock_skew(seconds: float) -> _Found:
    which = "ahead of" if seconds > 0 else "behind"
    return (
        f"the file server's clock is {abs(seconds):.0f} s {which} this host's, and status misjudges other hosts",
        "set both by NTP (the lease itself goes by one host's clock alone)",
    )


def no_flock(path: str, kind: str) -> _Found:
    return (
        f"there is no flock for {path} on {kind}, but flock is asked for",
        f"unset UV_MUTEX_BACKEND, and remove {os.path.dirname(path)}/backend while no call runs",
    )


def does_not_exclude(path: str, kind: str) -> _Found:
    return (
        f"flock does not exclude for {path} on {kind}: two descriptors had it at once",
        "set UV_MUTEX_BACKEND=lease on every host",
    )


def unknown_reach(point: str, kind: str) -> _Found:
    return (
        f"{point} is {kind}, and whether its flock reaches other hosts isn't known here",
        "run `uv-mutex doctor --peer` on two hosts at once, or set UV_MUTEX_BACKEND=lease on every host",
    )


def pretends(point: str, kind: str) -> _Found:
    return (
        f"{point} is {kind}, whose flock reaches this host alone",
        "set UV_MUTEX_BACKEND=lease on every host that shares the project; on one host alone leave it so",
    )


def shuts_out(path: str, mode: int) -> _Found:
    return f"{path} shuts out others who may work on the project", f"chmod {mode:o} {path}"


def foreign(path: str, uid: int) -> _Found:
    return (
        f"{path} belongs to user {uid}, and you can't write it",
        f"ask them to `chmod g+w {path}`, or for a shared group",
    )


def left_over(paths: list[str]) -> _Found:
    shown = " ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
    return f"killed calls left {shown}", "remove them while no call runs; they do no harm"


def dead_lease(marker: str, idle: float) -> _Found:
    return (
        f"nobody renewed the lease {marker} for {idle:.0f} s, so its holder is dead",
        "nothing, the next call takes it over after 31 s; or remove it while no call runs",
    )


def peer_absent(seconds: float, folder: str) -> _Found:
    return (
        f"no other doctor showed up in {folder} within {seconds:g} s",
        "run `uv-mutex doctor --peer` on two hosts at once, in the same project; if both did, they share no folder",
    )


def peer_lost(other: str) -> _Found:
    return f"saw {other}, which then fell silent", "run `uv-mutex doctor --peer` again, on both hosts at once"


def peer_on_this_host(other: str) -> _Found:
    return f"saw {other}, which is on this host too", "run one of the two on another host"


def peer_not_excluded(other: str, how: str) -> _Found:
    return (
        f"saw {other}, and {how} did not exclude between the two hosts",
        "set UV_MUTEX_BACKEND=lease on every host, and run this again"
        if how == "flock"
        else "move the project to another file system",
    )


def peer_differs(other: str) -> _Found:
    return (
        f"saw {other}; one of the two hosts has a flock there and the other has none",
        "set UV_MUTEX_BACKEND=lease on every host",
    )

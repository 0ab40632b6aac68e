"""Which process is meant. A name is not enough: containers share host names and process ids, and kernels reuse ids."""

import os

#: Where there is no /proc, or a sandbox hides a part of it. Nothing that is unknown equals anything.
_UNKNOWN = "-"
#: The places of state, parent, flags and start time in /proc/PID/stat, counted after the name of the program.
_STATE, _PARENT, _FLAGS, _START = 0, 1, 6, 19
#: PF_EXITING of the kernel's include/linux/sched.h, one of these flags.
_EXITING = 0x4
#: How SIGKILL (9) is shown in /proc/PID/status.
_SIGKILL_MASK = 1 << 8
_LOOKS, _LOOK_SECONDS = 2, 0.01


class Process:
    """A process of any host.

    ``boot``: the boot id of its kernel. ``namespace``: the inode number of its PID namespace. ``pid``: its process id
    there. ``start``: when it started, in clock ticks since the kernel booted; an exec does not change it.
    """

    __slots__ = ("boot", "namespace", "pid", "start")

    def __init__(self, boot: str, namespace: str, pid: int, start: str) -> None:
        self.boot = boot
        self.namespace = namespace
        self.pid = pid
        self.start = start

    def encode(self) -> str:
        """The process as one word."""
        return f"{self.boot}/{self.namespace}/{self.pid}/{self.start}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and self.encode() == other.encode() and _UNKNOWN not in self._parts()

    def __hash__(self) -> int:
        return hash(self.encode())

    def _parts(self) -> tuple[str, str, str]:
        return self.boot, self.namespace, self.start

    @property
    def is_on_this_kernel(self) -> bool:
        """Whether it runs, or ran, on the kernel of this process, maybe in another container."""
        return self.boot != _UNKNOWN and self.boot == boot_id()

    @property
    def is_visible(self) -> bool:
        """Whether its process id means the same to this process: same kernel, same PID namespace."""
        return self.is_on_this_kernel and self.namespace != _UNKNOWN and self.namespace == pid_namespace()

    @property
    def is_alive(self) -> bool | None:
        """Whether it still exists, zombies not counted; None if this process can't see it."""
        if not self.is_visible:
            return None
        try:
            fields = stat(self.pid)
        except OSError:
            # With hidepid, /proc does not show the processes of other users.
            return None if _exists(self.pid) else False
        return fields[_START] == self.start and fields[_STATE] not in "ZX"


def this_process() -> Process:
    """This process."""
    return Process(boot_id(), pid_namespace(), os.getpid(), start_time("self"))


def decode(word: str) -> Process | None:
    """Read what :meth:`Process.encode` wrote; None if it is something else."""
    parts = word.split("/")
    if len(parts) != 4 or not all(parts) or not parts[2].isdecimal() or len(parts[2]) > 10:
        return None
    return Process(parts[0], parts[1], int(parts[2]), parts[3])


def ancestors() -> list[Process]:
    """This process and those above it, the nearest first, as far as /proc shows them."""
    found: list[Process] = []
    boot, namespace = boot_id(), pid_namespace()
    pid = os.getpid()
    try:
        while pid:
            fields = stat(pid)
            found.append(Process(boot, namespace, pid, fields[_START]))
            pid = int(fields[_PARENT])
    except (OSError, IndexError, ValueError):
        pass
    return found


def is_whole(chain: list[Process]) -> bool:
    """Whether :func:`ancestors` saw all of them, up to the first process of this PID namespace."""
    try:
        return stat(chain[-1].pid)[_PARENT] == "0"
    except (OSError, IndexError):
        return False


def outlast_killed(limit: float) -> None:
    """Wait until each process that was sent SIGKILL has ended, as far as /proc shows them.

    A process that dies gives up its locks first. Its children are killed after that (PR_SET_PDEATHSIG), and each thread
    of them ends once it has a processor and its file system has answered.

    :param limit: wait for no more seconds than that.
    """
    import time

    deadline = time.monotonic() + limit
    quiet = 0  # a child may be looked at before it is killed, and its parent after that: then a second look sees it
    while quiet < _LOOKS and time.monotonic() < deadline:
        quiet = 0 if any(map(_is_being_killed, os.listdir("/proc"))) else quiet + 1
        if not quiet:
            time.sleep(_LOOK_SECONDS)


def _is_being_killed(pid: str) -> bool:
    lines = _read(f"/proc/{pid}/status").splitlines() if pid.isdecimal() else []
    states = [line.split()[1] for line in lines if line.startswith(b"State:")]
    pending = [int(line.split()[1], 16) for line in lines if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    return states not in ([b"Z"], [b"X"]) and any(mask & _SIGKILL_MASK for mask in pending)


def may_hold_flock(fd: int) -> bool:
    """Whether it may be a process above this one that holds the flock of a file: `flock . uv run …`.

    It may if the kernel says so, or if it has the file open, or if this process found it open. What /proc does not
    show does not count.

    :param fd: a descriptor of the file.
    """
    wanted = os.fstat(fd)
    above = ancestors()
    pids = {str(each.pid) for each in above[1:]}
    for line in _read("/proc/locks").decode("ascii", "replace").splitlines():
        _, kind, *fields = [*line.replace("->", "").split(), "", "", "", ""]
        if kind == "FLOCK" and fields[2] in pids and fields[3].endswith(f":{wanted.st_ino}"):
            return True
    return any(_has_open(each.pid, wanted) for each in above)


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for number in numbers:
        try:
            found = os.stat(f"/proc/{pid}/fd/{number}")
            # What this process opened itself does not count.
            counts = pid != os.getpid() or os.get_inheritable(int(number))
        except OSError:
            continue
        if counts and (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def boot_id() -> str:
    """The boot id of the kernel, which no two boots of any hosts share; "-" if it can't be told."""
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip() or _UNKNOWN


def pid_namespace() -> str:
    """The inode number of the PID namespace of this process; "-" if it can't be told, or if /proc is of another one."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return _UNKNOWN
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return _UNKNOWN


def start_time(pid: int | str) -> str:
    """When a process started, in clock ticks since the kernel booted; "-" if it can't be told."""
    try:
        return stat(pid)[_START]
    except (OSError, IndexError):
        return _UNKNOWN


def is_ending(pid: int) -> bool:
    """Whether a process is gone, or about to be: /proc shows none of its variables any more."""
    try:
        return bool(int(stat(pid)[_FLAGS]) & _EXITING)
    except (OSError, IndexError, ValueError):
        return True


def stat(pid: int | str) -> list[str]:
    """State, parent, and so on of a process that this one can see: /proc/PID/stat without its first two fields.

    :raises OSError: if there is no such process, or if /proc does not show it.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].decode("ascii", "replace").split()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""

"""UV_MUTEX_LOG: one JSON line for each guarded call."""

import json
import os

from uv_mutex.errors import say


def append(path: str, *, time: float, **fields: object) -> None:
    """Append the line of a call that ends, or hands over to uv. If the file can't be written, warn, and go on.

    :param path: the file to append to; it may be shared by many hosts.
    :param time: when the call began, in seconds since 1970.
    :param fields: what else to write down.
    """
    line = {"time": time, "host": os.uname().nodename, "pid": os.getpid(), **fields}
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
        finally:
            os.close(fd)
    except OSError as error:
        say(f"cannot write UV_MUTEX_LOG={path}: {error.strerror}; the call goes on without a log line")

"""UV_MUTEX_LOG: one JSON line for each guarded call."""

import json
import os

from uv_mutex.errors import say


def append(path: str, *, time: float, **fields: object) -> None:
    """Append the line of a call that ends, or hands over to uv. A file that can't be written costs one warning.

    :param path: the file to append to; it may be shared by many hosts.
    :param time: when the call began.
    :param fields: what else there is to say.
    """
    line = {"time": time, "host": os.uname().nodename, "pid": os.getpid(), **fields}
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
        finally:
            os.close(fd)
    except OSError as error:
        from uv_mutex.messages import calls

        say(calls.cannot_log(path, error))

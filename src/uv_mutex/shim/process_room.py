"""Whether this user can have some more processes: `ulimit -u` counts threads too, and uv under the shim is one more."""

import threading

from uv_mutex.errors import CannotForkError

#: uv 0.13.9 gets by with five, the user's command among them.
_ENOUGH = 8


def check(name: str) -> None:
    """Find out whether a uv that failed may have failed because it was the shim's child.

    :param name: what was started, for the error message.
    :raises CannotForkError: if there can't be as many processes as it needs.
    """
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, daemon=True) for _ in range(_ENOUGH)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:
        raise CannotForkError(
            f"too few processes for {name} below this one; allow more (ulimit -u), or try again"
        ) from None
    finally:
        done.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()

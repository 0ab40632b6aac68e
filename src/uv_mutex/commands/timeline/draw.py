"""`uv-mutex timeline`: draw which calls waited, held the lock, and went on, as UV_MUTEX_LOG says."""

from collections.abc import Sequence
from pathlib import Path

from uv_mutex.commands.timeline import chrome, log, svg
from uv_mutex.errors import MutexError

SVG, CHROME = "svg", "chrome"


def timeline(logs: Sequence[Path], output: Path, *, form: str) -> None:
    """Draw all calls of some logs in one picture.

    :param logs: files that uv-mutex wrote for UV_MUTEX_LOG, for example on several hosts.
    :param output: the file to write.
    :param form: SVG, a picture for a browser, or CHROME, trace events for Perfetto.
    :raises MutexError: if a log can't be read or holds no call, or the output can't be written.
    """
    if any(_is_same(output, path) for path in logs):
        raise MutexError(f"{output} is one of the logs, and is left alone; name another file after -o")
    calls = sorted(
        (call for path in logs for call in log.read(path)), key=lambda call: (call.start, call.host, call.pid)
    )
    if not calls:
        raise MutexError(f"no guarded call in {', '.join(map(str, logs))}; name files that UV_MUTEX_LOG wrote")
    try:
        with output.open("w", encoding="utf-8", errors="replace") as file:
            file.writelines(svg.draw(calls) if form == SVG else chrome.trace(calls))
    except OSError as error:
        raise MutexError(f"cannot write {output}: {error.strerror}; name another file after -o") from None


def _is_same(output: Path, path: Path) -> bool:
    try:
        return output.samefile(path)
    except OSError:
        return False

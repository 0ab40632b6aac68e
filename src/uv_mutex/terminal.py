"""Prepare text for a terminal: without control characters, and no wider than the window."""

import os


def printable(text: str) -> str:
    """The text with `?` for each character that is not printable, such as those that control a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def fit(line: str, fd: int) -> str:
    """Cut a line to the width of a terminal, since a line that wraps can't be erased.

    :param line: printable text.
    :param fd: the descriptor of the terminal.
    """
    try:
        columns = os.get_terminal_size(fd).columns
    except OSError:
        columns = 0
    # Some terminals wrap as soon as the last column is written.
    return cut(line, (columns or 80) - 1)


def cut(line: str, columns: int) -> str:
    """Cut a line to a number of columns, and end it with an ellipsis if it was longer.

    :param line: printable text.
    :param columns: the width; East Asian wide characters take two columns.
    """
    import unicodedata

    used = kept = 0
    for at, char in enumerate(line):
        used += 2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1
        if used <= columns - 1:
            kept = at + 1
        if used > columns:
            return line[:kept] + "…" if columns > 0 else ""
    return line

"""Text for a terminal: nothing in it moves the cursor, and a line fits in the window."""

import os


def printable(text: str) -> str:
    """The text without what a terminal would act on; others may have written it."""
    return "".join(char if char.isprintable() else "?" for char in text)


def fit(line: str, fd: int) -> str:
    """A line cut to the width of the terminal at ``fd``; a longer one could not be wiped out again."""
    try:
        columns = os.get_terminal_size(fd).columns
    except OSError:
        columns = 0
    # Some terminals go to the next line already when the last column is written to.
    return cut(line, (columns or 80) - 1)


def cut(line: str, columns: int) -> str:
    """As much of a line as fits in so many columns, with an ellipsis if that isn't all."""
    import unicodedata

    used = kept = 0
    for at, char in enumerate(line):
        used += 2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1
        if used <= columns - 1:
            kept = at + 1
        if used > columns:
            return line[:kept] + "…" if columns > 0 else ""
    return line

"""The commands that README.md gives, so that tests do what it says, word for word."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(heading: str, *, file: str = "README.md") -> list[str]:
    """The indented blocks of a section, or of a paragraph that begins with bold words, without the indentation.

    :param heading: the heading, or the first bold words.
    :param file: the file, in the repository.
    """
    text = (ROOT / file).read_text()
    found = re.findall(
        rf"^(?:## {re.escape(heading)}\n|\*\*{re.escape(heading)}\*\*)(.*?)(?=^## |^\*\*|\Z)", text, re.M | re.S
    )
    assert len(found) == 1, f"{file} has {len(found)} places named {heading}"
    indented = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", found[0], re.MULTILINE)
    return [
        re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for part in indented for block in part.strip("\n").split("\n\n")
    ]


def command(start: str, *, file: str = "README.md") -> str:
    """The one line of a block, or the one piece of code within a sentence, that begins so; without its comment."""
    text = (ROOT / file).read_text()
    lines = re.findall(rf"^ {{4}}({re.escape(start)}.*)$", text, re.MULTILINE)
    found = lines or re.findall(rf"`({re.escape(start)}[^`]*)`", text)
    assert len(set(found)) == 1, f"{file} has {found}, which begin with {start}"
    return re.sub(r" {2,}#.*", "", found[0])

"""Just enough TOML for the workspace rules: the few values below `tool.uv` that decide where a project's root is.

tomllib would cost every call in a workspace 19 ms, and Python 3.10 has none. What isn't TOML at all is left to uv,
which says so better.
"""

Value = str | bool | list["Value"] | dict[str, "Value"]

_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\", "e": "\x1b"}
_SPACE = " \t\r\n"
_END_OF_BARE = " \t\r\n,]}=#"


def read_tables(text: str, wanted: str) -> dict[str, Value]:
    """Return the table at the dotted path ``wanted``, however it is spelled; an empty one as ``{"": True}``.

    Numbers and dates come back as their text.

    :param text: a TOML document.
    :param wanted: a dotted path, such as ``tool.uv.workspace``.
    :returns: an empty dict if there is no such table.
    :raises ValueError: if the document isn't TOML.
    """
    document: dict[str, Value] = {}
    table = document
    scan = _Scanner(text)
    while scan.skip_blank():
        if text.startswith("[[", scan.at):
            scan.at += 2
            *parents, name = scan.key()
            scan.expect("]]")
            table = {}
            items = _inner(document, parents).setdefault(name, [])
            if not isinstance(items, list):
                raise ValueError(f"{name} is no array")
            items.append(table)
        elif text.startswith("[", scan.at):
            scan.at += 1
            table = _inner(document, scan.key())
            scan.expect("]")
        else:
            scan.pair(table)
    found: Value = document
    for part in wanted.split("."):
        if not isinstance(found, dict) or part not in found:
            return {}
        found = found[part]
    return (found or {"": True}) if isinstance(found, dict) else {}


def _inner(table: dict[str, Value], key: list[str]) -> dict[str, Value]:
    """The table below ``table`` that a dotted key leads to, made where it is missing."""
    for part in key:
        inner = table.setdefault(part, {})
        if isinstance(inner, list) and inner:
            inner = inner[-1]
        if not isinstance(inner, dict):
            raise ValueError(f"{part} is no table")
        table = inner
    return table


class _Scanner:
    """A cursor over the document's text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def skip_blank(self) -> bool:
        """Skip white space, line ends and comments; say whether anything is left."""
        text, end = self.text, len(self.text)
        while self.at < end:
            if text[self.at] == "#":
                newline = text.find("\n", self.at)
                self.at = end if newline < 0 else newline
            elif text[self.at] in _SPACE:
                self.at += 1
            else:
                return True
        return False

    def expect(self, mark: str) -> None:
        self.skip_blank()
        if not self.text.startswith(mark, self.at):
            raise ValueError(f"{mark!r} expected at {self.at}")
        self.at += len(mark)

    def key(self) -> list[str]:
        """A dotted key."""
        parts = []
        while True:
            self.skip_blank()
            parts.append(self.string() if self.text[self.at : self.at + 1] in ('"', "'") else self.bare(extra="."))
            self.skip_blank()
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def bare(self, extra: str = "") -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in _END_OF_BARE and self.text[self.at] not in extra:
            self.at += 1
        if self.at == start:
            raise ValueError(f"a name or value expected at {start}")
        return self.text[start : self.at]

    def pair(self, table: dict[str, Value]) -> None:
        """Put a key and its value into a table."""
        *parents, name = self.key()
        self.expect("=")
        _inner(table, parents)[name] = self.value()

    def value(self) -> Value:
        if not self.skip_blank():
            raise ValueError("a value expected at the end")
        first = self.text[self.at]
        if first in "\"'":
            return self.string()
        if first == "[":
            self.at += 1
            items: list[Value] = []
            while not self.closes("]"):
                items.append(self.value())
            return items
        if first == "{":
            self.at += 1
            table: dict[str, Value] = {}
            while not self.closes("}"):
                self.pair(table)
            return table
        word = self.bare()
        return word == "true" if word in ("true", "false") else word

    def closes(self, bracket: str) -> bool:
        """Read over a comma; say whether ``bracket`` follows, and read over that too."""
        self.skip_blank()
        if self.text.startswith(",", self.at):
            self.at += 1
            self.skip_blank()
        if self.at >= len(self.text):
            raise ValueError(f"{bracket!r} expected at the end")
        if self.text[self.at] != bracket:
            return False
        self.at += 1
        return True

    def string(self) -> str:
        text, quote = self.text, self.text[self.at]
        if text.startswith(quote * 3, self.at):
            end = self._end(quote * 3, self.at + 3)
            while text.startswith(quote, end + 3):  # up to two quotes may stand before the closing three
                end += 1
            inner, self.at = text[self.at + 3 : end], end + 3
            inner = inner.removeprefix("\r").removeprefix("\n")
        else:
            end = self._end(quote, self.at + 1)
            inner, self.at = text[self.at + 1 : end], end + 1
        return _unescape(inner) if quote == '"' and "\\" in inner else inner

    def _end(self, quotes: str, at: int) -> int:
        while True:
            end = self.text.find(quotes, at)
            if end < 0:
                raise ValueError(f"{quotes} expected")
            if quotes[0] == "'" or not self._escaped(end, at):
                return end
            at = end + 1

    def _escaped(self, position: int, start: int) -> bool:
        count = 0
        while position - count > start and self.text[position - count - 1] == "\\":
            count += 1
        return count % 2 == 1


def _unescape(text: str) -> str:
    out = []
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char != "\\":
            out.append(char)
            continue
        char = text[at : at + 1]
        at += 1
        digits = {"u": 4, "U": 8, "x": 2}.get(char)
        if digits:
            out.append(chr(int(text[at : at + digits], 16)))
            at += digits
        elif char in _ESCAPES:
            out.append(_ESCAPES[char])
        else:  # a line-ending backslash joins the lines
            while at < len(text) and text[at] in _SPACE:
                at += 1
    return "".join(out)

"""Read words as uv's parser (clap) does: which are options, and which are the values of options."""

from uv_mutex.uv.option_table import known_options, options_in_help

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

#: The name of an option and its value; None for a flag, which takes no value.
Option = tuple[str, str | None]


class RefusedError(Exception):
    """uv will refuse this command line."""


class UnknownOptionError(Exception):
    """Neither the table nor the real uv knows an option, so that it is not clear what the words behind it are."""


class OptionTest:
    """Says whether an option takes a value."""

    def __init__(self, ask_help: "Callable[[str], str]", ask_option: "Callable[[str, str], bool | None]") -> None:
        self.begin("")
        self._ask_help = ask_help
        self._ask_option = ask_option

    def begin(self, subcommand: str) -> None:
        """Read the options of this subcommand from now on; "" for those before it."""
        self._subcommand = subcommand
        self._table = known_options(subcommand)

    def is_listed(self, name: str) -> bool:
        """Whether the table has this option."""
        return name in self._table

    def __call__(self, name: str) -> bool:
        """Whether this option takes a value.

        :raises UnknownOptionError: if nobody knows it.
        """
        found = self._table.get(name)
        if found is None:
            found = options_in_help(self._ask_help(self._subcommand)).get(name)
        if found is None:
            found = self._ask_option(self._subcommand, name)
        if found is None:
            raise UnknownOptionError(name)
        return found


class WordReader:
    """A position in the words of a command line, and what was read up to it."""

    def __init__(self, words: "Sequence[str]") -> None:
        self.words = words
        self._at = 0
        self.leading = 0
        self.ended = False  # whether `--` was read
        self.subcommand = ""
        self.options: list[Option] = []

    def begin(self, subcommand: str) -> None:
        """The subcommand was read."""
        self.subcommand = subcommand
        self.leading = len(self.options)

    def scan(self, words: list[str]) -> None:
        """Pick the long options that are known out of words that can't be read for certain."""
        table = {"--script": True} | known_options(self.subcommand)
        for at, word in enumerate(words):
            if word == "--":
                return
            name, equals, value = word.partition("=")
            if name.startswith("--") and table.get(name):
                self.options.append((name, value if equals else "".join(words[at + 1 : at + 2])))
            elif table.get(word) is False:
                self.options.append((word, None))

    def take(self) -> str | None:
        """The next word; None at the end."""
        if self._at == len(self.words):
            return None
        self._at += 1
        return self.words[self._at - 1]

    def rest(self) -> list[str]:
        """All words from here on."""
        return list(self.words[self._at :])

    def read_options(self, takes_value: "OptionTest") -> None:
        """Read the options from here to the first word that is not an option. A `--` ends them and is skipped."""
        while self._at < len(self.words):
            word = self.words[self._at]
            if word == "--":
                self._at += 1
                self.ended = True
                return
            if word == "-" or not word.startswith("-"):
                return
            self._at += 1
            if word.startswith("--"):
                self.options.append(self._long(word, takes_value))
            else:
                self.options.extend(self._short(word, takes_value))

    def _long(self, word: str, takes_value: "OptionTest") -> Option:
        name, equals, value = word.partition("=")
        if takes_value(name):
            return name, value if equals else self._value(name)
        if equals:
            raise (RefusedError if takes_value.is_listed(name) else UnknownOptionError)(word)
        return name, None

    def _short(self, word: str, takes_value: "OptionTest") -> "Iterator[Option]":
        """One word with one or more short options: `-qv`, `-p3.11`, `-p=3.11`, `-qp 3.11`."""
        for at in range(1, len(word)):
            name = "-" + word[at]
            if not takes_value(name):
                yield name, None
                continue
            value = word[at + 1 :]
            yield name, value.removeprefix("=") if value else self._value(name)
            return

    def _value(self, name: str) -> str:
        """A value that is a word of its own. A word that looks like an option is not a value."""
        word = self.take()
        if word is None or (word.startswith("-") and word != "-"):
            raise RefusedError(name)
        return word


def option_words(options: "Sequence[Option]", left_out: "Container[str]") -> "Iterator[str]":
    """The words of these options, without those to leave out."""
    for name, value in options:
        if name in left_out:
            continue
        if value is None:
            yield name
        elif name.startswith("--"):
            yield f"{name}={value}"
        else:
            yield name
            yield value

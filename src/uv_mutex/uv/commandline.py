"""Read uv's command line: the subcommand, the options, and where the command of `uv run` begins.

Follows crates/uv-cli/src/lib.rs. The options are those of :mod:`uv_mutex.uv.option_table`; an option that is not in
that table is looked up in the real uv's own help, see :func:`parse`.
"""

from uv_mutex.uv.option_table import (
    APART,
    EXACTNESS,
    FORCES_WORK,
    GUARDED,
    HARMLESS,
    INFORMATION,
    OUTPUT,
    TARGET_KIND,
    known_options,
    options_in_help,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

#: The name of an option and its value; None for a flag, which takes no value.
Option = tuple[str, str | None]


class RefusedError(Exception):
    """uv will refuse this command line, or neither the table nor the real uv's help has the option."""


class Call:
    """One call of uv, as its command line says it.

    ``words``: all words after ``uv``. ``subcommand``: a guarded subcommand. ``options``: all options in the order they
    were given, the global ones included. ``leading``: the number of options before the subcommand. ``operands``: all
    other words; for `run` these are the command and its arguments.
    """

    __slots__ = ("leading", "operands", "options", "subcommand", "words")

    def __init__(
        self, words: list[str], subcommand: str, options: list[Option], leading: int, operands: list[str]
    ) -> None:
        self.words = words
        self.subcommand = subcommand
        self.options = options
        self.leading = leading
        self.operands = operands

    def has(self, *names: str) -> bool:
        """Whether any of these options was given, and no later ``--no-`` option cancels it."""
        given = [name for name, _ in reversed(self.options)]
        return any(name in given and f"--no-{name[2:]}" not in given[: given.index(name)] for name in names)

    def value(self, *names: str) -> str | None:
        """The value of the last of these options, None if none was given."""
        for name, value in reversed(self.options):
            if name in names:
                return value
        return None

    @property
    def quiet(self) -> bool:
        """Whether the user asked for no output (-q)."""
        return self.has("-q", "--quiet")

    @property
    def harmless(self) -> bool:
        """Whether the command line alone shows that the call changes nothing that the lock protects."""
        if self.has(*INFORMATION, *HARMLESS[self.subcommand]):
            return True
        return self.subcommand == "version" and not self.operands and not self.has("--bump")

    @property
    def keeps_lockfile(self) -> bool:
        """Whether the options forbid uv to write uv.lock or pyproject.toml."""
        return self.subcommand in ("run", "sync") and self.has("--frozen", "--locked")

    @property
    def forces_work(self) -> bool:
        """Whether an option makes uv work even if nothing changed (--reinstall, --upgrade and the like)."""
        return any(name in FORCES_WORK for name, _ in self.options)

    @property
    def exact(self) -> bool:
        """Whether uv removes packages that nothing asks for."""
        last = next((name for name, _ in reversed(self.options) if name in EXACTNESS), None)
        return last == "--exact" if last else self.subcommand != "run"

    def environment_options(self) -> list[Option]:
        """The options that can change what the environment contains."""
        ignored = OUTPUT | TARGET_KIND | EXACTNESS | APART
        return [option for option in self.options if option[0] not in ignored]

    def preparation_words(self, no_op: str, project: str | None) -> list[str]:
        """The words of a `run` that prepares the environment: the same options, and a command that does nothing.

        :param no_op: that command.
        :param project: the value of ``--project`` to add; None if the options of this call find the same project.
        """
        return self._complete(self._words_without(TARGET_KIND | {"--show-resolution"}), no_op, project)

    def confirmation_words(self, no_op: str, project: str | None) -> list[str]:
        """The words that make uv do the work of this `run` or `sync` a second time, without output.

        :param no_op: a command that does nothing.
        :param project: see :meth:`preparation_words`.
        """
        return self._complete(["--quiet", *self._words_without(TARGET_KIND | OUTPUT)], no_op, project)

    def _complete(self, words: list[str], no_op: str, project: str | None) -> list[str]:
        if project:
            words.append(f"--project={project}")
        return [*words, "--", no_op] if self.subcommand == "run" else words

    def words_after_preparation(self, cancelling: "Sequence[str]" = ()) -> list[str]:
        """The words of the `run` that follows its preparation.

        These are the user's own words, without the options whose work the preparation has already done.

        :param cancelling: options to add, which cancel the work that settings ask for and the preparation has done.
        """
        if not self.forces_work and not cancelling:
            return self.words
        return [*self._words_without(FORCES_WORK), *cancelling, "--", *self.operands]

    def _words_without(self, names: "Container[str]") -> list[str]:
        """All words before the operands, without these options.

        Each option stays on its side of the subcommand: uv accepts a global option on either side, even on both, but
        most options only once on one side.
        """
        before, after = self.options[: self.leading], self.options[self.leading :]
        return [*_option_words(before, names), self.subcommand, *_option_words(after, names)]


def parse(words: "Sequence[str]", ask_help: "Callable[[str], str]") -> Call | None:
    """Read a command line as uv's parser (clap) does.

    :param words: the words after ``uv``.
    :param ask_help: returns the real uv's ``--help`` of a subcommand ("" for uv itself). It is called only for an
        option that is not in the table.
    :returns: the call; None if its subcommand is not guarded, or if uv will refuse the command line.
    """
    reader = _Reader(words)
    options: list[Option] = []
    try:
        for option in reader.options(_value_test("", ask_help)):
            options.append(option)  # noqa: PERF402 - keep the options that were read before one is refused
        subcommand = reader.take()
        if subcommand not in GUARDED or reader.ended:
            return None
        leading = len(options)
        takes_value = _value_test(subcommand, ask_help)
        if subcommand == "run":
            options.extend(reader.options(takes_value))
            # uv refuses two of them. The preparation leaves them out, so that uv would not see the conflict there.
            if sum(name in TARGET_KIND for name, _ in options) > 1:
                return None
            return Call(list(words), subcommand, options, leading, reader.rest())
        operands: list[str] = []
        while True:
            options.extend(reader.options(takes_value))
            if reader.ended:
                return Call(list(words), subcommand, options, leading, operands + reader.rest())
            word = reader.take()
            if word is None:
                return Call(list(words), subcommand, options, leading, operands)
            operands.append(word)
    except RefusedError:
        return None


class _Reader:
    """A position in the words of a command line."""

    def __init__(self, words: "Sequence[str]") -> None:
        self._words = words
        self._at = 0
        self.ended = False  # whether `--` was read

    def take(self) -> str | None:
        """The next word; None at the end."""
        if self._at == len(self._words):
            return None
        self._at += 1
        return self._words[self._at - 1]

    def rest(self) -> list[str]:
        """All words from here on."""
        return list(self._words[self._at :])

    def options(self, takes_value: "Callable[[str], bool]") -> "Iterator[Option]":
        """The options from here to the first word that is not an option. A `--` ends them and is skipped."""
        while self._at < len(self._words):
            word = self._words[self._at]
            if word == "--":
                self._at += 1
                self.ended = True
                return
            if word == "-" or not word.startswith("-"):
                return
            self._at += 1
            if word.startswith("--"):
                yield self._long(word, takes_value)
            else:
                yield from self._short(word, takes_value)

    def _long(self, word: str, takes_value: "Callable[[str], bool]") -> Option:
        name, equals, value = word.partition("=")
        if takes_value(name):
            return name, value if equals else self._value(name)
        if equals:
            raise RefusedError(word)
        return name, None

    def _short(self, word: str, takes_value: "Callable[[str], bool]") -> "Iterator[Option]":
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


def _value_test(subcommand: str, ask_help: "Callable[[str], str]") -> "Callable[[str], bool]":
    """A function that says whether an option of this subcommand takes a value."""
    table = known_options(subcommand)

    def takes_value(name: str) -> bool:
        found = table.get(name)
        if found is None:
            found = options_in_help(ask_help(subcommand)).get(name)
        if found is None:
            raise RefusedError(name)
        return found

    return takes_value


def _option_words(options: "Sequence[Option]", left_out: "Container[str]") -> "Iterator[str]":
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

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
    STARTING,
    SYNCING,
    TARGET_KIND,
    known_options,
)
from uv_mutex.uv.words import Option, OptionTest, RefusedError, UnknownOptionError, WordReader, option_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence


class Call:
    """One call of uv, as its command line says it.

    ``words``: all words after ``uv``. ``subcommand``: a guarded subcommand. ``options``: all options in the order they
    were given, the global ones included. ``leading``: the number of options before the subcommand. ``operands``: all
    other words; for `run` these are the command and its arguments. ``understood``: whether that is all there is. If
    not, nobody knows one of the options: then ``options`` are the others, and ``operands`` are what may be the command
    of a `run`. ``never_fresh``: whether there must be a preparation whatever the environment looks like.
    """

    __slots__ = ("leading", "never_fresh", "operands", "options", "subcommand", "understood", "words")

    def __init__(
        self,
        words: list[str],
        subcommand: str,
        options: list[Option],
        leading: int,
        operands: list[str],
        *,
        understood: bool = True,
    ) -> None:
        self.words = words
        self.subcommand = subcommand
        self.options = options
        self.leading = leading
        self.operands = operands
        self.understood = understood
        self.never_fresh = not understood

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
    def only_informs(self) -> bool:
        """Whether uv only prints something, and does not do the subcommand's work."""
        return self.has(*INFORMATION)

    @property
    def harmless(self) -> bool:
        """Whether the command line alone shows that the call changes nothing that the lock of a project protects."""
        if self.only_informs or self.has(*HARMLESS.get(self.subcommand, ())):
            return True
        return self.subcommand == "version" and self.understood and not self.operands and not self.has("--bump")

    @property
    def keeps_lockfile(self) -> bool:
        """Whether the options forbid uv to write uv.lock or pyproject.toml."""
        return self.subcommand in SYNCING and self.has("--frozen", "--locked")

    @property
    def forces_work(self) -> bool:
        """Whether uv must work even if nothing changed (--reinstall, --upgrade and the like)."""
        return self.never_fresh or self._has_forcing_option

    @property
    def _has_forcing_option(self) -> bool:
        return any(name in FORCES_WORK for name, _ in self.options)

    @property
    def exact(self) -> bool:
        """Whether uv removes packages that nothing asks for."""
        last = next((name for name, _ in reversed(self.options) if name in EXACTNESS), None)
        return last == "--exact" if last else self.subcommand not in STARTING

    @property
    def may_be_fresh(self) -> bool:
        """Whether the call changes nothing if the environment is up to date, which a preparation can see to."""
        if self.subcommand != "check":
            return self.subcommand in SYNCING
        # No `run` installs what these ask for.
        parts = [name for name, _ in self.options if name in ("--package", "--no-install-project")]
        return self.understood and parts in ([], ["--package"])

    def environment_options(self) -> list[Option]:
        """The options that can change what the environment contains."""
        ignored = OUTPUT | TARGET_KIND | EXACTNESS | APART
        return [option for option in self.options if option[0] not in ignored]

    def preparation_words(self, no_op: str, project: str | None) -> list[str]:
        """The words of a `run` that prepares the environment: the same options, and a command that does nothing.

        :param no_op: that command.
        :param project: the value of ``--project`` to add; None if the options of this call find the same project.
        """
        if not self.understood:  # the unknown option included: if uv refuses it, nothing is prepared
            words = self.words[: len(self.words) - len(self.operands)]
            return [*(words[:-1] if words[-1:] == ["--"] else words), "--", no_op]
        return self._complete(self._words_without(TARGET_KIND | {"--show-resolution"}), no_op, project)

    def confirmation_words(self, no_op: str, project: str | None) -> list[str]:
        """The words that make uv do the work of this `run` or `sync` a second time, without output.

        :param no_op: a command that does nothing.
        :param project: see :meth:`preparation_words`.
        """
        left_out = TARGET_KIND | OUTPUT if self.subcommand == "run" else OUTPUT  # `sync` has another --script
        return self._complete(["--quiet", *self._words_without(left_out)], no_op, project)

    def stdin_words(self) -> list[str]:
        """The words of a `run` with the same options that reads its script from stdin."""
        return [*self._words_without(()), "-"]

    def other_words(self, subcommand: str, names: "Container[str]") -> list[str]:
        """The words of another subcommand, without output: those options of this call that it has.

        :param subcommand: the other subcommand.
        :param names: its options.
        """
        before, after = (
            [option for option in part if option[0] in names]
            for part in (self.options[: self.leading], self.options[self.leading :])
        )
        return ["--quiet", *option_words(before, ()), subcommand, *option_words(after, ())]

    def words_as_run(self, no_op: str) -> list[str]:
        """The words of a `run` that prepares the environment for a `check`, without output.

        :param no_op: a command that does nothing.
        """
        return [*self.other_words("run", known_options("run")), "--", no_op]

    def _complete(self, words: list[str], no_op: str, project: str | None) -> list[str]:
        if project:
            words.append(f"--project={project}")
        return [*words, "--", no_op] if self.subcommand == "run" else words

    def words_after_preparation(self, cancelling: "Sequence[str]" = ()) -> list[str]:
        """The words of the call that follows its preparation.

        These are the user's own words, without the options whose work the preparation has already done.

        :param cancelling: options to add, which cancel the work that settings ask for and the preparation has done.
        """
        if not self.understood or not (self._has_forcing_option or cancelling):
            return self.words
        words = [*self._words_without(FORCES_WORK), *cancelling]
        return [*words, "--", *self.operands] if self.subcommand == "run" else words

    def _words_without(self, names: "Container[str]") -> list[str]:
        """All words before the operands, without these options.

        Each option stays on its side of the subcommand: uv accepts a global option on either side, even on both, but
        most options only once on one side.
        """
        before, after = self.options[: self.leading], self.options[self.leading :]
        return [*option_words(before, names), self.subcommand, *option_words(after, names)]


def parse(
    words: "Sequence[str]",
    ask_help: "Callable[[str], str]",
    ask_option: "Callable[[str, str], bool | None]" = lambda _subcommand, _name: None,
    also: "Container[str]" = (),
) -> Call | None:
    """Read a command line as uv's parser (clap) does.

    :param words: the words after ``uv``.
    :param ask_help: returns the real uv's ``--help`` of a subcommand ("" for uv itself). It is called only for an
        option that is not in the table.
    :param ask_option: asks the real uv about an option that its help doesn't list: whether it takes a value, or None
        if uv doesn't know it either.
    :param also: further subcommands that the user wants to be guarded.
    :returns: the call; None if its subcommand is not guarded, or if uv will refuse the command line. A call with an
        option that nobody knows is guarded.
    """
    reader = WordReader(words)
    try:
        return _read(reader, OptionTest(ask_help, ask_option), also)
    except UnknownOptionError:
        return _guess(reader, also)
    except RefusedError:
        return None


def _read(reader: WordReader, takes_value: OptionTest, also: "Container[str]") -> Call | None:
    """Read a command line.

    :raises RefusedError: if uv will refuse it.
    :raises UnknownOptionError: if nobody knows an option.
    """
    reader.read_options(takes_value)
    subcommand = None if reader.ended else reader.take()
    if subcommand is None:
        return None
    reader.begin(subcommand)
    if subcommand not in GUARDED:
        if subcommand not in also:
            return None
        reader.scan(reader.rest())
        return _call(reader, [])
    takes_value.begin(subcommand)
    reader.read_options(takes_value)
    if subcommand == "run":
        # uv refuses two of them. The preparation leaves them out, so that uv would not see the conflict there.
        return None if sum(name in TARGET_KIND for name, _ in reader.options) > 1 else _call(reader, reader.rest())
    operands: list[str] = []
    while not reader.ended:
        word = reader.take()
        if word is None:
            return _call(reader, operands)
        operands.append(word)
        reader.read_options(takes_value)
    return _call(reader, operands + reader.rest())


def _guess(reader: WordReader, also: "Container[str]") -> Call | None:
    """What can be said of a command line with an option that nobody knows. Behind it, each word may be its value."""
    rest = reader.rest()
    if not reader.subcommand:
        at = next((at for at, word in enumerate(rest) if word in GUARDED or word in also), None)
        if at is None:
            return None
        reader.scan(rest[:at])
        reader.begin(rest[at])
        rest = rest[at + 1 :]
    operands: list[str] = []
    if reader.subcommand == "run":  # the first of these words may belong to the command already
        at = next((at for at, word in enumerate(rest) if word == "-" or not word.startswith("-")), len(rest))
        rest, operands = rest[:at], rest[at:]
    reader.scan(rest)
    return _call(reader, operands, understood=False)


def _call(reader: WordReader, operands: list[str], *, understood: bool = True) -> Call:
    words = list(reader.words)
    return Call(words, reader.subcommand, reader.options, reader.leading, operands, understood=understood)

"""uv's command line: which subcommand, which options, and where `uv run`'s own command begins.

Follows crates/uv-cli/src/lib.rs, whose options are kept here as a table. An option that the table doesn't know is
looked up in the real uv's own help; see :func:`parse`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

#: The subcommands that can change a project's environment, pyproject.toml or uv.lock.
GUARDED = frozenset(("add", "remove", "run", "sync", "version"))

# The table: for each option whether it takes a value. To add one of a new uv: one word here; tests/e2e/test_options.py
# holds it against `uv SUBCOMMAND --help` of every version. Options that --help hides are from uv's source.
_GLOBAL_FLAGS = """
-h --help -V --version -q --quiet -v --verbose --no-color --native-tls --no-native-tls --system-certs
--no-system-certs --offline --no-offline --no-progress --no-config --managed-python --no-managed-python
--allow-python-downloads --no-python-downloads --preview --no-preview --isolated --show-settings
--no-installer-metadata -n --no-cache --no-cache-dir
"""
_GLOBAL_VALUES = """
--color --allow-insecure-host --trusted-host --directory --project --config-file --cache-dir --python-preference
--python-fetch --preview-features --preview-feature
"""
_SHARED_FLAGS = """
--no-index -U --upgrade --no-upgrade --pre --no-sources --reinstall --no-reinstall --force-reinstall
--compile-bytecode --no-compile-bytecode --compile --no-compile --no-build --build --no-binary --binary
--no-build-isolation --build-isolation --refresh --no-refresh --require-build-hashes --no-require-build-hashes
--locked --frozen --active --no-active --no-sync
"""
_SHARED_VALUES = """
--index --default-index -i --index-url --extra-index-url -f --find-links --index-strategy --keyring-provider
-P --upgrade-package --upgrade-group --resolution --prerelease --prerelease-package --fork-strategy --exclude-newer
--exclude-newer-package --no-sources-package --reinstall-package --link-mode -C --config-setting --config-settings
--config-settings-package --no-build-isolation-package --no-build-package --no-binary-package --refresh-package
-p --python --package
"""
_GROUP_FLAGS = "--dev --no-dev --only-dev --all-extras --no-all-extras --no-default-groups --all-groups --all-packages"
_GROUP_VALUES = "--extra --no-extra --group --no-group --only-group --no-editable-package --python-platform"
_INSTALL_FLAGS = """
--no-install-project --only-install-project --no-install-workspace --only-install-workspace --no-install-local
--only-install-local
"""
_INSTALL_VALUES = "--no-install-package --only-install-package"
_EDITABLE_FLAGS = "--editable --no-editable"
_EXACT_FLAGS = "--exact --inexact --no-exact"

_FLAGS = {
    "run": f"""{_GROUP_FLAGS} {_EDITABLE_FLAGS} {_EXACT_FLAGS} -m --module -s --script --gui-script --no-env-file
        --no-project --no_workspace --show-resolution""",
    "sync": f"{_GROUP_FLAGS} {_EDITABLE_FLAGS} {_EXACT_FLAGS} {_INSTALL_FLAGS} --dry-run --check --no-check",
    "add": f"{_EDITABLE_FLAGS} {_INSTALL_FLAGS} --dev --raw --raw-sources --lfs --workspace --no-workspace",
    "remove": "--dev",
    "version": "--short --dry-run",
}
_VALUES = {
    "run": f"{_GROUP_VALUES} --env-file -w --with --with-editable --with-requirements --max-recursion-depth",
    "sync": f"{_GROUP_VALUES} {_INSTALL_VALUES} --script --output-format",
    "add": f"""{_INSTALL_VALUES} -r --requirements --requirement -c --constraints --constraint -m --marker --bounds
        --extra --optional --group --rev --tag --branch --script --no-editable-package""",
    "remove": "--optional --group --script",
    "version": "--bump --output-format",
}

#: They ask uv for something else than the subcommand's work.
_ELSEWHERE = frozenset(("-h", "--help", "-V", "--version", "--show-settings"))
#: With these a call changes nothing that the lock protects.
_HARMLESS = {
    "run": frozenset(("--no-sync", "--no-project", "--no_workspace", "--isolated")),
    "sync": frozenset(("--dry-run", "--check", "--script")),
    "add": frozenset(("--script",)),
    "remove": frozenset(("--script",)),
    "version": frozenset(("--dry-run",)),
}
#: uv runs these anew each time: `run` must not repeat them after it was prepared with them.
ONCE = frozenset(
    """-U --upgrade -P --upgrade-package --upgrade-group --reinstall --force-reinstall --reinstall-package --refresh
    --refresh-package""".split()
)
_MODULE = frozenset(("-m", "--module", "-s", "--script", "--gui-script"))
#: They choose what uv prints, not what it does.
_DISPLAY = frozenset(
    "-q --quiet -v --verbose --color --no-color --no-progress --show-resolution --output-format".split()
)

_EXACTNESS = frozenset(_EXACT_FLAGS.split())

Option = tuple[str, str | None]


class RefusedError(Exception):
    """uv will refuse this command line, or neither the table nor the real uv's help knows the option."""


class Call:
    """One call of uv, as its command line says it.

    ``words``: all words after ``uv``. ``subcommand``: a guarded one. ``options``: in order, global ones included, each
    with its value (None for a flag). ``leading``: how many of them stand before the subcommand. ``operands``: what is
    left over; for `run` that is the command and its arguments.
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
        """Whether any of these options was given, and not taken back by its ``--no-`` further on."""
        given = [name for name, _ in reversed(self.options)]
        return any(name in given and f"--no-{name[2:]}" not in given[: given.index(name)] for name in names)

    def value(self, *names: str) -> str | None:
        """The value of the last of these options, None if there is none."""
        for name, value in reversed(self.options):
            if name in names:
                return value
        return None

    @property
    def quiet(self) -> bool:
        """Whether the user asked for silence (-q)."""
        return self.has("-q", "--quiet")

    @property
    def harmless(self) -> bool:
        """Whether the command line alone says that nothing the lock protects can change."""
        if self.has(*_ELSEWHERE, *_HARMLESS[self.subcommand]):
            return True
        return self.subcommand == "version" and not self.operands and not self.has("--bump")

    @property
    def keeps_lockfile(self) -> bool:
        """Whether the options forbid uv to write uv.lock or pyproject.toml."""
        return self.subcommand in ("run", "sync") and self.has("--frozen", "--locked")

    @property
    def repeats(self) -> bool:
        """Whether uv would do its work anew although nothing changed (--reinstall, --upgrade and kin)."""
        return any(name in ONCE for name, _ in self.options)

    @property
    def exact(self) -> bool:
        """Whether uv removes packages that nothing asks for."""
        last = next((name for name, _ in reversed(self.options) if name in _EXACTNESS), None)
        return last == "--exact" if last else self.subcommand != "run"

    def environment_options(self) -> list[Option]:
        """The options that can decide what an environment holds."""
        hidden = (_DISPLAY, _MODULE, _EXACTNESS)
        return [option for option in self.options if not any(option[0] in names for names in hidden)]

    def preparation(self, nothing: str, project: str | None) -> list[str]:
        """The words of a `run` with the same options whose command does nothing.

        :param nothing: that command.
        :param project: where its project is, if the user's command decides that; None if the options do.
        """
        return self._doing(nothing, project, self._without(_MODULE | {"--show-resolution"}))

    def confirmation(self, nothing: str, project: str | None) -> list[str]:
        """The words that do the work of a `run` or `sync` again, and say nothing.

        :param nothing: a command that does nothing.
        :param project: see :meth:`preparation`.
        """
        return self._doing(nothing, project, ["--quiet", *self._without(_MODULE | _DISPLAY)])

    def _doing(self, nothing: str, project: str | None, words: list[str]) -> list[str]:
        if project:
            words.append(f"--project={project}")
        return [*words, "--", nothing] if self.subcommand == "run" else words

    def prepared(self) -> list[str]:
        """The words of the `run` that follows a preparation: the user's own, but for what must not happen twice."""
        if not self.repeats:
            return self.words
        return [*self._without(ONCE), "--", *self.operands]

    def _without(self, names: "Container[str]") -> list[str]:
        """Everything before the operands, but for these options. A global one may stand on either side of the
        subcommand, even on both, but no option twice on one."""
        before, after = self.options[: self.leading], self.options[self.leading :]
        return [*_spell(before, names), self.subcommand, *_spell(after, names)]


def parse(words: "Sequence[str]", ask_help: "Callable[[str], str]") -> Call | None:
    """Read a command line as uv's parser (clap) does.

    :param words: the words after ``uv``.
    :param ask_help: gives the real uv's ``--help`` of a subcommand; called only for an option the table doesn't know.
    :returns: the call if its subcommand is guarded, else None: also for what uv will refuse.
    """
    reader = _Reader(words)
    options: list[Option] = []
    try:
        for option in reader.options(_table("", ask_help)):
            options.append(option)  # noqa: PERF402 - those read before an unknown option don't count
        subcommand = reader.take()
        if subcommand not in GUARDED or reader.ended:
            return None
        leading = len(options)
        takes_value = _table(subcommand, ask_help)
        if subcommand == "run":
            options.extend(reader.options(takes_value))
            # At most one: the others conflict, and `preparation` leaves them out, so that uv would not notice.
            if sum(name in _MODULE for name, _ in options) > 1:
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
    """A cursor over the words."""

    def __init__(self, words: "Sequence[str]") -> None:
        self._words = words
        self._at = 0
        self.ended = False  # `--` was read

    def take(self) -> str | None:
        """The next word, None at the end."""
        if self._at == len(self._words):
            return None
        self._at += 1
        return self._words[self._at - 1]

    def rest(self) -> list[str]:
        """All words from here on."""
        return list(self._words[self._at :])

    def options(self, takes_value: "Callable[[str], bool]") -> "Iterator[Option]":
        """The options from here to the first word that is none; `--` ends them and is read over."""
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
        """A cluster: `-qv`, `-p3.11`, `-p=3.11`, `-qp 3.11`."""
        for at in range(1, len(word)):
            name = "-" + word[at]
            if not takes_value(name):
                yield name, None
                continue
            value = word[at + 1 :]
            yield name, value.removeprefix("=") if value else self._value(name)
            return

    def _value(self, name: str) -> str:
        """The value in a word of its own: what looks like an option is none."""
        word = self.take()
        if word is None or (word.startswith("-") and word != "-"):
            raise RefusedError(name)
        return word


def option_table(subcommand: str) -> dict[str, bool]:
    """The options in the table of a subcommand ("" for none yet), each with whether it takes a value."""
    flags, values = _GLOBAL_FLAGS, _GLOBAL_VALUES
    if subcommand:
        flags += _SHARED_FLAGS + _FLAGS[subcommand]
        values += _SHARED_VALUES + _VALUES[subcommand]
    return dict.fromkeys(flags.split(), False) | dict.fromkeys(values.split(), True)


def _table(subcommand: str, ask_help: "Callable[[str], str]") -> "Callable[[str], bool]":
    """Whether an option of this subcommand takes a value."""
    table = option_table(subcommand)

    def takes_value(name: str) -> bool:
        found = table.get(name)
        if found is None:
            found = options_in_help(ask_help(subcommand)).get(name)
        if found is None:
            raise RefusedError(name)
        return found

    return takes_value


def options_in_help(text: str) -> dict[str, bool]:
    """The options that a help text of uv lists, short and long, each with whether it takes a value."""
    import re

    found = {}
    line = re.compile(r"^ +(?:(-\w)(?:, )?)? *(--[\w-]+)?(?:\.\.\.)?(?:[ =]?\[?=?(<))?", re.ASCII)
    for text_line in text.splitlines():
        if text_line.lstrip().startswith("-"):
            match = line.match(text_line)
            if match:
                short, long, value = match.groups()
                found.update({name: bool(value) for name in (short, long) if name})
    return found


def _spell(options: "Sequence[Option]", but_for: "Container[str]") -> "Iterator[str]":
    for name, value in options:
        if name in but_for:
            continue
        if value is None:
            yield name
        elif name.startswith("--"):
            yield f"{name}={value}"
        else:
            yield name
            yield value

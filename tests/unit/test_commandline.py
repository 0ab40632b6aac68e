"""The shim reads a command line as uv does."""

from __future__ import annotations

import pytest

from uv_mutex.uv import option_table
from uv_mutex.uv.commandline import Call, parse

_HELP = """\
Usage: uv run [OPTIONS] [COMMAND]

Options:
      --sorcery <SPELL>
          Do it by magic, see --not-an-option
  -z, --zeal...
          Do it with zeal
      --bump <BUMP[=VALUE]>            Update it
      --maybe[=<MAYBE>]
  -y <YES>
"""


def _no_help(subcommand: str) -> str:
    raise AssertionError(f"the table lacks an option of {subcommand or 'uv itself'}")


def _read(line: str) -> Call:
    call = parse(line.split(" "), _no_help)
    assert call is not None, line
    return call


@pytest.mark.parametrize(
    ("line", "subcommand", "options", "operands"),
    [
        ("sync", "sync", "", ""),
        ("run", "run", "", ""),
        ("run x", "run", "", "x"),
        ("-q --directory x run --all-extras y -q", "run", "-q --directory=x --all-extras", "y -q"),
        ("--project=y sync", "sync", "--project=y", ""),
        ("--project run sync", "sync", "--project=run", ""),
        ("--color sync --directory add run remove", "run", "--color=sync --directory=add", "remove"),
        ("run -p3.11 x", "run", "-p=3.11", "x"),
        ("run -p 3.11 x", "run", "-p=3.11", "x"),
        ("run -p=3.11 x", "run", "-p=3.11", "x"),
        ("run -qp 3.11 x", "run", "-q -p=3.11", "x"),
        ("run -qp3.11 x", "run", "-q -p=3.11", "x"),
        ("run -pq x", "run", "-p=q", "x"),
        ("run -qvqn x", "run", "-q -v -q -n", "x"),
        ("run --with=six x", "run", "--with=six", "x"),
        ("run --with=-x --with= y", "run", "--with=-x --with=", "y"),
        ("run --with-requirements - x", "run", "--with-requirements=-", "x"),
        ("run -wsix x", "run", "-w=six", "x"),
        ("run --extra sync python", "run", "--extra=sync", "python"),
        ("run --extra a=b python", "run", "--extra=a=b", "python"),
        ("run echo add", "run", "", "echo add"),
        ("run -- sync", "run", "", "sync"),
        ("run -q -- -q", "run", "-q", "-q"),
        ("run -- -- x", "run", "", "-- x"),
        ("run - x -", "run", "", "- x -"),
        ("run python -- x", "run", "", "python -- x"),
        ("run -m mod -m", "run", "-m", "mod -m"),
        ("run -m -- mod -q", "run", "-m", "mod -q"),
        ("run -qs x.py", "run", "-q -s", "x.py"),
        ("run --with six -h python", "run", "--with=six -h", "python"),
        ("add a --dev b -q", "add", "--dev -q", "a b"),
        ("add a -- --dev b", "add", "", "a --dev b"),
        ("add -r requirements.txt -m x --extra y z", "add", "-r=requirements.txt -m=x --extra=y", "z"),
        ("remove --group sync a", "remove", "--group=sync", "a"),
        ("sync --script run", "sync", "--script=run", ""),
        ("version --bump minor --short", "version", "--bump=minor --short", ""),
        ("version 1.2.3 -q", "version", "-q", "1.2.3"),
        ("upgrade six --exclude idna", "upgrade", "--exclude=idna", "six"),
        ("run  x", "run", "", " x"),  # the command is an empty word
    ],
)
def test_reads(line: str, subcommand: str, options: str, operands: str) -> None:
    call = _read(line)
    expected = [option.partition("=") for option in options.split()]
    assert call.subcommand == subcommand
    assert call.options == [(name, value if equals else None) for name, equals, value in expected]
    assert call.operands == (operands.split(" ") if operands else [])
    assert call.words == line.split(" ")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-q",
        "help run",
        "tool run sync",
        "pip sync x",
        "python pin",
        "cache add",
        "-- run x",  # uv: unexpected argument 'run'
        "run --with",  # a value is required
        "run --with --help",
        "run -p -q x",
        "run --extra -- x",
        "sync --group",
        "--directory",
        "run --quiet=3 x",  # unexpected value
        "sync --frozen=1",
        "run -m -s x",  # cannot be used with
        "run -mm x",
        "run --module --gui-script x",
    ],
)
def test_leaves_to_uv(line: str) -> None:
    assert parse(line.split(" "), _no_help) is None


def test_words_need_not_be_text() -> None:
    words = ["run", "--with=\udcff", "--", "\udcfe\n", ""]
    call = parse(words, _no_help)
    assert call is not None
    assert (call.options, call.operands) == ([("--with", "\udcff")], ["\udcfe\n", ""])
    assert call.preparation_words("true", None) == ["run", "--with=\udcff", "--", "true"]


def test_asks_the_help_for_what_the_table_lacks() -> None:
    asked = []

    def ask(subcommand: str) -> str:
        asked.append(subcommand)
        return _HELP

    call = parse("--zeal run --sorcery sync --zeal -z -yq x".split(), ask)
    assert call is not None
    assert call.options == [("--zeal", None), ("--sorcery", "sync"), ("--zeal", None), ("-z", None), ("-y", "q")]
    assert call.operands == ["x"]
    assert set(asked) == {"", "run"}


def test_asks_the_parser_for_what_the_help_lacks() -> None:
    def ask(subcommand: str, name: str) -> bool | None:
        return {("run", "--hidden"): True, ("run", "-Z"): False, ("", "--secret"): False}.get((subcommand, name))

    call = parse("--secret run --hidden sync -qZ x --hidden".split(), lambda _: _HELP, ask)
    assert call is not None
    assert call.understood
    assert call.options == [("--secret", None), ("--hidden", "sync"), ("-q", None), ("-Z", None)]
    assert call.operands == ["x", "--hidden"]


@pytest.mark.parametrize(
    ("line", "subcommand", "options"),
    [
        ("--sorcerer sync", "sync", ""),
        ("--sorcerer=x sync", "sync", ""),
        ("--sorcerer x --project y sync --directory=z", "sync", "--project=y --directory=z"),
        ("-Z sync", "sync", ""),
        ("sync --sorcerer", "sync", ""),
        ("sync -qZ --project x", "sync", "-q --project=x"),
        ("add --not-an-option --script s.py six", "add", "--script=s.py"),
        ("--sorcerer version", "version", ""),
        ("--sorcerer=x run x --project y", "run", ""),
        ("run --sorcerer --project=x --directory y --with z", "run", "--project=x"),
        ("run --sorcerer x --project=y", "run", ""),
        ("run -qZ x", "run", "-q"),
        ("--offline --sorcerer --quiet run x", "run", "--offline --quiet"),
        ("run --maybe=x y", "run", ""),  # a value that is not needed: the parser calls it a flag
    ],
)
def test_an_option_that_nobody_knows(line: str, subcommand: str, options: str) -> None:
    def ask(_subcommand: str, name: str) -> bool | None:
        return False if name == "--maybe" else None

    call = parse(line.split(), lambda _: "", ask)
    assert call is not None
    expected = [option.partition("=") for option in options.split()]
    if "y --with" in line:  # y may be the command
        expected.append(("--directory", "=", ""))
    assert call.options == [(name, value if equals else None) for name, equals, value in expected]
    assert (call.subcommand, call.words) == (subcommand, line.split())
    assert not call.understood
    assert not call.harmless
    assert call.forces_work
    assert call.words_after_preparation() == call.words


@pytest.mark.parametrize(
    ("line", "preparation", "operands"),
    [
        ("run --sorcery x -q", "run --sorcery -- true", "x -q"),
        ("-q --sorcery=y run --extra a x", "-q --sorcery=y run --extra -- true", "a x"),
        ("run -Z --offline -- x", "run -Z --offline -- true", "x"),
        ("run -Z - x", "run -Z -- true", "- x"),
        ("run -Z", "run -Z -- true", ""),
    ],
)
def test_preparation_with_an_option_that_nobody_knows(line: str, preparation: str, operands: str) -> None:
    call = parse(line.split(), lambda _: "")
    assert call is not None
    assert call.preparation_words("true", None) == preparation.split()
    assert call.operands == operands.split()


def test_an_option_that_nobody_knows_guards_no_other_subcommand() -> None:
    for line in ("--sorcerer pip x", "--sorcerer", "--sorcerer python pin", "pip --sorcerer sync"):
        assert parse(line.split(), lambda _: "") is None
    call = parse("--sorcerer lock".split(), lambda _: "", also=["lock"])
    assert call is not None
    assert call.subcommand == "lock"


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("lock", ""),
        ("-q lock --upgrade", "-q"),
        ("--project x lock", "--project=x"),
        ("lock --python 3 --project x --directory=y -q", "--project=x --directory=y -q"),
        ("lock --script s.py", "--script=s.py"),
        ("lock --help", "--help"),
        ("pip install -- --project", ""),
        ("pip install --project", "--project="),
    ],
)
def test_further_subcommands(line: str, options: str) -> None:
    call = parse(line.split(), _no_help, also=["lock", "pip", "no-subcommand"])
    assert call is not None
    expected = [option.partition("=") for option in options.split()]
    assert call.options == [(name, value if equals else None) for name, equals, value in expected]
    assert call.harmless is ("--help" in line)
    assert parse(line.split(), _no_help) is None
    assert parse(["tool", *line.split()], _no_help, also=["lock", "pip"]) is None


def test_options_in_help() -> None:
    found = option_table.options_in_help(_HELP)
    assert found == {"--sorcery": True, "-z": False, "--zeal": False, "--bump": True, "--maybe": True, "-y": True}


def test_the_table_has_no_option_twice() -> None:
    for subcommand in ("", *option_table.GUARDED):
        extra = (option_table._SHARED_FLAGS, option_table._SHARED_VALUES) if subcommand else ()
        own = (option_table._FLAGS[subcommand], option_table._VALUES[subcommand]) if subcommand else ()
        words = " ".join((option_table._GLOBAL_FLAGS, option_table._GLOBAL_VALUES, *extra, *own)).split()
        twice = {word for word in words if words.count(word) > 1}
        assert not twice - {"--isolated"}, (subcommand, twice)
        assert set(words) == set(option_table.known_options(subcommand))


@pytest.mark.parametrize(
    ("line", "harmless"),
    [
        ("run x", False),
        ("run -h x", True),
        ("run --help", True),
        ("--help run x", True),
        ("-V run x", True),
        ("--show-settings sync", True),
        ("sync --show-settings", True),
        ("run x --help", False),
        ("run -- --help", False),
        ("run --no-sync x", True),
        ("run --no-project x", True),
        ("run --isolated x", False),
        ("--isolated run x", False),
        ("run --script x.py", False),
        ("sync --script x.py", False),
        ("add --script x.py six", False),
        ("remove --script=x.py six", False),
        ("sync", False),
        ("sync --dry-run", True),
        ("sync --check", True),
        ("sync --check --no-check", False),
        ("sync --check --no-check --check", True),
        ("sync --dry-run --check --no-check", True),
        ("add six", False),
        ("add --no-sync --frozen six", False),
        ("version", True),
        ("version --short --output-format json", True),
        ("version 1.2.3", False),
        ("version --frozen 1.2.3", False),
        ("version --bump minor", False),
        ("version --bump=minor --dry-run", True),
        ("version 1.2.3 --dry-run", True),
        ("upgrade", False),
        ("upgrade --help", True),
        ("check", False),
        ("check --isolated", False),
        ("check --no-sync", True),
    ],
)
def test_harmless(line: str, harmless: bool) -> None:
    assert _read(line).harmless is harmless


@pytest.mark.parametrize(
    ("line", "keeps"),
    [
        ("run x", False),
        ("run --frozen x", True),
        ("sync --locked", True),
        ("run x --frozen", False),
        ("add --frozen x", False),
        ("version --frozen 1", False),
        ("check --frozen", True),
    ],
)
def test_keeps_lockfile(line: str, keeps: bool) -> None:
    assert _read(line).keeps_lockfile is keeps


@pytest.mark.parametrize(
    ("line", "exact"),
    [
        ("sync", True),
        ("sync --inexact", False),
        ("sync --no-exact", False),
        ("sync --inexact --exact", True),
        ("run x", False),
        ("run --exact x", True),
        ("run --exact --inexact x", False),
    ],
)
def test_exact(line: str, exact: bool) -> None:
    assert _read(line).exact is exact


def test_the_last_option_counts() -> None:
    call = _read("--project a run --project b --active --no-active --directory=c -q x --project d")
    assert call.value("--project") == "b"
    assert call.value("--directory", "--project") == "c"
    assert call.value("--config-file") is None
    assert not call.has("--active")
    assert call.has("--no-active", "--dev")
    assert call.quiet
    assert not _read("run x -q").quiet
    assert _read("run --no-active --active x").has("--active")


@pytest.mark.parametrize(
    ("line", "preparation"),
    [
        ("run", "run -- true"),
        ("run x -q", "run -- true"),
        ("-q run --extra a x", "-q run --extra=a -- true"),
        ("--project . run --project . x", "--project=. run --project=. -- true"),
        ("run -qp 3.11 x", "run -q -p 3.11 -- true"),
        ("run -p3.11 -wsix x", "run -p 3.11 -w six -- true"),
        ("run -m x", "run -- true"),
        ("run -qs x.py", "run -q -- true"),
        ("run --gui-script --show-resolution x.py", "run -- true"),
        ("run --upgrade -P six x", "run --upgrade -P six -- true"),
        ("run --with=-x --env-file e x", "run --with=-x --env-file=e -- true"),
    ],
)
def test_preparation(line: str, preparation: str) -> None:
    words = _read(line).preparation_words("true", None)
    assert words == preparation.split()
    again = parse(words, _no_help)
    assert again is not None
    assert again.preparation_words("true", None) == words


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run", "run"),
        ("run -qp 3.11 x -U", "run -qp 3.11 x -U"),
        ("run --with=six -- x", "run --with=six -- x"),
        ("run -U x -U", "run -- x -U"),
        ("-q run --upgrade -P six --upgrade-package=six -m x", "-q run -m -- x"),
        ("run --reinstall --reinstall-package six --refresh --refresh-package six -p3 x", "run -p 3 -- x"),
        ("run --force-reinstall", "run --"),
        ("run --no-upgrade x", "run --no-upgrade x"),
        ("check -U --fix", "check --fix"),
    ],
)
def test_words_after_preparation(line: str, expected: str) -> None:
    call = _read(line)
    assert call.words_after_preparation() == expected.split()
    assert call.forces_work is (call.words_after_preparation() != call.words)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run x", "--quiet lock"),
        ("-q --project . run --isolated -p 3 --extra a --upgrade x", "--quiet -q --project=. lock -p 3 --upgrade"),
    ],
)
def test_words_of_another_subcommand(line: str, expected: str) -> None:
    assert _read(line).other_words("lock", ["-q", "-p", "--project", "--upgrade"]) == expected.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("check", "--quiet run -- true"),
        ("-q check --fix --ty-version 1 --package a --no-dev", "--quiet -q run --package=a --no-dev -- true"),
        ("check --no-install-project", None),
        ("check --package a --package b", None),
    ],
)
def test_words_of_a_run_that_prepares_for_a_check(line: str, expected: str | None) -> None:
    call = _read(line)
    assert call.may_be_fresh is bool(expected)
    assert not expected or call.words_as_run("true") == expected.split()


def test_words_of_a_script_on_stdin() -> None:
    assert _read("-q run --with six -p 3 - x").stdin_words() == "-q run --with=six -p 3 -".split()


def test_environment_options_leave_out_those_that_change_no_environment() -> None:
    call = _read("-q --color=never run --exact -v --no-progress --extra a -m --frozen -p 3 x")
    assert call.environment_options() == [("--extra", "a"), ("--frozen", None), ("-p", "3")]


def test_words_that_cancel_what_settings_ask_for() -> None:
    call = _read("-q run --extra=a -m demo --no-reinstall x")
    assert call.words_after_preparation() == call.words
    words = ["-q", "run", "--extra=a", "-m", "--no-upgrade", "--", "demo", "--no-reinstall", "x"]
    assert call.words_after_preparation(["--no-upgrade"]) == words
    call = _read("run -P a true")
    assert call.words_after_preparation(["--no-upgrade"]) == ["run", "--no-upgrade", "--", "true"]

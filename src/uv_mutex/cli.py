"""The command line of `uv-mutex`: its commands and options. Each command is in a module of its own."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from uv_mutex import VERSION
from uv_mutex.commands.completion import Parser
from uv_mutex.errors import MutexError, say

#: Exit status after Ctrl-C, as a shell gives it.
_INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status.

    :param words: the words after ``uv-mutex``; None for those of this process.
    """
    if sys.platform != "linux":
        say(f"{sys.platform} is not supported; run uv-mutex on Linux")
        return 2
    words = sys.argv[1:] if words is None else list(words)
    # argparse must not see the words after `--`: versions of Python treat them differently.
    dashes = words.index("--") if words[:1] == ["exec"] and "--" in words else len(words)
    arguments = parser().parse_args(words[:dashes])
    arguments.words, arguments.after_dashes = words, words[dashes + 1 :]
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except MutexError as error:
        say(str(error))
        return error.status
    except OSError as error:
        # What could not be written must not be tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `uv-mutex status | head`
            return 1
        say(f"{error.filename or 'cannot go on'}: {error.strerror}; mend that, and run this again")
        return 2
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; run it again to begin anew")
        return _INTERRUPTED
    return status


def parser() -> Parser:
    """The parser of all commands. `--help` and the completion scripts are made from it."""
    parser = Parser(
        prog="uv-mutex", description="Run uv in parallel: a shim named uv lets one call at a time sync a project."
    )
    parser.add_argument("--version", action="version", version=f"uv-mutex {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name")

    def add(name: str, run: object, summary: str, more: str = "") -> Parser:
        command: Parser = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.{more}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        parser.commands[name] = (command, summary)
        return command

    _add_install_options(add("install", _install, "install or upgrade the shim", _INSTALL))
    _add_prefix(add("uninstall", _uninstall, "remove what install created"))
    _add_status_options(
        add("status", _status, "show who holds a project's lock, who waits, and what the last calls did", _STATUS)
    )
    _add_exec_options(add("exec", _exec, "run any command under a project's lock", _EXEC))
    _add_doctor_options(
        add("doctor", _doctor, "check whether a project is protected here, and say what to do if it isn't", _DOCTOR)
    )
    _add_timeline_options(
        add("timeline", _timeline, "draw a UV_MUTEX_LOG: who waited, who held the lock, who went on", _TIMELINE)
    )
    completion = add("completion", _completion, "print the script that makes a shell complete uv-mutex", _COMPLETION)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    add("demo", _demo, "run many uv calls at once, with and without the shim, and compare")
    return parser


def _add_prefix(command: argparse.ArgumentParser) -> None:
    from uv_mutex.setup.install import DEFAULT_PREFIX, PREFIX_FOR_ALL

    command.add_argument(
        "--prefix",
        type=Path,
        metavar="DIR",
        help=f"default: {DEFAULT_PREFIX}, or {PREFIX_FOR_ALL} for root with --wire, and what was installed there",
    )


def _add_install_options(command: argparse.ArgumentParser) -> None:
    _add_prefix(command)
    command.add_argument(
        "--wire",
        action="store_true",
        help="also put the shim first for shells, systemd and docker exec; uninstall undoes it",
    )


def _add_status_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("project", nargs="?", metavar="PROJECT", help=_PROJECT_HELP)
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.add_argument("--watch", action="store_true", help="print it again each second, until Ctrl-C")


def _add_exec_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--project", metavar="DIR", help=_PROJECT_HELP)
    command.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="the command to run")


def _add_doctor_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("project", nargs="?", metavar="PROJECT", help=_PROJECT_HELP)
    command.add_argument(
        "--peer", action="store_true", help="also try the lock out with a doctor that runs on another host"
    )
    command.add_argument("-v", "--verbose", action="store_true", help="also list what is as it should be")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.add_argument(
        "--seconds", type=seconds, default=60.0, metavar="N", help="how long to wait for that doctor; default: 60"
    )


def _add_timeline_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="a file that UV_MUTEX_LOG named")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the file to write")
    command.add_argument(
        "--format",
        choices=("svg", "chrome"),
        default="svg",
        help="svg, a picture for a browser (the default), or chrome, trace events for ui.perfetto.dev",
    )


_PROJECT_HELP = "a folder of the project; default: the project that uv finds from here"
_INSTALL = """

Prints the line for your shell's profile that puts the shim before the real uv on
PATH. Run it again to upgrade, also while uv calls are running: it installs what the
package uv-mutex has, which pip, pipx or uv upgrade."""
_STATUS = """

Shows the lock of the project, and the lock of its environment if that lies elsewhere.
Nobody has to wait because of it. Holders and waiters on other hosts that share the
folder are shown with their hosts. The calls are those of the last days that took the
lock. `exit` is "-" for a call that released the lock before its uv ended, as `uv run`
does.

--json prints one object:
  project, environment   paths
  locks                  for each lock: path, backend (flock, lease, or null if it was
                         never taken), state (free, held, unknown), reason (why the
                         state is unknown, or that a lease was not renewed; else null),
                         holder (null, or host, pid, user, command, since), waiting
                         (a list of the same)
  calls                  the last 10, the newest last: time, host, pid, command,
                         waited, held (seconds), prepared, exit (null: uv went on)
Times are seconds since 1970 by the clock of the host that wrote them. A later version
may add names, and will not change these."""
_DOCTOR = """

The first line is the verdict: protected or not, and why. Lines with what is wrong, and
what to do, follow; -v adds what was checked and is as it should be: the shim and PATH,
what the real uv protects by itself, the kind of lock and on which hosts it excludes,
the file server's clock where leases are used, permissions, files that killed calls
left, and git. The doctor creates the lock's folder, as a call does, and tries locks out
on its own files there. Outside a project it checks PATH alone.

--json prints one object: protected, verdict, project, environment (paths, or null) and
findings: for each its grade (ok, note, warning, not protected), fact and remedy.

With --peer, run it on two hosts at once in the same project: each says whether it saw
the other, and whether the lock of one excluded the other.

Exit status: 0 all is well, 1 warnings, 2 not protected."""
_TIMELINE = """

    export UV_MUTEX_LOG=/tmp/uv.log      # then start the uv calls
    uv-mutex timeline /tmp/uv.log -o herd.svg

Draws a band for each host, and in it a row for each call. Point at a row to read its
command. You can give the logs of several hosts together. Long pauses are left out, and
only the last 2000 calls are drawn. Lines that are no calls are skipped with a warning."""
_COMPLETION = """

    eval "$(uv-mutex completion bash)"                                # in ~/.bashrc
    eval "$(uv-mutex completion zsh)"                                 # in ~/.zshrc, after compinit
    uv-mutex completion fish > ~/.config/fish/completions/uv-mutex.fish

uv's own completion (uv generate-shell-completion) works through the shim."""
_EXEC = """

For commands that change a project and that the shim does not guard:

    uv-mutex exec -- uv pip install --python .venv somepackage
    uv-mutex exec --project ~/work/app -- git pull

Waits for the lock like a guarded call (UV_MUTEX_TIMEOUT and UV_MUTEX_LOG apply), and
also takes the lock of an environment outside the project. The command gets signals as
without uv-mutex. The exit status is the command's; 127 if there is no such command, 126
if it can't be started, 75 if UV_MUTEX_TIMEOUT ran out. uv calls that the command makes
on the same project do not wait."""


def _install(arguments: argparse.Namespace) -> int:
    from uv_mutex.setup import package_command
    from uv_mutex.setup.install import DEFAULT_PREFIX, PREFIX_FOR_ALL, install

    package_command.become(arguments.words)
    for_all = arguments.wire and os.geteuid() == 0
    folder = install(arguments.prefix or (PREFIX_FOR_ALL if for_all else DEFAULT_PREFIX))
    if arguments.wire:
        return _wire(folder.parent)
    if sys.stdout.isatty():
        print("# Put the shim before the real uv, in this shell and in your profile:", file=sys.stderr)
    else:  # `eval "$(uv-mutex install)"` takes the line
        print(f"uv-mutex {VERSION} is in {folder.parent}", file=sys.stderr)
    # $PATH in quotes, since fish would split it; as bytes, since a path need not be UTF-8.
    sys.stdout.buffer.write(os.fsencode(f'export PATH={shlex.quote(str(folder))}:"$PATH"\n'))
    return 0


def _wire(prefix: Path) -> int:
    """Put the shim first on PATH for every way to start a program, then check which uv each way finds."""
    from uv_mutex.setup import path_check, path_setup

    done, problems = path_setup.wire(prefix)
    tried, good = path_check.report(str(prefix))
    for problem in problems:
        say(problem)
    print(f"uv-mutex {VERSION} is in {prefix}; its lines or links are in", *done, sep="\n  ")
    print("Each way in, tried:", *tried, sep="\n")
    command = f"{prefix}/bin/uv-mutex uninstall --prefix {prefix}"
    print(f"Running programs keep the PATH they have. To undo all of this: {command}")
    return 0 if good and not problems else 1


def _uninstall(arguments: argparse.Namespace) -> int:
    from uv_mutex.setup.install import DEFAULT_PREFIX, PREFIX_FOR_ALL, absolute, uninstall
    from uv_mutex.setup.path_setup import unwire

    own = absolute(arguments.prefix or DEFAULT_PREFIX)
    prefix = PREFIX_FOR_ALL if arguments.prefix is None and os.geteuid() == 0 and not own.exists() else own
    for path in unwire(prefix):
        print(f"restored {path}")
    uninstall(prefix)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from uv_mutex.commands.status import status

    status(arguments.project, as_json=arguments.json, watch=arguments.watch)
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    from uv_mutex.commands.exec_ import execute

    execute([*arguments.command, *arguments.after_dashes], arguments.project)


def _doctor(arguments: argparse.Namespace) -> int:
    from uv_mutex.commands.doctor.report import doctor

    return doctor(
        arguments.project,
        with_peer=arguments.peer,
        seconds=arguments.seconds,
        verbose=arguments.verbose,
        as_json=arguments.json,
    )


def seconds(text: str) -> float:
    """Read a number of seconds. If it fails, argparse prints the name of this function.

    :raises ValueError: if the text is no number from 0 to a million.
    """
    number = float(text)
    if not 0 <= number < 1e6:
        raise ValueError(text)
    return number


def _timeline(arguments: argparse.Namespace) -> int:
    from uv_mutex.commands.timeline.draw import timeline

    timeline(arguments.logs, arguments.output, form=arguments.format)
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    from uv_mutex.commands.completion import completion

    print(completion(parser(), arguments.shell), end="")
    return 0


def _demo(_arguments: argparse.Namespace) -> int:
    from uv_mutex.commands.demo import demo

    return 0 if demo() else 1

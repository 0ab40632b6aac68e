"""The `uv-mutex` command: a table of what it can do. What each does is in a module of its own."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from uv_mutex import VERSION
from uv_mutex.errors import MutexError, say


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status.

    :param words: the words after ``uv-mutex``; None for those of this process.
    """
    if sys.platform != "linux":
        say(f"{sys.platform} is not supported; run uv-mutex on Linux")
        return 2
    words = sys.argv[1:] if words is None else list(words)
    # What follows two dashes is not ours to read, and Python's versions read it differently.
    dashes = words.index("--") if words[:1] == ["exec"] and "--" in words else len(words)
    arguments = parser().parse_args(words[:dashes])
    arguments.after_dashes = words[dashes + 1 :]
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except MutexError as error:
        say(str(error))
        return error.status
    except BrokenPipeError:  # `uv-mutex status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def parser() -> argparse.ArgumentParser:
    """Everything that can be asked for, and the reference of it: `--help` prints it, completion is made from it."""
    from uv_mutex.setup.install import DEFAULT_PREFIX

    parser = argparse.ArgumentParser(
        prog="uv-mutex", description="Run uv in parallel: a shim named uv lets one call at a time sync a project."
    )
    parser.add_argument("--version", action="version", version=f"uv-mutex {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name")

    def command(name: str, run: object, summary: str, more: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.{more}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made

    install = command("install", _install, "install or upgrade the shim", _INSTALL)
    uninstall = command("uninstall", _uninstall, "remove what install made")
    for each in (install, uninstall):
        each.add_argument(
            "--prefix", type=Path, default=DEFAULT_PREFIX, metavar="DIR", help=f"default: {DEFAULT_PREFIX}"
        )
    install.add_argument(
        "--wire", action="store_true", help="also put it first for shells, systemd, docker exec; uninstall undoes it"
    )
    status = command(
        "status", _status, "say who holds a project's lock, who waits, and what the last calls did", _STATUS
    )
    status.add_argument("project", nargs="?", metavar="PROJECT", help=_PROJECT_HELP)
    status.add_argument("--json", action="store_true", help="print it as JSON")
    status.add_argument("--watch", action="store_true", help="draw it anew each second, until Ctrl-C")
    execute = command("exec", _exec, "run any command under a project's lock", _EXEC)
    execute.add_argument("--project", metavar="DIR", help=_PROJECT_HELP)
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="what to run")
    doctor = command("doctor", _doctor, "say whether a project is protected here, and what to do if it isn't", _DOCTOR)
    doctor.add_argument("project", nargs="?", metavar="PROJECT", help=_PROJECT_HELP)
    doctor.add_argument(
        "--peer", action="store_true", help="meet the doctor of another host, and try the lock out with it"
    )
    doctor.add_argument(
        "--seconds", type=seconds, default=60.0, metavar="N", help="how long to wait for that one; default: 60"
    )
    timeline = command(
        "timeline", _timeline, "draw a UV_MUTEX_LOG: who waited, who held the lock, who went on", _TIMELINE
    )
    timeline.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="a file that UV_MUTEX_LOG named")
    timeline.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the file to write")
    timeline.add_argument(
        "--format",
        choices=("svg", "chrome"),
        default="svg",
        help="svg, for a browser (the default), or chrome: trace events, for ui.perfetto.dev",
    )
    completion = command("completion", _completion, "print what a shell needs to complete uv-mutex", _COMPLETION)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    command("demo", _demo, "run a herd of uv calls with and without the shim, side by side")
    return parser


_PROJECT_HELP = "a folder of the project; default: the project that uv would take here"
_INSTALL = """

Prints the line for your shell's profile that puts the shim before the real uv on
PATH. Once more, it upgrades in place, also while calls are in flight."""
_STATUS = """

Looks without disturbing anybody, at the lock of an environment outside the project
too. Other hosts that share the project's folder show up with their names. Calls are
those of the last days that took the lock; `exit` is "-" where uv went on without
the lock, as `uv run` does.

--json prints one object:
  project, environment   paths
  locks                  for each lock: path, backend (flock, lease, or null if it was
                         never locked), state (free, held, unknown), reason (why it
                         can't be known, else null), holder (null, or host, pid, user,
                         command, since), waiting (a list of the same)
  calls                  the last 10, the newest last: time, host, pid, command,
                         waited, held (seconds), prepared, exit (null: uv went on)
Times are seconds since 1970 by the clock of the host that wrote them. A later version
may add names, and will not change these."""
_DOCTOR = """

Looks at the shim and PATH, the real uv and what it guards by itself, the kind of lock
and how far it reaches, the clock where leases are used, permissions, what killed calls
left, and git. Each finding ends with what to do. It makes the lock's folder, as a call
would, and tries locks out on files of its own there.

With --peer, run it on two hosts at once in the same project: each says whether it saw
the other, and whether the lock of one kept the other out.

Exit status: 0 all is well, 1 warnings, 2 not protected."""
_TIMELINE = """

    export UV_MUTEX_LOG=/tmp/uv.log      # then let the herd run
    uv-mutex timeline /tmp/uv.log -o herd.svg

A row for each call, in a band for each host; point at one to read its command. Logs of
several hosts can be given together. Pauses in which nothing happened are left out, and
of very many calls the last 2000 are drawn. Lines that are none of a log are passed
over, with a warning."""
_COMPLETION = """

    eval "$(uv-mutex completion bash)"                                # in ~/.bashrc
    eval "$(uv-mutex completion zsh)"                                 # in ~/.zshrc, after compinit
    uv-mutex completion fish > ~/.config/fish/completions/uv-mutex.fish

uv's own completion (uv generate-shell-completion) works through the shim."""
_EXEC = """

For what changes a project and is not guarded by itself:

    uv-mutex exec -- uv pip install --python .venv somepackage
    uv-mutex exec --project ~/work/app -- git pull

Waits for its turn like a guarded call (UV_MUTEX_TIMEOUT and UV_MUTEX_LOG hold), and
takes the lock of an environment outside the project as well. Signals reach the command
as they would without uv-mutex, and the exit status is the command's; 127 if there is no
such command, 126 if it can't be started, 75 if the time to wait was over. uv calls that
the command makes on the same project go through without waiting."""


def _install(arguments: argparse.Namespace) -> int:
    from uv_mutex.setup.install import install

    folder = install(arguments.prefix)
    if arguments.wire:
        return _wire(folder.parent)
    print("# Put the shim before the real uv, in this shell and in your profile:", file=sys.stderr)
    # Quoted, since fish would take $PATH apart; as bytes, since a path need not be UTF-8.
    sys.stdout.buffer.write(os.fsencode(f'export PATH={shlex.quote(str(folder))}:"$PATH"\n'))
    return 0


def _wire(prefix: Path) -> int:
    """Wire the machine, say what was done, then go each way in to see where it leads."""
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
    from uv_mutex.setup.install import absolute, uninstall
    from uv_mutex.setup.path_setup import unwire

    for path in unwire(absolute(arguments.prefix)):
        print(f"restored {path}")
    uninstall(arguments.prefix)
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

    return doctor(arguments.project, with_peer=arguments.peer, seconds=arguments.seconds)


def seconds(text: str) -> float:
    """A number of seconds. (argparse shows this name to who writes something else.)

    :raises ValueError: if it is none.
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

"""The `uv-mutex` command."""

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
    if sys.platform == "win32":
        say("Windows is not supported: it has no flock, and no exec that keeps the process")
        return 2
    arguments = _parser().parse_args(words)
    try:
        status: int = arguments.run(arguments)
    except MutexError as error:
        say(str(error))
        return error.status
    return status


def _parser() -> argparse.ArgumentParser:
    from uv_mutex.install import DEFAULT_PREFIX

    parser = argparse.ArgumentParser(
        prog="uv-mutex", description="Run uv in parallel: a shim named uv lets one call at a time sync a project."
    )
    parser.add_argument("--version", action="version", version=f"uv-mutex {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    install = commands.add_parser("install", help="install or upgrade the shim")
    install.set_defaults(run=_install)
    uninstall = commands.add_parser("uninstall", help="remove what install made")
    uninstall.set_defaults(run=_uninstall)
    demo = commands.add_parser("demo", help="run a herd of uv calls with and without the shim, side by side")
    demo.set_defaults(run=_demo)
    for command in (install, uninstall):
        command.add_argument(
            "--prefix", type=Path, default=DEFAULT_PREFIX, metavar="DIR", help=f"default: {DEFAULT_PREFIX}"
        )
    return parser


def _install(arguments: argparse.Namespace) -> int:
    from uv_mutex.install import install

    folder = install(arguments.prefix)
    print("# Put the shim before the real uv, in this shell and in your profile:", file=sys.stderr)
    # Quoted, since fish would take $PATH apart; as bytes, since a path need not be UTF-8.
    sys.stdout.buffer.write(os.fsencode(f'export PATH={shlex.quote(str(folder))}:"$PATH"\n'))
    sys.stdout.flush()
    return 0


def _uninstall(arguments: argparse.Namespace) -> int:
    from uv_mutex.install import uninstall

    uninstall(arguments.prefix)
    return 0


def _demo(_arguments: argparse.Namespace) -> int:
    from uv_mutex.demo import demo

    return 0 if demo() else 1

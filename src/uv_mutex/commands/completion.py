"""`uv-mutex completion`: print a script that makes a shell complete `uv-mutex`, made from the argument parser.

uv's own completion, `uv generate-shell-completion`, needs no change: it works through the shim.
"""

import argparse
from collections.abc import Iterator
from typing import Any

_FOLDER, _FILE, _COMMAND, _NOTHING = "folder", "file", "command", "nothing"
#: What the value of an argument is, by its name in the help.
_KINDS = {"DIR": _FOLDER, "PROJECT": _FOLDER, "FILE": _FILE, "LOG": _FILE, "-- COMMAND ...": _COMMAND, "N": _NOTHING}
_BASH = {_FOLDER: "compgen -d", _FILE: "compgen -f", _COMMAND: "compgen -cf", _NOTHING: ":"}
_ZSH = {_FOLDER: "_files -/", _FILE: "_files", _COMMAND: "_normal", _NOTHING: " "}
_FISH = {
    _FOLDER: "-xa '(__fish_complete_directories)'",
    _FILE: "-rF",
    _COMMAND: "-xa '(__fish_complete_subcommand)'",
    _NOTHING: "-x",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that can say what was added to it.

    ``arguments``: what it takes, in the order in which it was added. ``commands``: the parser of each command and its
    one-line help, by the name of the command.
    """

    def __init__(self, *positional: Any, **named: Any) -> None:
        self.arguments: list[argparse.Action] = []
        self.commands: dict[str, tuple[Parser, str]] = {}
        super().__init__(*positional, **named)

    def add_argument(self, *positional: Any, **named: Any) -> argparse.Action:
        """As in argparse."""
        action = super().add_argument(*positional, **named)
        self.arguments.append(action)
        return action

    @property
    def options(self) -> list[argparse.Action]:
        """The arguments that are options."""
        return [action for action in self.arguments if action.option_strings]

    @property
    def operand(self) -> argparse.Action | None:
        """The argument that is no option; None if there is none."""
        return next((action for action in self.arguments if not action.option_strings), None)


def completion(parser: Parser, shell: str) -> str:
    """Return the script for one shell.

    :param parser: the parser of `uv-mutex`.
    :param shell: bash, zsh or fish.
    """
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser)


def _kind(action: argparse.Action | None) -> str:
    """What to complete for an argument: folders, files, commands or nothing."""
    return _KINDS.get(str(action.metavar), _NOTHING) if action else _NOTHING


def _words(action: argparse.Action) -> str:
    """The values that an argument can have, if they are fixed."""
    return " ".join(map(str, action.choices or ()))


def _bash(parser: Parser) -> str:
    lines = [
        "_uv_mutex() {",
        "    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}",
        "    COMPREPLY=()",
        '    if [ "$COMP_CWORD" = 1 ]; then',
        f"        COMPREPLY=($(compgen -W '{' '.join([*parser.commands, *_names(parser)])}' -- \"$word\"))",
        "        return",
        "    fi",
        "    case ${COMP_WORDS[1]} in",
    ]
    for name, (command, _) in parser.commands.items():
        lines += [f"    {name})", "        case $previous in"]
        for action in command.options:
            if action.nargs != 0:
                lines.append(f"        {'|'.join(action.option_strings)}) {_bash_reply(action)}; return ;;")
        lines += [
            "        esac",
            f"        case $word in -*) COMPREPLY=($(compgen -W '{' '.join(_names(command))}' -- \"$word\")) ;;",
        ]
        lines += [f"        *) {_bash_reply(command.operand)} ;;", "        esac ;;"]
    return "\n".join([*lines, "    esac", "}", "complete -o filenames -F _uv_mutex uv-mutex", ""])


def _bash_reply(action: argparse.Action | None) -> str:
    if action and action.choices:
        return f"COMPREPLY=($(compgen -W '{_words(action)}' -- \"$word\"))"
    kind = _kind(action)
    # Split at line ends alone, so that a name with a space stays one word. Readline quotes it.
    return ":" if kind == _NOTHING else f"local IFS=$'\\n'; COMPREPLY=($({_BASH[kind]} -- \"$word\"))"


def _names(parser: Parser) -> list[str]:
    return [name for action in parser.options for name in action.option_strings]


def _zsh(parser: Parser) -> str:
    lines = ["#compdef uv-mutex", "_uv-mutex() {", "    local -a commands=("]
    lines += [f"        {_quoted(f'{name}:{about}')}" for name, (_, about) in parser.commands.items()]
    lines += ["    )", "    if (( CURRENT == 2 )); then", "        _describe command commands"]
    lines += [f"        _arguments {' '.join(_zsh_options(parser))}", "        return", "    fi"]
    lines += ["    local command=$words[2]", "    shift words; (( CURRENT-- ))", "    case $command in"]
    for name, (command, _) in parser.commands.items():
        specs = list(_zsh_options(command))
        operand = command.operand
        if operand:
            rest = "*::" if operand.nargs == argparse.REMAINDER else "*:" if operand.nargs == "+" else ":"
            does = f"({_words(operand)})" if operand.choices else _ZSH[_kind(operand)]
            specs.append(_quoted(f"{rest}{str(operand.metavar).lower().strip('- .')}:{does}"))
        lines.append(f"    {name}) _arguments {' '.join(specs)} ;;")
    # The script registers itself if it is sourced; as a file in a folder of fpath, it is called instead.
    tail = ['if [[ $funcstack[1] == _uv-mutex ]]; then _uv-mutex "$@"; else compdef _uv-mutex uv-mutex; fi', ""]
    return "\n".join([*lines, "    esac", "}", *tail])


def _zsh_options(parser: Parser) -> Iterator[str]:
    for action in parser.options:
        about = (action.help or "").replace("[", "(").replace("]", ")").replace(":", "\\:")
        does = f"({_words(action)})" if action.choices else _ZSH[_kind(action)]
        value = "" if action.nargs == 0 else f":{str(action.metavar or action.dest).lower()}:{does}"
        for name in action.option_strings:
            yield _quoted(f"{name}[{about}]{value}")


def _fish(parser: Parser) -> str:
    lines = ["complete -c uv-mutex -f"]
    lines += [f"complete -c uv-mutex -n __fish_use_subcommand {_fish_option(each)}" for each in parser.options]
    for name, (command, about) in parser.commands.items():
        lines.append(f"complete -c uv-mutex -n __fish_use_subcommand -a {name} -d {_quoted(about)}")
        seen = f"complete -c uv-mutex -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{seen} {_fish_option(each)}" for each in command.options]
        operand = command.operand
        if operand and operand.choices:
            lines.append(f"{seen} -xa {_quoted(_words(operand))}")
        elif operand and _kind(operand) != _NOTHING:
            lines.append(f"{seen} {_FISH[_kind(operand)].replace('-rF', '-F')}")
    return "\n".join([*lines, ""])


def _fish_option(action: argparse.Action) -> str:
    flags = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in action.option_strings)
    if action.choices:
        flags += f" -xa {_quoted(_words(action))}"
    elif action.nargs != 0:
        flags += f" {_FISH[_kind(action)]}"
    return f"{flags} -d {_quoted(action.help or '')}"


def _quoted(text: str) -> str:
    """A text in single quotes for any of the three shells. A quote in it becomes a typographic one."""
    return "'" + text.replace("'", "\u2019") + "'"

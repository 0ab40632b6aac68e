"""How the real uv prepares an environment before `uv run` starts the user's command."""

from uv_mutex.shim import child
from uv_mutex.uv import option_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project
    from uv_mutex.uv.script import Script


class Preparation:
    """One way to prepare an environment.

    ``words``: the words after ``uv``. ``again``: those that let uv check its own work once more, without output.
    ``stdin``: what that uv reads from stdin. ``is_the_call``: whether it fails only where the user's call would fail
    in the same way. Where it does not, nobody sees what it prints: the user's call follows in any case, and shows how
    it fails.
    """

    __slots__ = ("again", "is_the_call", "stdin", "words")

    def __init__(self, words: list[str], *, again: list[str], stdin: bytes = b"", is_the_call: bool = True) -> None:
        self.words = words
        self.again = again
        self.stdin = stdin
        self.is_the_call = is_the_call


def preparation(call: "Call", project: "Project", ask_help: "Callable[[str], str]") -> Preparation:
    """How to prepare for a call of `run` or `check`, or to confirm a `sync`.

    :param call: the call.
    :param project: its project.
    :param ask_help: returns the real uv's ``--help`` of a subcommand.
    """
    if project.script and call.subcommand in option_table.STARTING:
        return _of_script(call, project.script)
    if project.isolated:
        # The environment is the call's own, and uv makes it anew each time. Only uv.lock is shared.
        words = call.other_words("lock", option_table.options_in_help(ask_help("lock")))
        return Preparation(words, again=words, is_the_call=False)
    true, option = child.true_command(), project.project_option
    if call.subcommand == "check":
        words = call.words_as_run(true)
        return Preparation(words, again=words, is_the_call=False)
    return Preparation(
        call.preparation_words(true, option),
        again=call.confirmation_words(true, option),
        is_the_call=call.understood,
    )


def _of_script(call: "Call", script: "Script") -> Preparation:
    if script.path is None:
        # The environment depends on the inline metadata alone, so a script that has no more than these will do.
        words = call.stdin_words()
        return Preparation(words, again=["--quiet", *words], stdin=script.text)
    # `uv sync` knows nothing of --with: those packages get an environment of their own, which no two calls share.
    names = option_table.known_options("sync").keys() - option_table.PROJECT_PARTS - option_table.TARGET_KIND
    names -= option_table.EXACTNESS | {"--isolated"}
    if not script.is_locked:  # `uv run` may ignore these then, `uv sync` fails
        names -= {"--locked", "--frozen"}
    words = call.other_words("sync", names)
    words += [f"--script={script.path}", *([] if call.exact else ["--inexact"])]
    return Preparation(words, again=words, is_the_call=False)

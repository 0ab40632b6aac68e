"""uv's environment variables."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TRUE_VALUES = ("1", "true", "t", "yes", "y", "on")


class Settings:
    """uv's environment variables, as far as the installed uv supports them."""

    def __init__(self, environ: "Mapping[str, str]", ask_help: "Callable[[str], str]") -> None:
        """
        :param environ: the environment variables.
        :param ask_help: returns the real uv's ``--help`` of a subcommand. It is called only if a variable is set that
            older versions don't support.
        """
        self._environ = environ
        self._ask_help = ask_help

    def get(self, name: str, *, shown_as: str | None = None) -> str | None:
        """The variable's value; None if it is empty, not set, or not supported by this uv.

        :param name: the variable.
        :param shown_as: a text in the help of each uv that supports the variable; None if every version supports it.
        """
        value = self._environ.get(name)
        if not value or (shown_as and shown_as not in self._ask_help("run")):
            return None
        return value

    def is_true(self, name: str, *, shown_as: str | None = None) -> bool:
        """Whether the variable has a value that uv takes for true. The parameters are those of :meth:`get`."""
        value = self.get(name, shown_as=shown_as)
        return value is not None and value.lower() in _TRUE_VALUES

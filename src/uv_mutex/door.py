"""What the front door does with the file that :mod:`uv_mutex.hot` makes."""

import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def serve(library: str, modules: dict[str, bytes]) -> None:
    """Let `from uv_mutex import …` find these modules, each made when it is first asked for.

    :param library: the folder that holds the package, for all its other modules.
    :param modules: their names in the package, and their marshalled code.
    """
    new_module = type(sys)
    package = new_module("uv_mutex")

    def load(name: str) -> "ModuleType":
        code = modules.get(name)
        if code is None:
            raise AttributeError(name)  # Python looks in the folder then
        module = new_module(f"uv_mutex.{name}")
        setattr(package, name, module)
        sys.modules[module.__name__] = module
        exec(marshal.loads(code), module.__dict__)
        return module

    package.__path__ = [f"{library}/uv_mutex"]
    package.__dict__["__getattr__"] = load
    exec(marshal.loads(modules["__init__"]), package.__dict__)
    sys.modules["uv_mutex"] = package
    load("errors")  # which others import by its full name

"""Put native launchers into a wheel: those of $UV_MUTEX_LAUNCHERS (a folder, see release), else one for this machine.

hatchling runs this hook while it builds a wheel. It never fails: a wheel without native launchers installs the Python
launcher.
"""

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Where they lie in the package; setup/launcher.py looks there.
_FOLDER = "uv_mutex/launchers"


class LauncherHook(BuildHookInterface[Any]):
    """Compiles the launcher."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the launchers to the files of the wheel.

        :param version: what is built; an editable installation gets none, since `install` compiles in a clone.
        :param build_data: what hatchling adds to the wheel.
        """
        if version == "editable":
            return
        ready = os.environ.get("UV_MUTEX_LAUNCHERS")
        if ready:
            paths = sorted(Path(ready).glob("uv-*"))
        else:
            self._temporary = tempfile.TemporaryDirectory()
            paths = self._compile(Path(self._temporary.name))
        for path in paths:
            build_data["force_include"][str(path)] = f"{_FOLDER}/{path.name}"

    def _compile(self, folder: Path) -> list[Path]:
        compiler = _compiler_module()
        path = folder / f"uv-{os.uname().machine}"
        try:
            compiler.compile_here(path)
        except (compiler.CompileError, OSError) as error:
            self.app.display_warning(f"uv-mutex: without a native launcher, since {error}; calls take 10 ms longer")
            return []
        self.app.display_info(f"uv-mutex: compiled the native launcher for {os.uname().machine}")
        return [path]


def _compiler_module() -> Any:
    """compiler.py, which lies beside this file; hatchling loads this file alone."""
    spec = importlib.util.spec_from_file_location("launcher_compiler", Path(__file__).with_name("compiler.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

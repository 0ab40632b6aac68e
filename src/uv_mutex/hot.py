"""The modules of the hot paths in one file, which the front door reads in one go.

Found and loaded one by one they cost a call 2 ms, a fifth of all that the shim adds. Whatever isn't in the file, Python
imports as usual.
"""

import marshal
from pathlib import Path
from types import CodeType

_MODULES = """system errors process realuv shim commandline holder place remote lock waiting history hold target toml
    project freshness""".split()
#: Annotations stay text: nobody evaluates them here. (The flag of `from __future__ import annotations`.)
_ANNOTATIONS_AS_TEXT = 0x1000000


def freeze(package: Path) -> bytes:
    """The file's content: a program for the front door to execute, and the modules that it serves.

    :param package: the folder of the modules' sources.
    """
    modules = {name: marshal.dumps(_compile(package / f"{name}.py")) for name in ("__init__", *_MODULES)}
    return marshal.dumps((_compile(package / "door.py"), modules))


def _compile(path: Path) -> CodeType:
    source = path.read_text(encoding="utf-8")
    code: CodeType = compile(source, str(path), "exec", _ANNOTATIONS_AS_TEXT, dont_inherit=True, optimize=2)
    return code

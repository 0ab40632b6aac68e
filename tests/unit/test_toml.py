"""The small TOML reader agrees with tomllib on whatever the workspace rules may meet."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from uv_mutex import toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

_WANTED = ("tool.uv", "tool.uv.workspace", "tool.uv.sources", "tool", "project", "absent.table")

_DOCUMENTS = [
    "",
    "# nothing but a comment",
    "[tool.uv]\nmanaged = false",
    "[tool.uv]\nmanaged=true # yes\n",
    "tool.uv.managed = false\n",
    "[tool]\nuv.managed = false\nuv.workspace.members = ['a']\n",
    "[tool]\nuv = { managed = false, workspace = { members = ['a', \"b\"], exclude = [] } }\n",
    "tool = { uv = { workspace = { members = [\n'a'\n] } } }\n",
    "[tool.uv.workspace]\n",
    "[tool.uv.workspace]\nmembers = []\n",
    '[tool.uv.workspace]\nmembers = ["packages/*", \'libs/[ab]?\', "x#y", "a,b", "c]d"]\nexclude = ["packages/old"]\n',
    '[tool.uv.workspace]\nmembers = [\n  "a", # one\n  # two\n  "b",\n\n  "c"  ,\n]\n',
    '[ tool . uv . workspace ]\n  members  =  [ "a" ]  \n',
    '[tool."uv".\'workspace\']\n"members" = ["a"]\n\'exclude\' = ["b"]\n',
    '["tool"]\n"uv"."workspace"."members" = ["a"]\n',
    '[tool."u\\u0076".workspace]\nmembers = ["\\u00e9", "tab\\t", "q\\"q", "back\\\\", "\\U0001F600"]\n',
    "[tool.uv.workspace]\nmembers = [\"\"\"a\"\"\", '''b''']\n",
    'x = """\n[tool.uv.workspace]\nmembers = ["wrong"]\n"""\n[tool.uv]\nmanaged = false\n',
    "x = '''\n[tool.uv]\nmanaged = false\n'''\n",
    'x = """quotes: "" and \\""" and five"""""\n[tool.uv]\nname = "x"\n',
    "x = ''''one before''''\n[tool.uv]\nname = 'y'\n",
    '[tool.uv]\ntext = """joined \\\n    here \\\n\n  and here"""\n',
    '[tool.uv]\ntext = """\nfirst\nsecond"""\n',
    "[tool.uv]\ntext = '''\r\nfirst'''\r\nnext = 'x'\r\n",
    "[tool.uv]\r\nmanaged = false\r\n",
    '[tool.uv]\npath = \'C:\\no\\escape\'\nempty = \'\'\nempty2 = ""\nempty3 = """"""\n',
    "[tool.uv]\na = [[1, 2], ['x', [true]], []]\nb = {}\nc = { d.e = 1, 'f.g' = 2, h = [{ i = 'j' }] }\n",
    "[tool.uv]\na = { b = 'x}', c = \"]\", d = '#' } # {\n",
    "[tool.uv]\nx = 1\n[tool.other]\nmanaged = false\n[tool.uv.workspace]\nmembers = ['a']\n[tool.uv.pip]\ny = 'z'\n",
    "[tool.uv.workspace]\nmembers = ['a']\n[tool.uv]\nmanaged = true\n",
    "[tool.uv.sources]\na = { workspace = true }\n'b.c' = { path = '../b', editable = true }\n",
    "[tool.uv]\nsources = { a = { workspace = true } }\n",
    "[tool.uv.sources.a]\nworkspace = true\n[tool.uv.sources.b]\npath = 'b'\n",
    "[[tool.uv.index]]\nurl = 'x'\n[[tool.uv.index]]\ndefault = true\n[tool.uv.workspace]\nmembers = ['a']\n",
    "[[tool.uv.index]]\nname = 'a'\n[tool.uv.index.inner]\nmanaged = false\n[tool.uv]\nmanaged = true\n",
    "[[project.authors]]\nname = 'x'\n[project.urls]\n\"Home page\" = 'y'\n",
    "[project]\nname = 'workspace'\nversion = '1'\ndependencies = ['a>=1; python_version<\"3\"', 'b[c]']\n",
    "[project]\nname='x'#c\nversion=\"1\"#c\n[tool.uv]#c\nmanaged=false#c\n",
    "a = 1\nb = -1.5e+3\nc = 0xFF\nd = 1979-05-27T07:32:00Z\ne = 07:32:00\nf = inf\ng = nan\n[tool.uv]\nh = 1_000\n",
    "[tool.uv]\na = 1979-05-27\nb = +1\nc = [1,2,\n3]\n",
    "[tool.uvx]\nmanaged = false\n[tool.u]\nv = 1\n[toolx.uv]\na = 1\n",
    "[[tool.uv.cache-keys]]\nfile = 'a'\n[[tool.uv.cache-keys]]\ngit.commit = true\n",
    "[[a.b]]\n[a.b.c]\nd = 'x'\n[[a.b.e]]\nf = 'y'\n[[a.b]]\n[tool]\nuv = 'no table'\n",
    "[tool.uv]\nmanaged-x = 'y'\n1234 = 'digits'\n_ = 'underscore'\n",
    "[tool.uv]\n\tmanaged\t=\tfalse\t\n\n\n",
    "[tool.uv]\ncache-keys = [{ file = 'a' }, { git = { commit = true } }, 'b/**/*.c', { env = 'X' }]\n",
    "\n\n  # c\n[tool]\n[tool.uv]\n",
    "[tool.uv]\na.b.c = 1\na.b.d = 'x'\na.e = true\n",
    "[tool.uv.workspace] # c\nmembers = [ # c\n] # c\nexclude = ['a' # c\n, 'b'] # c",
    "'' = 1\n[tool.uv.'']\na = 'b'\n",
]

_BROKEN = [
    "[tool.uv",
    "[tool.uv]\nmanaged",
    "[tool.uv]\nmanaged =",
    "[tool.uv]\nmanaged = ",
    "[tool.uv]\nx = 'open",
    '[tool.uv]\nx = """open"',
    "[tool.uv]\nx = [1, 2",
    "[tool.uv]\nx = { a = 1",
    "[tool.uv]\nx = { a }",
    "[tool..uv]\n",
    "= 1",
    "]",
    "[[tool.uv]\n",
    "[tool.uv]\nx = 1\nx.y = 2\n",
    "[tool]\nuv = 1\n[[tool.uv]]\n",
    '[tool.uv]\nx = "\\uZZZZ"',
]


def _plain(value: Any) -> Any:
    """What tomllib returns, with numbers and dates as their presence only."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | str) else "number or date"


def _ours(value: Any, expected: Any) -> Any:
    """What our reader returns; where a number or date is expected, its text stands for it."""
    if isinstance(value, dict) and isinstance(expected, dict):
        return {key: _ours(item, expected.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(expected, list) and len(value) == len(expected):
        return [_ours(item, other) for item, other in zip(value, expected, strict=True)]
    return "number or date" if expected == "number or date" and isinstance(value, str) else value


@pytest.mark.parametrize("wanted", _WANTED)
@pytest.mark.parametrize("text", _DOCUMENTS)
def test_agrees_with_tomllib(text: str, wanted: str) -> None:
    expected: Any = tomllib.loads(text)
    for part in wanted.split("."):
        expected = expected.get(part) if isinstance(expected, dict) else None
    expected = _plain(expected) if isinstance(expected, dict) else None
    found = toml.read_tables(text, wanted)
    assert _ours(found, expected) == ({} if expected is None else expected or {"": True})


@pytest.mark.parametrize("text", _BROKEN)
def test_refuses_what_tomllib_refuses(text: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)
    with pytest.raises(ValueError):  # noqa: PT011 - its text is for nobody
        toml.read_tables(text, "tool.uv")


@pytest.mark.parametrize("text", _DOCUMENTS)
def test_ends_on_any_piece_of_a_document(text: str) -> None:
    for end in range(len(text)):
        try:
            toml.read_tables(text[:end], "tool.uv")
        except ValueError:
            pass

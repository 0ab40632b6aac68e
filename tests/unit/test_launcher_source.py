"""What the native launcher has in C is what the package has in Python."""

from __future__ import annotations

import os
import re
from pathlib import Path

from uv_mutex import errors
from uv_mutex.environment import call_form, request_key, ticket
from uv_mutex.locking import wait
from uv_mutex.records import history, runs
from uv_mutex.setup import launcher
from uv_mutex.shim import handover, main, native_launcher, session
from uv_mutex.uv import executable, option_table

_FOLDER = Path(__file__).parents[2] / "src/launcher"
_SOURCE = "".join(path.read_text() for path in sorted(_FOLDER.glob("*.[ch]")))


def _words(name: str) -> list[str]:
    (text,) = re.findall(rf"\b{name}\[\] = {{(.*?)}};", _SOURCE, re.DOTALL)
    return re.findall(r'"(.*?)"', text)


def test_guarded_words() -> None:
    assert set(_words("GUARDED_WORDS")) == option_table.GUARDED == set(main._GUARDED_WORDS)


def test_values_that_switch_it_off() -> None:
    assert set(_words("OFF_WORDS")) == set(main._OFF)


def test_how_launchers_know_each_other() -> None:
    assert [word.encode() for word in _words("MARKERS")] == list(executable.LAUNCHER_MARKERS)
    assert f"HEAD_BYTES = {executable._HEAD_BYTES} " in _SOURCE
    # What it looks for, and its own mark with its size.
    assert _SOURCE.count(f'"{executable.LAUNCHER_MARKERS[0].decode()}"') == 3


def test_paths_statuses_and_the_option() -> None:
    assert f'#define DEFAULT_PATH "{os.defpath}"' in _SOURCE
    assert f'#define PYTHON_SIDE "/{launcher.POINTER}"' in _SOURCE
    assert f'"{handover.IGNORED_OPTION}=' in _SOURCE
    assert f'"{native_launcher._GATE_OPTION}=' in _SOURCE
    assert f'#define CALL_TO_WAIT "{native_launcher._CALL_TO_WAIT}"' in _SOURCE
    assert set(handover._IGNORED_BY_PYTHON) == {"SIGPIPE", "SIGXFSZ"}
    assert f"INCOMPLETE = 1, CANNOT_EXEC = {errors.CANNOT_EXEC} " in _SOURCE


def test_waits() -> None:
    ticks = 1 / wait._SHOW_SECONDS
    lines = f"FIRST_LINE = {wait._SILENT_SECONDS * ticks:.0f}, NEXT_LINE = {wait._REPEAT_SECONDS * ticks:.0f}"
    assert f"TICK_US = {1e6 / ticks:.0f}, {lines}, LONG_WAIT_US = {session._LONG_WAIT_SECONDS * 1e6:.0f} " in _SOURCE


def test_forms_of_calls() -> None:
    assert f'#define HEAD "{call_form._HEAD}"' in _SOURCE
    assert _words("COUNTED") == list(call_form._COUNTED)
    assert _words("IGNORED") == list(call_form._IGNORED)
    assert _words("APART") == list(call_form._APART)
    assert f"FORM_BYTES = 1 << {call_form._MOST_BYTES.bit_length() - 1}," in _SOURCE
    assert f"TICKET_BYTES = 1 << {ticket._MOST_BYTES.bit_length() - 1}," in _SOURCE
    assert f"GROWN_BYTES = 1 << {runs._MOST_BYTES.bit_length() - 1} " in _SOURCE
    assert runs._MOST_BYTES == history._MOST_BYTES


def test_what_no_form_depends_on_no_note_depends_on() -> None:
    assert request_key._IGNORED_VARIABLES.issuperset(call_form._IGNORED)
    assert option_table.APART.issuperset(call_form._APART)
    values = option_table.known_options("run")
    assert all(values[name] for name in call_form._APART)


def test_one_version_of_zig() -> None:
    (version,) = re.findall(r'"ziglang": "([\d.]+)"', (_FOLDER / "release").read_text())
    assert f" ziglang=={version} " in (_FOLDER.parents[1] / "hooks/Dockerfile").read_text()


def test_it_stays_small() -> None:
    assert _SOURCE.count("\n") <= 600
    assert max(map(len, _SOURCE.splitlines())) <= 120

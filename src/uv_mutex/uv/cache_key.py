"""Name the environment that uv keeps in its cache for a script with inline metadata.

Follows ScriptInterpreter::root in crates/uv/src/commands/project/mod.rs, cache_digest and cache_name in
crates/uv-cache-key/src/digest.rs, Path's Hash in Rust's standard library, and the crate seahash. The names are the same
from uv 0.5.31 to 0.13.9.
"""

import os

_MASK = (1 << 64) - 1
_FACTOR = 0x6EED0E9DA4D94A4F
_SEEDS = (0x16F11FE89B0D677C, 0xB480A793D8E6C86C, 0x6FE2E5AAF078EBC9, 0x14F994A4C5259381)
#: Rust ends the hash of a text with this byte.
_END_OF_TEXT = b"\xff"
_HEXADECIMAL = frozenset(b"0123456789abcdef")
_LONGEST_NAME = 100


def of_path(path: str) -> str:
    """The name of the environment of a script that is a file.

    :param path: the absolute path of the script, as :func:`uv_mutex.uv.script.absolute` makes it.
    """
    content, bits = b"", 0
    for part in os.fsencode(path).split(b"/"):
        if part not in (b"", b"."):
            content += part
            bits = (bits + len(part)) & _MASK
            bits = (bits >> 2 | bits << 62) & _MASK
    digest = _hex(_seahash(content + bits.to_bytes(8, "little")))
    name = os.path.basename(path)
    before, dot, _ = name.rpartition(".")
    stem = _cache_name(before if dot and before else name)
    return f"{stem}-{digest}" if stem else digest


def of_text(text: str) -> str:
    """The name of the environment of a script on stdin.

    :param text: the TOML text of its inline metadata.
    """
    return _hex(_seahash(text.encode("utf-8", "surrogateescape") + _END_OF_TEXT))


def _cache_name(name: str) -> str:
    try:
        content = name.encode()[:_LONGEST_NAME]
    except UnicodeEncodeError:  # half a surrogate pair: the name is not UTF-8
        return ""
    if _HEXADECIMAL.issuperset(content):
        return content.decode()
    made = ""
    for byte in content:
        char = chr(byte)
        if char.isascii() and char.isalnum():
            made += char.lower()
        elif not made.endswith("-"):
            made += "-"
    return made.removesuffix("-")


def _seahash(content: bytes) -> int:
    state = list(_SEEDS)
    whole = len(content) // 8 * 8
    for at in range(0, whole, 8):
        state = [*state[1:], _diffuse(state[0] ^ int.from_bytes(content[at : at + 8], "little"))]
    if content[whole:]:
        state[0] = _diffuse(state[0] ^ int.from_bytes(content[whole:], "little"))
    return _diffuse(state[0] ^ state[1] ^ state[2] ^ state[3] ^ len(content))


def _diffuse(number: int) -> int:
    number = number * _FACTOR & _MASK
    number ^= (number >> 32) >> (number >> 60)
    return number * _FACTOR & _MASK


def _hex(number: int) -> str:
    return number.to_bytes(8, "little").hex()

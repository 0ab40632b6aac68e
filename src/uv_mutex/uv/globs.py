"""Match the patterns of a workspace's members as Rust's glob crate matches them, and bound those of cache-keys.

uv's cache-keys follow the rules of a .gitignore, by the crates globwalk and globset. A pattern without a slash matches
at any depth; since uv 0.7.21, `src/*.rs` does so below `src`. To see each change that uv sees, it is enough to look at
more files than uv does: at each file below the part without wildcards whose name matches the last part.
"""

import os

#: Each pair of braces at least doubles the patterns that a pattern stands for.
_MOST_BRACES = 5


def matches(root: str, path: str, patterns: object, *, star_matches_slash: bool) -> bool:
    """Whether one of a workspace's patterns matches a folder.

    :param root: the workspace root.
    :param path: the folder, relative to the workspace root. An absolute pattern is held against its absolute path.
    :param patterns: what pyproject.toml says; a value that is not a list of strings matches nothing.
    :param star_matches_slash: whether `*`, `?` and `[…]` match "/" too.
    """
    if not isinstance(patterns, list):
        return False
    return any(
        isinstance(pattern, str)
        and _matches(
            os.path.normpath(pattern), f"{root}/{path}" if pattern.startswith("/") else path, star_matches_slash
        )
        for pattern in patterns
    )


def split(pattern: str) -> list[tuple[str, str]]:
    """The files that a pattern of cache-keys can match: folders, and a pattern for the names of the files below each.

    Follows crates/uv-cache-info/src/glob.rs (split_glob) and globset's parser.

    :param pattern: the pattern. The folders are relative to where it starts from.
    :returns: pairs of a folder and a pattern for :func:`name_matches`.
    :raises ValueError: if versions of uv treat the pattern in different ways that have no such bound.
    """
    if pattern != pattern.strip() or pattern.startswith(("!", "#", "/")) or "\\" in pattern:
        raise ValueError(pattern)
    # The classes "[!a]" and "[+-9]" of globset match "/" too, so that the last part need not be the file's name.
    classes = [rest.partition("]")[0] for rest in pattern.split("[")[1:]]
    is_plain = all(members and members[0] not in "!^" and not {*"-{,}/"} & {*members} for members in classes)
    found = []
    for path in alternatives(pattern) if is_plain else [pattern]:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        literal = 0
        while literal < len(parts) - 1 and not any(mark in parts[literal] for mark in "*?[]{}"):
            literal += 1
        if not parts or ".." in parts[literal:]:
            raise ValueError(pattern)
        name = parts[-1]
        while "**" in name:
            name = name.replace("**", "*")
        found.append(("/".join(parts[:literal]), name if is_plain else "*"))
    return found


def alternatives(pattern: str) -> list[str]:
    """The patterns that a pattern with braces stands for: `{a,b}.c` stands for `a.c` and `b.c`.

    :raises ValueError: if a brace has no counterpart, or if there are too many of them.
    """
    head, brace, rest = pattern.partition("{")
    if "}" in head or pattern.count("{") > _MOST_BRACES:
        raise ValueError(pattern)
    if not brace:
        return [pattern]
    depth, start, choices = 1, 0, []
    for at, char in enumerate(rest):
        depth += (char == "{") - (char == "}")
        if depth == 0 or (depth == 1 and char == ","):
            choices.append(rest[start:at])
            start = at + 1
        if depth == 0:
            return [head + tail for choice in choices for tail in alternatives(choice + rest[start:])]
    raise ValueError(pattern)


def name_matches(name: str, pattern: str) -> bool:
    """Whether a file's name matches the last part of a pattern of cache-keys. In globset, `?` matches one byte."""
    return pattern == "*" or _matches(_bytewise(pattern), _bytewise(name), True)


def _bytewise(text: str) -> str:
    return os.fsencode(text).decode("latin-1")


def _matches(pattern: str, text: str, star_matches_slash: bool) -> bool:
    """Match one pattern. The module fnmatch has other rules, and would import re, which costs each call 7 ms."""
    while pattern:
        if pattern.startswith("**"):  # any number of folders
            rest = pattern[2:].removeprefix("/")
            starts = (0, *(at + 1 for at, char in enumerate(text) if char == "/"), *([] if rest else [len(text)]))
            return any(_matches(rest, text[at:], star_matches_slash) for at in starts)
        if pattern[0] == "*":
            for at in range(len(text) + 1):
                if _matches(pattern[1:], text[at:], star_matches_slash):
                    return True
                if text[at : at + 1] == "/" and not star_matches_slash:
                    break
            return False
        if not text:
            return False
        end = pattern.find("]", 3 if pattern.startswith("[!") else 2)
        if pattern[0] == "[" and end > 0:
            if not _is_in_class(text[0], pattern[1:end], star_matches_slash):
                return False
            pattern = pattern[end + 1 :]
        elif pattern[0] == text[0] or (pattern[0] == "?" and (star_matches_slash or text[0] != "/")):
            pattern = pattern[1:]
        else:
            return False
        text = text[1:]
    return not text


def _is_in_class(char: str, members: str, slash_allowed: bool) -> bool:
    """Whether ``[members]`` matches a character. Members are characters and ranges; a leading "!" negates them."""
    if char == "/" and not slash_allowed:
        return False
    wanted = not members.startswith("!")
    members = members.removeprefix("!")
    found = False
    while members:
        if len(members) > 2 and members[1] == "-":
            found = found or members[0] <= char <= members[2]
            members = members[3:]
        else:
            found = found or members[0] == char
            members = members[1:]
    return found == wanted

"""What the doctor found: one fact, its grade, and what to do about it."""

from typing import NamedTuple

NOTE, FINE, WARNING, BAD = -1, 0, 1, 2
WORDS = {NOTE: "note", FINE: "ok", WARNING: "warning", BAD: "NOT PROTECTED"}


class Finding(NamedTuple):
    """One fact about a project.

    ``grade``: NOTE (what would go wrong without the shim), FINE, WARNING, or BAD (the project is not protected); the
    doctor's exit status is the highest grade. ``fact``: what is the case. ``remedy``: what the user can do.
    ``reason``: why this protects, as a clause for the verdict; empty if it does not.
    """

    grade: int
    fact: str
    remedy: str = "nothing to do"
    reason: str = ""

    def __str__(self) -> str:
        return f"{WORDS[self.grade]:13}  {self.fact}; {self.remedy}"


def note(fact: str, remedy: str) -> Finding:
    """A fact that explains why the shim is needed."""
    return Finding(NOTE, fact, remedy)


def fine(fact: str, remedy: str = "nothing to do", *, reason: str = "") -> Finding:
    """A fact that is as it should be."""
    return Finding(FINE, fact, remedy, reason)


def warning(fact: str, remedy: str) -> Finding:
    """A fact that can cause trouble, while the project is still protected."""
    return Finding(WARNING, fact, remedy)


def bad(fact: str, remedy: str) -> Finding:
    """A fact because of which the project is not protected."""
    return Finding(BAD, fact, remedy)


def of_error(error: Exception) -> Finding:
    """The finding for an error that would stop a call. Its text is the fact and, after a semicolon, the remedy."""
    fact, _, remedy = str(error).partition("; ")
    return Finding(BAD, fact, remedy)


def of_failed_trial(error: OSError, path: str) -> Finding:
    """The finding for an error that kept the doctor from trying a lock out.

    :param error: the error.
    :param path: the path to name if the error names none.
    """
    return bad(
        f"the lock can't be tried out: {error.filename or path}: {error.strerror}", "mend that, then run this again"
    )

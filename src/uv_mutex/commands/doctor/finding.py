"""What the doctor found: one fact, how bad it is, and what to do."""

FINE, WARNING, BAD = 0, 1, 2
_WORDS = {FINE: "ok", WARNING: "warning", BAD: "NOT PROTECTED"}


class Finding:
    """``grade``: FINE, WARNING, or BAD (not protected), which is also the exit status. ``remedy``: what to do."""

    __slots__ = ("fact", "grade", "remedy")

    def __init__(self, grade: int, fact: str, remedy: str = "nothing to do") -> None:
        self.grade = grade
        self.fact = fact
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{_WORDS[self.grade]:13}  {self.fact}; {self.remedy}"


def fine(fact: str, remedy: str = "nothing to do") -> Finding:
    return Finding(FINE, fact, remedy)


def warning(fact: str, remedy: str) -> Finding:
    return Finding(WARNING, fact, remedy)


def bad(fact: str, remedy: str) -> Finding:
    return Finding(BAD, fact, remedy)


def of_error(error: Exception) -> Finding:
    """The finding for an error that a call would stop with: what is wrong, and after the semicolon what to do."""
    fact, _, remedy = str(error).partition("; ")
    return Finding(BAD, fact, remedy)

"""How much memory of the machine many processes take together, at most."""

from __future__ import annotations

import threading
from pathlib import Path

_SAMPLE_SECONDS = 0.02


class LeastMemory:
    """Watches the memory that the machine has to give. A context; what others take meanwhile counts as well."""

    def __enter__(self) -> LeastMemory:
        self._first = self._least = available_mib()
        self._is_over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._sampler.join()

    @property
    def fall_mib(self) -> float:
        """By how many MiB it fell, at most, below what it was at first."""
        return self._first - self._least

    def _sample(self) -> None:
        while not self._is_over.wait(_SAMPLE_SECONDS):
            self._least = min(self._least, available_mib())


def available_mib() -> float:
    """The MiB that the kernel could give to programs now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) / 1024

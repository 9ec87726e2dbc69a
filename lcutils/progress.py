"""Progress of long work, the same in a terminal, a notebook and a log file."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from lcutils.text import one_line

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """A bar in a terminal or a notebook, and a line every few seconds in a log.

    The bar is tqdm's. The log file gets lines such as
    `02x0064_01d  40% 120,000/300,000 tok  81,920 tok/s  0:02 left  loss 4.31`; so does standard error where no bar can
    be seen, as in a batch job (the sweep sets TQDM_DISABLE).

    Args:
        title: name of the work, with which every line begins.
        total: amount of work, in units.
        unit: name of the unit, "tok" for tokens.
        log: file to append lines to, or None.
        start: units done before, by a run that is now resumed; they do not count towards the speed.
    """

    def __init__(self, title: str, total: int, unit: str = "tok", log: Path | None = None, start: int = 0) -> None:
        self.title, self.total, self.unit, self.log = one_line(title), total, unit, log
        self.start = self.done = start
        self.began = self.updated = self.last_line = time.monotonic()
        self.figures: dict[str, float] = {}
        interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.has_bar = interactive and not os.environ.get("TQDM_DISABLE")
        in_cell = type(sys.stdout).__module__ == "ipykernel.iostream"
        stream = sys.stdout if in_cell else sys.stderr  # a notebook shows standard error as a red box
        style = {"unit": unit, "unit_scale": True, "mininterval": 0.5, "disable": not self.has_bar}
        self.bar = tqdm(total=total, file=stream, initial=start, desc=self.title, **style)

    def __enter__(self) -> Progress:
        return self

    def update(self, n: int, **figures: float) -> None:
        """Count `n` more units as done; `figures` (such as a loss) are shown until they change."""
        self.done += n
        self.updated = time.monotonic()
        self.figures.update(figures)
        if figures:
            self.bar.set_postfix(self.figures, refresh=False)
        self.bar.update(n)
        if self.updated - self.last_line >= SECONDS_BETWEEN_LINES:
            self._write_line()

    def prepare(self, what: str) -> None:
        """Say what comes before the work; `begin` ends it."""
        self.bar.set_postfix_str(what)
        self._print(f"{self.title}  {what}")

    def begin(self, n: int) -> None:
        """Start the clock again: the preparation, and `n` units done in it, do not count towards the speed."""
        self.began = self.updated = time.monotonic()
        self.done += n
        self.start += n
        self.bar.set_postfix_str("")
        self.bar.update(n)
        self.bar.unpause()

    @property
    def rate(self) -> float:
        """Units per second from when this process began the work to the last of it."""
        return (self.done - self.start) / max(self.updated - self.began, 1e-9)

    def _write_line(self) -> None:
        self.last_line = time.monotonic()
        left = (self.total - self.done) / max(self.rate, 1e-9)
        words = [
            f"{self.title}  {self.done / max(self.total, 1):4.0%} {self.done:,}/{self.total:,} {self.unit}",
            f"{self.rate:,.0f} {self.unit}/s",
            f"{tqdm.format_interval(left)} left",
            *(f"{name} {value:.4g}" for name, value in self.figures.items()),
        ]
        self._print("  ".join(words))

    def _print(self, line: str) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                print(time.strftime("%Y-%m-%d %H:%M:%S"), line, file=file)
        if not self.has_bar:
            print(line, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if kind is None:
            self._write_line()

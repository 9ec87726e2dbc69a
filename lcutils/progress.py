"""Progress of long work, the same in a terminal, a notebook and a log file."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from lcutils.text import one_line

SECONDS_BETWEEN_LINES = 5.0


def short_number(value: float) -> str:
    """A number as a person says it.

    >>> [short_number(n) for n in (12, 310_400, 2_500_000)]
    ['12', '310 k', '2.5 M']
    """
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def short_percent(share: float) -> str:
    """A share as a person says it.

    >>> [short_percent(share) for share in (0.0123, 0.5, 15.234)]
    ['1.2 %', '50 %', '1,523 %']
    """
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:,.0f} %"


def short_time(seconds: float) -> str:
    """A duration as a person says it.

    >>> [short_time(n) for n in (0.2, 12, 100, 700, 7500, 280_000)]
    ['under 1 s', '12 s', '1 min 40 s', '12 min', '2 h 5 min', '78 h']
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 0.5 else "under 1 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes and hours < 24 else f"{round(seconds / 3600):,} h"


@contextmanager
def said_if_slow(line: str, seconds: float = 1.5) -> Iterator[None]:
    """Say on standard error what takes so long, if it does."""
    timer = threading.Timer(seconds, print, [line], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Progress:
    """A bar in a terminal or a notebook, and a line every few seconds in a log.

    The bar is tqdm's. The log file gets lines such as
    `train 02x0064_01d 40 %, 81.9 k tokens/s, loss 4.31, 2 s left`; so does standard error where no bar can be seen, as
    in a batch job (the sweep sets TQDM_DISABLE).

    Args:
        title: what is done, with which every line begins.
        total: amount of work, in units.
        unit: what is counted, in the plural.
        log: file to append lines to, or None. It is called as the model or the point, whose name follows the title.
        start: units done before, by a run that is now resumed; they do not count towards the speed.
        if_slow: nothing is shown of work that is over within the time between two lines.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str = "tokens",
        log: Path | None = None,
        start: int = 0,
        *,
        if_slow: bool = False,
    ) -> None:
        self.title = one_line(title if log is None else f"{title} {log.stem}")
        self.total, self.unit, self.log = total, unit, log
        self.start = self.done = start
        self.began = self.updated = self.last_line = time.monotonic()
        self.silent = if_slow  # until the first line
        self.figures: dict[str, float] = {}
        interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.has_bar = interactive and not os.environ.get("TQDM_DISABLE")
        in_cell = type(sys.stdout).__module__ == "ipykernel.iostream"
        stream = sys.stdout if in_cell else sys.stderr  # a notebook shows standard error as a red box
        style = {"unit": f" {unit}", "unit_scale": True, "mininterval": 0.5, "disable": not self.has_bar}
        # A bar within another's time takes its line: a notebook cannot move up to a line above.
        style |= {"position": 0, "delay": SECONDS_BETWEEN_LINES if if_slow else 0.0}
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
        self._print(f"{self.title} {what}")

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
        self.silent = False
        words = [
            f"{self.title} {self.done / max(self.total, 1):.0%}".replace("%", " %"),
            f"{short_number(self.rate)} {self.unit}/s",
            *(f"{name} {value:.4g}" for name, value in self.figures.items()),
        ]
        if self.done < self.total:
            words += [f"{short_time((self.total - self.done) / max(self.rate, 1e-9))} left"]
        self._print(", ".join(words))

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
        if kind is None and not self.silent:
            self._write_line()

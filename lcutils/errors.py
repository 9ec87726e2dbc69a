"""The exception for a user's mistake, the one for features that overflowed, and an error's message in short."""

from __future__ import annotations

from lcutils.text import one_line


class UserError(ValueError):
    """A mistake in the input, reported in one line that names the file or key and the fix.

    Names and paths in it may hold any character: it is shown as one visible line, a very long one without its middle.
    IPython calls `_render_traceback_` if an exception has it, so that a notebook shows that line and no traceback.
    """

    def __str__(self) -> str:
        return one_line(super().__str__(), 499)

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]


class NotFiniteError(ValueError):
    """Features that are inf or nan, found when their sums or counts are read."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, cut to 200 characters; the name of its type if it has no message."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0], 200) if lines else type(error).__name__

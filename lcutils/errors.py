"""The one exception that stands for a user's mistake, and the one for features that overflowed."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the input, told in one line that names the file or key and the mend.

    IPython calls `_render_traceback_` when it is there, so that a notebook shows that line and no traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]


class NotFiniteError(ValueError):
    """Features that are inf or nan, found when their sums or counts are read."""

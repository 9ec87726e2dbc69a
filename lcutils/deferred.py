"""Put off what a library imports for a use that may never come.

jsonschema, which Altair and Jupyter's notebooks need, imports rfc3987_syntax for one of its formats. That builds 38
parsers as it is imported: a second in every process that draws a chart or reads a notebook, and each job is one.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PARSERS = "rfc3987_syntax"


def defer_parsers() -> None:
    """Let whoever imports the parsers have a module that becomes the real one when it is first used."""
    if PARSERS in sys.modules or (spec := find_spec(PARSERS)) is None:
        return
    stand_in = module_from_spec(spec)  # with a file and a path: many look through all modules for these

    def real() -> ModuleType:
        if sys.modules.get(PARSERS) is stand_in:
            del sys.modules[PARSERS]
        return import_module(PARSERS)

    def is_valid_syntax(*words: Any) -> Any:  # the one name that jsonschema takes
        return real().is_valid_syntax(*words)

    def any_other(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(real(), name)

    vars(stand_in).update(is_valid_syntax=is_valid_syntax, __getattr__=any_other)
    sys.modules[PARSERS] = stand_in

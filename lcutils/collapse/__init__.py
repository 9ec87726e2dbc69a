"""Stage 4, statistics to measurements: one small file per property; `catalogue` says what is measured.

Names are imported when they are first used: charts and tables read the catalogue without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "KEYS": "catalogue",
    "AgreementCounter": "agreement",
    "classifier_agreement": "agreement",
    "measure_collapse": "measure",
    "measure_tokens": "tokens",
    "ood_deviation": "duality",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lcutils.collapse' has no attribute {name!r}")
    return getattr(import_module(f"lcutils.collapse.{_HOMES[name]}"), name)

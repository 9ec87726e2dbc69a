"""Stage 4, statistics to measurements: one small file per property; `catalogue` says what is measured.

Names are imported when they are first used: charts and tables read the catalogue without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcutils.collapse.agreement import AgreementCounter, classifier_agreement
    from lcutils.collapse.catalogue import KEYS
    from lcutils.collapse.duality import ood_deviation
    from lcutils.collapse.measure import measure_by_count, measure_collapse
    from lcutils.collapse.tokens import measure_tokens

_HOMES = {
    "KEYS": "catalogue",
    "AgreementCounter": "agreement",
    "classifier_agreement": "agreement",
    "measure_by_count": "measure",
    "measure_collapse": "measure",
    "measure_tokens": "tokens",
    "ood_deviation": "duality",
}

__all__ = [
    "KEYS", "AgreementCounter", "classifier_agreement", "measure_by_count", "measure_collapse", "measure_tokens",
    "ood_deviation",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lcutils.collapse' has no attribute {name!r}")
    return getattr(import_module(f"lcutils.collapse.{_HOMES[name]}"), name)

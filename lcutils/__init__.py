"""Neural collapse in language models: data, training, class statistics, measurements, analysis.

```python
from lcutils import ClassStatistics, measure_collapse
```

Names are imported when they are first used: `import lcutils` itself loads neither transformers nor altair.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lcutils.deferred import defer_parsers

if TYPE_CHECKING:  # for type checkers and editors; `as` says that a name is public
    from lcutils.analysis import correlations as correlations
    from lcutils.analysis import permutation_test as permutation_test
    from lcutils.analysis.published import load_published as load_published
    from lcutils.callback import CollapseCallback as CollapseCallback
    from lcutils.collapse.agreement import classifier_agreement as classifier_agreement
    from lcutils.collapse.measure import measure_collapse as measure_collapse
    from lcutils.collapse.tokens import measure_tokens as measure_tokens
    from lcutils.errors import UserError as UserError
    from lcutils.features.models import load_feature_model as load_feature_model
    from lcutils.features.statistics import ClassStatistics as ClassStatistics
    from lcutils.measuring import measure_model as measure_model
    from lcutils.measuring import measure_models as measure_models
    from lcutils.monitor import CollapseMonitor as CollapseMonitor
    from lcutils.parameters import load_study as load_study
    from lcutils.stages import open_study as open_study

__version__ = "0.1.0"  # pyproject.toml reads it here

_HOMES = {
    "ClassStatistics": "features.statistics",
    "CollapseCallback": "callback",
    "CollapseMonitor": "monitor",
    "UserError": "errors",
    "classifier_agreement": "collapse.agreement",
    "correlations": "analysis",
    "load_feature_model": "features.models",
    "load_published": "analysis.published",
    "load_study": "parameters",
    "measure_collapse": "collapse.measure",
    "measure_model": "measuring",
    "measure_models": "measuring",
    "measure_tokens": "collapse.tokens",
    "open_study": "stages",
    "permutation_test": "analysis",
}

__all__ = list(_HOMES)

defer_parsers()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lcutils' has no attribute {name!r}")
    return getattr(import_module(f"lcutils.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

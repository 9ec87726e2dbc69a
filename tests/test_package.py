"""The package as others import it: quick, and with the names that stay."""

import subprocess
import sys

import lcutils


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_loads_nothing_heavy():
    loaded = modules_after("import lcutils")
    assert not loaded & {"transformers", "altair", "pandas", "datasets", "torch", "scipy"}


def test_measurements_need_neither_tables_nor_charts():
    """They run where only torch, numpy and safetensors are, such as a GPU machine without our environment."""
    loaded = modules_after("from lcutils import ClassStatistics, measure_collapse; import lcutils.training")
    assert "torch" in loaded
    assert not loaded & {"transformers", "altair", "pandas", "datasets", "pydantic", "papermill"}


def test_every_public_name_is_there():
    for name in lcutils.__all__:
        assert callable(getattr(lcutils, name)), name
    assert dir(lcutils) == lcutils.__all__

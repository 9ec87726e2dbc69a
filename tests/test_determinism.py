"""The deterministic mode and the additions that it changes."""

import pytest
import torch

from lcutils.gptneo.determinism import add_rows, deterministic


@pytest.mark.parametrize("wanted", [False, True])
def test_rows_are_added_in_both_modes(wanted):
    random = torch.Generator().manual_seed(0)
    index = torch.randint(7, (5000,), generator=random, dtype=torch.int32)
    rows = torch.randn(5000, 3, generator=random)
    out = torch.randn(9, 3, generator=random)
    expected = torch.stack([out[k].double() + rows[index == k].double().sum(0) for k in range(9)])
    with deterministic(wanted):
        add_rows(out, index, rows)
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-5)


def test_the_mode_ends_with_its_block(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(KeyError), deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()

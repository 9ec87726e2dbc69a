"""What FlexAttention is told about its masks: whether that is true, on the masks themselves."""

import pytest
import torch

from lcutils.gptneo.attention import FLEX_MIN_HEAD, attention_mask, flex_block, flex_options

HOPPER, AMPERE = (9, 0), (8, 0)


def side_by_side(numbers, indices):
    """Whether the blocks of every row (or column) follow one another."""
    rows = zip(numbers.flatten().tolist(), indices.flatten(0, 2).tolist(), strict=True)
    return all(row[:n] == list(range(row[0], row[0] + n)) for n, row in rows)


def seen_at_once(mask, length, block):
    """Whether every row sees a key among the first 16 (no tile has fewer) that it meets, or its maximum is -inf.

    Blocks that are partly hidden come before those that are not.
    """
    for row in range(-(-length // block)):
        partly = mask.kv_num_blocks[0, 0, row] > 0
        first = int((mask.kv_indices if partly else mask.full_kv_indices)[0, 0, row, 0]) * block
        queries = torch.arange(row * block, min((row + 1) * block, length))[:, None]
        if not mask.mask_mod(0, 0, queries, first + torch.arange(16)).any(1).all():
            return False
    return True


@pytest.mark.parametrize("capability", [HOPPER, AMPERE])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("head_size", [16, 32, 48, 64])
@pytest.mark.parametrize("window", [None, 256])
@pytest.mark.parametrize("length", [128, 300, 512, 1024])
def test_options_are_true_of_the_mask(monkeypatch, capability, dtype, head_size, window, length):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    block = flex_block(head_size, window, torch.device("cuda"), dtype)
    if block is None:
        assert (window, dtype) == (None, torch.bfloat16)
        assert head_size > FLEX_MIN_HEAD
        return
    options = flex_options(torch.Size((2, 16, length, head_size)), window is not None, dtype)
    mask = attention_mask(length, window, torch.device("cpu"), block)
    found = all(
        side_by_side(*blocks)
        for blocks in (
            (mask.kv_num_blocks, mask.kv_indices),
            (mask.full_kv_num_blocks, mask.full_kv_indices),
            (mask.q_num_blocks, mask.q_indices),
            (mask.full_q_num_blocks, mask.full_q_indices),
        )
    )
    assert found or "BLOCKS_ARE_CONTIGUOUS" not in options
    assert "ROWS_GUARANTEED_SAFE" not in options or seen_at_once(mask, length, block)
    assert all(block % size == 0 for name, size in options.items() if "BLOCK_" in name)
    assert block == 128 or (capability == HOPPER and head_size < 64)


def test_gaps_are_noticed():
    """Masks that have gaps are seen to have them, or the test above could not fail."""
    mask = attention_mask(300, None, torch.device("cpu"), 128)
    assert not side_by_side(mask.q_num_blocks, mask.q_indices)
    mask = attention_mask(1024, 256, torch.device("cpu"), 128)
    assert not side_by_side(mask.kv_num_blocks, mask.kv_indices)
    assert not seen_at_once(mask, 1024, 128)


def test_the_cpu_needs_no_flex_attention():
    assert flex_block(16, 256, torch.device("cpu"), torch.float32) is None
    assert attention_mask(20, None, torch.device("cpu"), None) is None
    assert attention_mask(20, 20, torch.device("cpu"), None) is None
    band = attention_mask(20, 3, torch.device("cpu"), None)
    expected = [[key <= query < key + 3 for key in range(20)] for query in range(20)]
    assert band.tolist() == expected

"""Constants of the paper (Wu & Papyan 2024) and of its released code."""

from __future__ import annotations

DATASET = "roneneldan/TinyStories"
TOKENIZER = "EleutherAI/gpt-neo-125M"
VOCABULARY = 50_257  # rows of that tokenizer's vocabulary
CLASSES = 29_233  # token types that occur in the train set
BLOCK_SIZE = 2048  # tokens
TRAIN_BLOCKS = 229_367  # of TinyStories, as the authors packed it
SEED = 42  # of the released runs that have no number in their name
DECAY = {"d": 5e-4, "L": 0.1, "n": 0.0}  # weight decay by the letter of a run's name

WIDTHS = (64, 128, 256, 512, 768, 1024)
_SEQUENCES = {  # by depth, for WIDTHS in order
    1: (16, 16, 16, 16, 16, 16),
    2: (16, 16, 16, 16, 16, 8),
    4: (8, 8, 8, 8, 8, 8),
    8: (8, 8, 8, 4, 4, 4),
    12: (4, 4, 4, 4, 4, 4),
}
BATCH_SIZES = {  # (depth, width) -> sequences per batch (paper, Table 3)
    (depth, width): size for depth, sizes in _SEQUENCES.items() for width, size in zip(WIDTHS, sizes, strict=True)
}

# Table 5 is of first names. The paper's text gives Anna and Tim; the others are frequent in TinyStories.
FIRST_NAMES = ("Lily", "Tim", "Anna", "Tom", "Ben", "Mia", "Max", "Sue", "Sam", "Jack")

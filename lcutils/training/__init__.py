"""Stage 2, token blocks to weights: `loop` trains a run, `step` makes one step of it, `resume` survives a kill."""

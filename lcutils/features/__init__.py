"""Stage 3, weights to class statistics: `models` loads any language model, `extraction` passes the text through it."""

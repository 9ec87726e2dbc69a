"""Stage 4, statistics to measurements: one small file per property; `catalogue` says what is measured."""

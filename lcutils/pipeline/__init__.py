"""A study as files and jobs: where artifacts lie, which are out of date, the sweep over all of them, and its cost."""

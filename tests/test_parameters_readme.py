"""`parameters/README.md` says what the schema says, and every key has a meaning."""

import runpy

from lcutils.parameters import ROOT, leaf_keys

WRITER = runpy.run_path(str(ROOT / "parameters/write_readme.py"))


def test_the_tables_of_keys_are_current():
    assert (ROOT / "parameters/README.md").read_text() == WRITER["page"](), "run python parameters/write_readme.py"


def test_every_key_is_listed_with_a_meaning():
    rows = [line.split(" | ") for line in WRITER["keys"]().splitlines() if line.startswith("| `")]
    assert {row[0].strip("| `") for row in rows} >= set(leaf_keys())
    assert all(row[-1].strip("| ") for row in rows)

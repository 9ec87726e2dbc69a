"""Random studies."""

from pathlib import Path
from random import Random

from lcutils.errors import UserError
from lcutils.parameters import load_study


def attempt(random: Random, folder: Path) -> str:
    """Load a YAML file of random words."""
    path = folder / "study.yaml"
    path.write_text("".join(random.choice("ab: \n-[]{}0") for _ in range(random.randrange(60))))
    try:
        load_study(path)
    except UserError:
        return "one line"
    return "read"

"""Write the API reference into `.docs/`: `make docs`. A warning is an error, so that CI sees it."""

import pkgutil
import warnings
from pathlib import Path

import pdoc

import lcutils

warnings.simplefilter("error", UserWarning)
# Constructors of named tuples and of inherited dataclasses do not know their modules; their types are shown as written.
warnings.filterwarnings("ignore", message="Error parsing type annotation")
# Public names are imported when they are first used; pdoc looks only for those that are there.
vars(lcutils).update({name: getattr(lcutils, name) for name in lcutils.__all__})
rooms = [found.name for found in pkgutil.iter_modules(lcutils.__path__, "lcutils.") if found.name != "lcutils.__main__"]
pdoc.pdoc("lcutils", *rooms, output_directory=Path(".docs"))

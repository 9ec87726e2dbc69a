"""Write the API reference into `.docs/`: `make docs`. A warning is an error, so that CI sees it."""

import pkgutil
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pdoc

import lcutils

warnings.simplefilter("error", UserWarning)
# Constructors of named tuples and of inherited dataclasses do not know their modules; their types are shown as written.
warnings.filterwarnings("ignore", message="Error parsing type annotation")
# Public names are imported when they are first used; pdoc looks only for those that are there.
vars(lcutils).update({name: getattr(lcutils, name) for name in lcutils.__all__})
rooms = [found.name for found in pkgutil.iter_modules(lcutils.__path__, "lcutils.") if found.name != "lcutils.__main__"]
if not find_spec("triton"):  # a CPU build of torch comes without it, and modules of GPU kernels import it
    triton = ModuleType("triton")
    triton.__getattr__ = lambda name: MagicMock(name=name)  # type: ignore[method-assign]
    sys.modules |= {"triton": triton, "triton.language": triton}
pdoc.pdoc("lcutils", *rooms, output_directory=Path(".docs"))

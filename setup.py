"""What pyproject.toml cannot say: a wheel holds the studies, notebooks and Snakefile, which lie beside the package."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py

BESIDE = ("parameters", "notebooks", "Snakefile")
SCRATCH = TemporaryDirectory()  # deleted at exit: a `build/` in the checkout would put old files into the next wheel


class BuildElsewhere(build):
    """Build in a temporary folder."""

    def initialize_options(self) -> None:
        """Before options are read, so that `--build-base` still counts."""
        super().initialize_options()
        self.build_base = SCRATCH.name


class BuildWithStudies(build_py):
    """Copy into a wheel what an editable installation finds in the checkout."""

    def run(self) -> None:
        """Copy the package, and then what lies beside it."""
        super().run()
        if self.editable_mode:
            return
        shipped = Path(self.build_lib) / "lcutils" / "shipped"
        shipped.mkdir(parents=True)
        for name in BESIDE:
            if Path(name).is_dir():
                shutil.copytree(name, shipped / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
            else:
                shutil.copy(name, shipped / name)


setup(cmdclass={"build": BuildElsewhere, "build_py": BuildWithStudies})

"""The first hour: a wheel in an empty folder, conda's list without make, and make in an environment that is active."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

import lcutils
from lcutils.parameters import ROOT

MODEL = "01x0064_01d"
SMALL = ["max_stories=150", "tokenizer=bpe:300", "block_size=32"]


def run(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does who knows nothing of this test run's environment."""
    clean = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LCUTILS_ROOT")
    }
    outcome = subprocess.run([*map(str, words)], cwd=cwd, env=clean | environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return outcome


def fresh_environment(folder: Path, *package: str | Path) -> Path:
    """A new environment that holds this package, and finds what it needs where the tests do; its `bin`."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=ROOT).stdout.strip()
    # Paths of a .pth file come after the environment's own packages, and .pth files there are not read.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *package, cwd=ROOT)
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run(sys.executable, "-m", "pip", "wheel", ".", *options, "--wheel-dir", folder, cwd=ROOT)
    assert not (ROOT / "build").exists()
    return fresh_environment(folder / "venv", *folder.glob("*.whl"))


def test_a_wheel_sweeps_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """A study that comes with it; results lie in the folder where the command was started."""
    run(installed / "lcutils", "sweep", "demo", "--model", MODEL, "--set", *SMALL, cwd=tmp_path)
    assert (tmp_path / "outputs/demo/measurements" / f"{MODEL}@0/row.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_relative_paths_of_a_wheel_start_at_the_working_directory(installed: Path, tmp_path: Path) -> None:
    """In a study of one's own too, and in the processes of a sweep, which start elsewhere."""
    story = "Once upon a time there was a cat named Tom. He sat on a mat and sang to the moon.\n<|endoftext|>\n"
    (tmp_path / "text.txt").write_text(story * 400)
    demo = yaml.safe_load((ROOT / "parameters/demo.yaml").read_text())
    demo["corpus"] = {"source": "text.txt", "tokenizer": "bpe:300", "block_size": 32, "packing": "lossless"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(demo))
    run(installed / "lcutils", "sweep", "mine.yaml", "--model", MODEL, cwd=tmp_path)
    assert (tmp_path / "outputs/mine/measurements" / f"{MODEL}@0/row.json").is_file()


def test_a_mistake_names_where_paths_start(installed: Path, tmp_path: Path) -> None:
    command = [installed / "lcutils", "plan", "nothing.yaml"]
    outcome = subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert outcome.returncode == 2
    assert ", ".join(sorted(path.stem for path in (ROOT / "parameters").glob("*.yaml"))) in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_the_version_is_said_once(installed: Path, tmp_path: Path) -> None:
    code = "import lcutils, importlib.metadata as m; print(lcutils.__version__, m.version('lcutils'), lcutils.__file__)"
    installed_version, of_wheel, file = run(installed / "python", "-c", code, cwd=tmp_path).stdout.split()
    assert installed_version == of_wheel == lcutils.__version__
    assert not Path(file).is_relative_to(ROOT / "lcutils")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lcutils.__version__


def test_all_files_beside_the_package_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "from lcutils.parameters import SHIPPED; print(SHIPPED)"
    shipped = Path(run(installed / "python", "-c", code, cwd=tmp_path).stdout.strip())
    for name in (
        "Snakefile",
        "parameters/profiles/slurm/config.yaml",
        *_names("parameters/*.yaml", "notebooks/*.ipynb"),
    ):
        assert (shipped / name).read_bytes() == (ROOT / name).read_bytes()


def _names(*patterns: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone, with what is not committed yet."""
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "clone" / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path / "clone"


@pytest.fixture
def conda(clone: Path, tmp_path: Path) -> Path:
    """What conda's list makes, as far as that works offline: the folder of an environment with the clone in it."""
    wanted = yaml.safe_load((clone / "environment.yml").read_text())["dependencies"]
    assert "make" not in wanted
    assert "--editable .[dev]" in wanted[-1]["pip"]
    return fresh_environment(tmp_path / "conda", "--editable", clone).parent


def test_conda_needs_no_make(conda: Path, clone: Path, tmp_path: Path) -> None:
    system = tmp_path / "system"
    system.mkdir()
    for tool in (path for folder in ("/usr/bin", "/bin") for path in Path(folder).iterdir()):
        if tool.name not in ("make", "gmake") and not (system / tool.name).is_symlink():
            (system / tool.name).symlink_to(tool)
    tools = {"PATH": f"{conda / 'bin'}:{system}"}
    run(conda / "bin" / "lcutils", "sweep", "demo", "--model", MODEL, "--set", *SMALL, cwd=clone, **tools)
    assert (clone / "outputs/demo/measurements" / f"{MODEL}@0/row.json").is_file()


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_make_uses_an_active_environment_that_fits(conda: Path, clone: Path, variable: str) -> None:
    command = ["make", "plan", "STUDY=demo"]
    assert "largest run" in run(*command, cwd=clone, **{variable: str(conda)}).stdout
    assert not (clone / ".venv").exists()


def test_make_builds_its_own_where_something_is_missing(clone: Path, tmp_path: Path) -> None:
    """No environment is active, or one without the package: the recipe of `.venv` is run."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare", cwd=clone)
    for environment in ({}, {"VIRTUAL_ENV": str(tmp_path / "bare")}):
        lines = run("make", "--dry-run", "demo", cwd=clone, **environment).stdout
        assert "-m venv .venv" in lines
        assert "\n.venv/bin/python -m lcutils sweep demo" in lines

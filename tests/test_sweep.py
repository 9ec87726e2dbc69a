"""Small sweeps through Snakemake and papermill: what runs, what does not, what is refused."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import torch
from conftest import TINY, lcutils_command
from safetensors.torch import save_file

from lcutils.artifacts import write_json
from lcutils.charts.theme import JUPYTER_MIMETYPE
from lcutils.errors import UserError
from lcutils.parameters import ROOT, load_study
from lcutils.pipeline.locks import TOKEN, join_sweep, one_sweep, token_of
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import REQUEST, STAMPS
from lcutils.pipeline.sweep import run_sweep, snakemake_command, stamp_current
from lcutils.pipeline.watch import watching
from lcutils.stages import extract_point, measure_point, prepare_data, train_run


def planned(study: Path, model: str | None = None) -> list[str]:
    """The jobs that a sweep would run."""
    work = open_study(study, study.parent)
    stamp_current(work)
    points = work.points_of([model]) if model else None
    command = snakemake_command(work, points=points, dry_run=True)
    words = command.index("--quiet")
    del command[words : words + 3]  # the list of jobs is wanted
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    text = outcome.stdout + outcome.stderr
    return sorted(re.findall(rf"^\s+output: {re.escape(STAMPS)}/(\S+)", text, re.MULTILINE))


def sweep(study: Path, *words: str) -> str:
    outcome = lcutils_command("sweep", study, "--outputs", study.parent, *words)
    assert outcome.returncode == 0, (outcome.stdout + outcome.stderr)[-3000:]
    return outcome.stdout


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A tiny study, run once; tests copy it."""
    folder = tmp_path_factory.mktemp("swept")
    study = folder / "tiny.yaml"
    study.write_text(TINY)
    sweep(study)
    return study


@pytest.fixture
def copy(swept: Path, tmp_path: Path) -> Path:
    """A copy of the finished study: times differ, contents do not."""
    shutil.copytree(swept.parent, tmp_path / "copy")
    return tmp_path / "copy" / "tiny.yaml"


def test_a_sweep_leaves_rows_figures_and_a_report(swept):
    folder = swept.parent / "tiny"
    results = pd.read_csv(folder / "results.csv")
    assert set(results["model"]) == {"01x0016_01d", "01x0032_01d"}
    assert results[["val_loss", "nc1_cdnv", "nc4_agreement", "gnc2_log_cov", "unc3_cosine_cov"]].notna().all().all()
    assert (folder / "analysis" / "report.html").stat().st_size > 10_000
    assert (folder / "analysis/figures/strips.html").stat().st_size > 10_000
    for notebook in (folder / "notebooks").glob("*.ipynb"):
        outputs = [output for cell in nbformat.read(notebook, 4).cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"]
        assert [output for output in outputs if JUPYTER_MIMETYPE in output.get("data", {})]
    manifest = json.loads((folder / "runs" / "01x0016_01d" / "manifest.json").read_text())
    assert manifest["seed"] == 42
    assert manifest["tokens_per_second"] > 0
    assert (folder / "logs" / "01x0016_01d.log").read_text()
    times = pd.read_csv(folder / "analysis/tables/times.csv").set_index("model")
    assert set(times.index) == {"01x0016_01d", "01x0032_01d"}
    assert set(times["device"]) == {"cpu"}
    assert (times["compile_seconds"] == 0.0).all()
    assert (times.drop(columns=["device", "compile_seconds", "origin"]) > 0.0).all(None)
    assert times["origin"].str.contains("measured here").all()
    assert (times["train_tokens_per_second"] % 1 == 0).all()


def test_kernels_that_stay_change_no_number(swept, tmp_path):
    """Both models went through kernels that had done other jobs before; here each stage runs by itself."""
    work = open_study(swept, tmp_path)
    prepare_data(work)
    for model in ("01x0016_01d", "01x0032_01d"):
        train_run(work, model), extract_point(work, model, 0)
        alone = measure_point(work, model, 0).row
        assert json.loads((swept.parent / f"tiny/measurements/{model}@0/row.json").read_text()) == alone


DIES = """
import os, signal, sys
from importlib.util import find_spec

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "lcutils.stages" or "ipykernel_launcher" not in sys.orig_argv:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            function = getattr(module, os.environ["DIES_IN"])
            def once(*words):
                if "01x0032_01d" not in words and os.path.exists(os.environ["DIES_ONCE"]):
                    os.remove(os.environ["DIES_ONCE"])
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*words)
            setattr(module, os.environ["DIES_IN"], once)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


# Of each stage: the function in which the worker is killed, its job, and what is missing before.
KILLS = [
    ("prepare_data", "01_data", ["data"]),
    ("train_run", "02_train_01x0016_01d", ["runs/01x0016_01d", "statistics/01x0016_01d@0"]),
    ("extract_point", "03_extract_01x0016_01d@0", []),
    ("measure_point", "04_measure_01x0016_01d@0", ["measurements/01x0016_01d@0"]),
    ("analyze_study", "05_analyze", ["analysis"]),
]


def test_a_killed_worker_loses_one_job(copy, tmp_path, monkeypatch):
    """In each stage in turn; the next sweep makes up for the last, and the end is the same numbers."""
    (tmp_path / "sitecustomize.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("DIES_ONCE", str(tmp_path / "once"))
    folder = copy.parent / "tiny"
    before = (folder / "results.csv").read_bytes()
    for function, job, missing in KILLS:
        monkeypatch.setenv("DIES_IN", function)
        (tmp_path / "once").touch()
        for place in missing:
            shutil.rmtree(folder / place)
        shutil.rmtree(folder / "statistics/01x0032_01d@0", ignore_errors=True)  # the other model has a job to do too
        outcome = lcutils_command("sweep", copy, "--outputs", copy.parent)
        assert "error: the notebook's process was killed (signal 9), perhaps for lack of memory" in outcome.stderr
        if function == "analyze_study":  # what is measured is analysed once more
            assert outcome.returncode == 0
            assert (folder / "analysis/report.html").is_file()
        else:
            assert outcome.returncode == 1, function
            assert outcome.stderr.splitlines()[-1].startswith(f"{job} failed: error: the notebook's process was killed")
        if function != "prepare_data":
            assert (folder / "measurements/01x0032_01d@0/row.json").is_file()
            assert (folder / "statistics/01x0032_01d@0/manifest.json").is_file()
    assert (folder / "results.csv").read_bytes() == before


def test_a_finished_sweep_has_nothing_to_do(copy):
    assert planned(copy) == []
    for path in copy.parent.rglob("*.json"):
        path.touch()  # a time is no reason
    assert planned(copy) == []


def test_a_missing_artifact_reruns_its_branch_only(copy):
    shutil.rmtree(copy.parent / "tiny" / "statistics" / "01x0016_01d@0")
    assert planned(copy) == ["analyze", "extract/01x0016_01d@0", "measure/01x0016_01d@0"]
    (copy.parent / "tiny" / "results.csv").unlink()
    assert "analyze" in planned(copy, None)


def test_a_changed_parameter_reruns_what_reads_it(copy):
    text = copy.read_text()
    copy.write_text(text + "\nmeasurement: {riesz_s: 2.0}\n")
    assert planned(copy) == ["analyze", "measure/01x0016_01d@0", "measure/01x0032_01d@0"]
    copy.write_text(text.replace("permutations: 200", "permutations: 300").replace("title: Tiny", "title: Other"))
    assert planned(copy) == ["analyze"]


def test_a_new_model_trains_only_itself(copy):
    copy.write_text(copy.read_text().replace("width: [16, 32]", "width: [16, 32, 48]"))
    new = "01x0048_01d"
    assert planned(copy) == ["analyze", f"extract/{new}@0", f"measure/{new}@0", f"train/{new}"]
    assert planned(copy, new) == [f"extract/{new}@0", f"measure/{new}@0", f"train/{new}"]


def test_overrides_reach_the_jobs_and_clashing_ones_are_refused(copy, lcutils_here):
    outcome = lcutils_here("sweep", copy, "--outputs", copy.parent, "--set", "learning_rate=0.1", "--dry-run")
    assert outcome.returncode == 2
    assert "learning_rate = 0.003" in outcome.stderr
    assert "another outputs folder" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    elsewhere = copy.parent / "elsewhere"
    words = ["--outputs", elsewhere, "--set", "learning_rate=0.1", "sensitivity=[1, 3]", "--model", "01x0016_01d"]
    outcome = lcutils_command("sweep", copy, *words)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    folder = elsewhere / "tiny"
    assert json.loads((folder / "runs/01x0016_01d/manifest.json").read_text())["parameters"]["learning_rate"] == 0.1
    table = pd.read_csv(folder / "measurements/01x0016_01d@0/sensitivity.csv")
    assert table["min_count"].tolist() == [1, 3]


def test_what_a_notebook_made_is_checked_too(copy):
    """Jobs that no sweep has run: Snakemake knows nothing of them, their manifests do."""
    work = open_study(copy, copy.parent)
    shutil.rmtree(work.folder / ".snakemake")
    shutil.rmtree(work.folder / STAMPS)
    assert planned(copy) == []
    copy.write_text(copy.read_text().replace("learning_rate: 3.0e-3", "learning_rate: 1.0e-3"))
    work = open_study(copy, copy.parent)
    train_run(work, "01x0016_01d")  # by hand
    rest = ["extract/01x0016_01d@0", "extract/01x0032_01d@0", "measure/01x0016_01d@0", "measure/01x0032_01d@0"]
    assert planned(copy) == ["analyze", *rest, "train/01x0032_01d"]


def test_data_made_again_alike_is_no_work_for_the_others(copy):
    folder = copy.parent / "tiny"
    shutil.rmtree(folder / "data")
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/manifest.json")}
    assert len(made) == 6
    sweep(copy, "--model", "01x0016_01d")
    assert made == {path: path.stat().st_mtime_ns for path in folder.glob("*/*/manifest.json")}


def test_a_published_table_is_an_input_of_the_analysis(copy, lcutils_here):
    table = copy.parent / "table.csv"
    copy.write_text(copy.read_text().replace("permutations: 200", f"permutations: 200, published: [{table}]"))
    outcome = lcutils_here("sweep", copy, "--outputs", copy.parent)
    assert outcome.returncode == 2
    assert f"published: there is no file {table}" in outcome.stderr
    table.write_text("x")
    assert planned(copy) == ["analyze"]


def test_a_killed_sweep_goes_on_to_the_same_numbers(tmp_path):
    study, model = tmp_path / "tiny.yaml", "01x0016_40d"
    study.write_text(TINY.replace("epochs: 1, decay: d, checkpoints: 0", "epochs: 40, decay: d, checkpoints: 39"))
    command = [sys.executable, "-m", "lcutils", "sweep", study, "--outputs", str(tmp_path), "--model", model]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    run, deadline = tmp_path / "tiny/runs" / model, time.monotonic() + 1200
    while not list(run.glob("resume/state-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    rest = psutil.Process(process.pid).children(recursive=True)
    for child in rest:
        child.suspend()  # so that training is not over before it is killed
    process.kill()  # this one alone: Snakemake lives on
    process.wait()
    outcome = lcutils_command("sweep", study, "--outputs", tmp_path)
    assert outcome.returncode == 2, outcome.stderr
    assert f"a sweep is running there (kill -9 {process.pid} " in outcome.stderr
    for child in rest:  # Snakemake, its jobs, their kernels
        child.kill()
    assert list(run.glob("resume/state-*")), "training was over before it could be killed"
    before = (run / "log.jsonl").read_text().splitlines()
    sweep(study, "--model", model)
    assert (run / "log.jsonl").read_text().splitlines()[0] == before[0]  # it has its speed in it: not trained again

    work = open_study(study, tmp_path / "alone")
    prepare_data(work), train_run(work, model), extract_point(work, model, 39)
    alone = measure_point(work, model, 39).row
    assert json.loads((tmp_path / f"tiny/measurements/{model}@39/row.json").read_text()) == alone


def test_a_failed_model_keeps_no_other_from_the_table(copy, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1}')
    save_file({"lacking": torch.zeros(1)}, tmp_path / "model/model.safetensors")
    shutil.rmtree(copy.parent / "tiny/analysis")
    (copy.parent / "tiny/results.csv").unlink()
    pretrained = f"pretrained={{empty: {tmp_path}/model}}"
    outcome = lcutils_command("sweep", copy, "--outputs", copy.parent, "--set", pretrained)
    assert outcome.returncode == 1
    assert "1 of 3 points will be missing in the results table and the report: empty@0" in outcome.stderr
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith(f"03_extract_empty@0 failed: error: {tmp_path}/model: ")
    assert len(pd.read_csv(copy.parent / "tiny/results.csv")) == 2
    assert (copy.parent / "tiny/analysis/report.html").is_file()
    work = open_study(copy, copy.parent, [pretrained])
    stamp_current(work)
    command = [*snakemake_command(work, dry_run=True), "--quiet", "all"]
    assert (
        subprocess.run(command, cwd=ROOT).returncode == 0
    )  # the jobs are still asked for, and the analysis after them
    assert "analyze" in planned(copy)  # without the model, it is another analysis


def test_values_reach_every_job_as_they_are(tmp_path):
    """The checkout, the study, the outputs and a value hold all that YAML, shells and Snakemake give a meaning."""
    root, odd = tmp_path / "it's {a} #1", "null: {x} # 'y'\nz \U0001f600"
    root.mkdir()
    for name in ("lcutils", "notebooks", "parameters"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", root)
    (root / "my study {1} #2.yaml").write_text(TINY)
    words = ["sweep", "my study {1} #2.yaml", "--outputs", odd, "--model", "01x0016_01d", "--set", f"title={odd}"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    outcome = subprocess.run(
        [sys.executable, "-m", "lcutils", *words], cwd=root, env=environment, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    folder = root / odd / "my study {1} #2"
    assert (folder / "measurements/01x0016_01d@0/row.json").is_file()
    request = json.loads((folder / REQUEST).read_text())["parameters"]
    assert request == {
        "study": f"{root}/my study {{1}} #2.yaml",
        "outputs": f"{root}/{odd}",
        "overrides": {"title": odd},
    }


@pytest.mark.parametrize("whole", [False, True])
def test_a_sweep_after_a_killed_snakemake_fights_no_kernel(tmp_path, whole):
    study, model = tmp_path / "tiny.yaml", "01x0016_40d"
    study.write_text(TINY.replace("epochs: 1, decay: d, checkpoints: 0", "epochs: 40, decay: d, checkpoints: 39"))
    words = ["sweep", study, "--outputs", tmp_path, "--model", model]
    command = [sys.executable, "-m", "lcutils", *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "tiny/runs" / model / "log.jsonl"
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.05)
    ended = [pid for pid in children(process.pid) if b"snakemake" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert ended
    for pid in [process.pid] * whole + ended:
        os.kill(pid, signal.SIGKILL)
    outcome = lcutils_command(*words)  # at once
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert process.wait() == (-signal.SIGKILL if whole else 1)
    assert (tmp_path / f"tiny/measurements/{model}@39/row.json").is_file()
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)])
def test_an_interrupted_sweep_ends_its_kernels(tmp_path, number, to_all):
    """By Ctrl-C in a terminal, which all its processes get, or by `kill`, which only the first of them gets."""
    study = tmp_path / "tiny.yaml"
    study.write_text(TINY.replace("epochs: 1, decay: d, checkpoints: 0", "epochs: 400, decay: d, checkpoints: 399"))
    command = [sys.executable, "-m", "lcutils", "sweep", str(study), "--outputs", str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    while not list(tmp_path.glob("tiny/runs/*/log.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, words = process.communicate()
    assert process.returncode == 130
    assert "stopped; the same command goes on from here" in words
    psutil.wait_procs(family)
    assert not any(child.is_running() for child in family)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_job_without_its_sweep_does_nothing(tmp_path, monkeypatch):
    join_sweep(tmp_path)  # no sweep's
    assert not any(tmp_path.iterdir())
    with one_sweep(tmp_path):
        monkeypatch.setenv(TOKEN, token_of(tmp_path))
    with pytest.raises(UserError, match="is over"):
        join_sweep(tmp_path)


def test_a_job_ends_with_its_sweep_and_the_next_one_waits_for_it(tmp_path):
    code = "import sys, time; from pathlib import Path; from lcutils.pipeline.locks import join_sweep;"
    code += "join_sweep(Path(sys.argv[1])); print('in', flush=True); time.sleep(600)"
    with one_sweep(tmp_path):
        environment = os.environ | {TOKEN: token_of(tmp_path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, str(tmp_path)]
        job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert job.stdout
        assert job.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match="a sweep is running there"), one_sweep(tmp_path):
            pass
        assert job.poll() is None
    with one_sweep(tmp_path):
        assert job.wait() == -signal.SIGKILL


def test_damaged_records_of_snakemake_and_odd_stamps_are_made_anew(copy):
    folder = copy.parent / "tiny"
    for path in (folder / STAMPS / "data", folder / ".snakemake/metadata/x", folder / ".snakemake/locks/0.input.lock"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.mkdir(parents=True)
    shutil.rmtree(folder / ".snakemake/incomplete", ignore_errors=True)
    (folder / ".snakemake/incomplete").write_text("no folder")
    outcome = lcutils_command("sweep", copy, "--outputs", copy.parent)
    assert outcome.returncode == 0, outcome.stderr
    assert "Nothing to be done" in outcome.stdout + outcome.stderr
    shutil.rmtree(folder / ".snakemake")
    shutil.rmtree(folder / STAMPS)
    for name in (".snakemake", STAMPS):
        (folder / name).write_text("no folder")
    assert lcutils_command("sweep", copy, "--outputs", copy.parent, "--dry-run").returncode == 0


def test_a_broken_profile_and_an_unwritable_folder_are_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("lcutils.pipeline.sweep.PROFILES", tmp_path)
    work = open_study(tiny, tmp_path / "out")
    for text, words in ((None, "holds no config.yaml"), ("a: [", "cannot be read"), ("- 1", "should hold keys")):
        (tmp_path / "mine").mkdir(exist_ok=True)
        if text:
            (tmp_path / "mine/config.yaml").write_text(text)
        with pytest.raises(UserError, match=words):
            run_sweep(work, profile="mine")
    with pytest.raises(UserError, match="CORES: should be at least 1, not 0"):
        run_sweep(work, cores=0)
    assert not work.folder.exists()
    (work.folder / ".sweep.lock").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written"):
        run_sweep(work)


def test_make_passes_any_text(tmp_path):
    odd = "a 'b' \"c\" $d `e` #f {g} \\ h"
    words = [f"{name}={odd}" for name in ("STUDY", "OUTPUTS", "MODEL", "PROFILE", "CORES", "SET")]
    command = ["make", "--no-print-directory", "-n", "-o", ".venv/.ready", "sweep", *words]
    line = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.replace("\\\n", " ")
    line = line[line.index(" -m lcutils") :]
    options = ("outputs", "model", "profile", "cores", "overrides")
    assert shlex.split(line)[2:] == ["sweep", odd, *(f"--{option}={odd}" for option in options)]


def test_the_last_lines_of_a_log_are_shown(tmp_path, tiny, capsys):
    work = open_study(tiny, tmp_path)
    log = work.log("run")
    log.write_text("before\n")
    with watching(work, []), log.open("ab") as file:
        file.write(b"caf\xe9\nlast\n")
    assert capsys.readouterr().out == "caf\ufffd\nlast\n"


def test_mistakes_are_one_line_before_any_work(tmp_path, tiny, lcutils_here, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # the machine may have Slurm
    model = tmp_path / "model"
    write_json(model / "config.json", {})
    cases = [
        (["sweep", "nowhere"], "parameters/nowhere.yaml"),
        (["sweep", tiny, "--model", "01x0064_01d"], "model: 01x0064_01d is not in the grid"),
        (["sweep", tiny, "--profile", "cloud"], "slurm"),
        (["sweep", tiny, "--set", "blok_size=3"], "did you mean block_size"),
        (["sweep", tiny, "--set", "source=no/such.txt"], "no/such.txt"),
        (["sweep", tiny, "--set", "device=quantum"], "device: quantum"),
        (
            ["sweep", tiny, "--set", "pretrained={a: /no/such}"],
            "pretrained.a: /no/such: there is no such folder",
        ),
        (["sweep", tiny, "--set", f"pretrained={{a: {tiny}}}"], "loaded from it (it is a file); give the folder"),
        (
            ["sweep", tiny, "--set", f"pretrained={{a: {{source: {model}, revision: x}}}}"],
            "pretrained.a.revision: is for models on the hub",
        ),
        (["plan", tiny, "--set", "grid=[]"], "error: SET (overrides): grid: is empty"),
        (["plan", tiny, "--set", "source=no/such.txt"], "no/such.txt"),
        (["sweep", tiny, "--profile", "slurm"], "PROFILE: slurm needs Slurm"),
    ]
    for words, expected in cases:
        outcome = lcutils_here(*words, "--outputs", tmp_path / "out")
        assert outcome.returncode == 2, (words, outcome.stderr)
        assert expected in outcome.stderr
        assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file")
    outcome = lcutils_here("sweep", tiny, "--outputs", tmp_path / "out")
    assert outcome.stderr.endswith("cannot be created (Not a directory); name another folder\n")


def test_the_paper_expands_without_running(tmp_path, lcutils_here):
    study = load_study("paper")
    assert len(study.points) == 230
    outcome = lcutils_here("plan", "paper", "--outputs", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "170 runs" in outcome.stdout
    assert "230 points" in outcome.stdout

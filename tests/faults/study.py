"""The tiny study that is damaged, killed and starved of space: its inputs, its sweep in this process, its results.

Everything runs in forked children of one process that has imported all of lcutils: a whole study then takes seconds,
and each stage has a process of its own, as in a sweep. The sweep is `run_sweep` itself; only where it would start
Snakemake, `Jobs` runs the stage functions in the Snakefile's order. Only the analysis is shortened: it writes few and
plain files, for drawing takes longer than all else together.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.update(TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import datasets  # noqa: F401
import pandas as pd
import pandas.io.formats.html
import pyarrow.parquet  # noqa: F401
import torch

import lcutils.analysis.published
import lcutils.analysis.rows
import lcutils.report
from lcutils import manifests, stages
from lcutils.artifacts import atomic_path
from lcutils.errors import UserError
from lcutils.features import extraction
from lcutils.features.models import load_feature_model
from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.model import GPTNeo
from lcutils.pipeline import sweep
from lcutils.pipeline.paths import Workspace
from lcutils.report.body import Report
from lcutils.runs import Architecture, TrainedRun
from lcutils.training import loop

STUDY = """
title: Faults
corpus:
  {{source: built-in, max_stories: 20, max_validation_stories: 6, tokenizer: "bpe:300", block_size: 32,
   packing: lossless, end_of_text: true, ood: {folder}/other.txt}}
training: {{learning_rate: 3.0e-3, batch_size: 8}}
extraction: {{blocks_per_batch: 16}}
analysis: {{permutations: 50}}
grid:
  - {{depth: 1, width: [16, 32], epochs: 2, decay: d, checkpoints: [0, 1]}}
pretrained: {{theirs: {folder}/model}}
device: cpu
threads: 1
"""
NAME = "faults"
SECONDS = 300.0  # that a whole study may take on a busy machine before it counts as hanging; it takes ten
# What is no result: what was printed, the executed notebooks, notes of Snakemake's and of the sweep's own.
NO_RESULT = re.compile(
    r"(^|/)(logs|notebooks|\.snakemake|\.current|\.verified|\.inputs|\.[^/]+\.lock|\.request\.json)(/|$)"
)
NOWHERE = "nowhere"  # where a dangling link leads to: what is written through it is no result
CLOCK = ("seconds", "tokens_per_second")  # differ from run to run
context = multiprocessing.get_context("fork")


def write_inputs(folder: Path) -> Path:
    """Write the study's YAML, its out-of-distribution text and its pretrained model; return the YAML's path."""
    (folder / "other.txt").write_text("The committee voted on the budget after a long debate.\n<|endoftext|>\n" * 40)
    torch.manual_seed(0)
    write_checkpoint(GPTNeo(Architecture(1, 16, 300, positions=64), 0), folder / "model")
    # Once in this process, so that no child has to import what it needs.
    load_feature_model(str(folder / "model"), precision="fp32", device=torch.device("cpu"))
    path = folder / f"{NAME}.yaml"
    path.write_text(STUDY.format(folder=folder))
    return path


def _plain_analysis(results: pd.DataFrame, folder: Path, **given: Any) -> Report:
    """Write an analysis of few and plain files that depend on all that it is given, token tables included."""
    report = Report({}, {})
    digests = {name: hashlib.sha256(table.to_csv().encode()).hexdigest() for name, table in given["tokens"].items()}
    contents = {
        "figures/figure_1.svg": f"<svg>{results['nc1_cdnv'].tolist()}</svg>",
        "figures/figure_2.png": f"PNG {results['val_loss'].tolist()}",
        "tables/results.csv": results.to_csv(index=False),
        "tables/sensitivity.csv": given["sensitivity"].to_csv(index=False),
        "report.html": f"<html>{results.to_html()}{json.dumps(digests)}</html>",
    }
    for place, text in contents.items():
        with atomic_path(folder / place) as aside:
            aside.write_text(text)
        report.paths[place] = folder / place
    return report


lcutils.report.write_analysis = _plain_analysis  # type: ignore[assignment]
manifests.git_commit = lambda: None  # a process of git's for every manifest


def save_often() -> None:
    """From now on, training and extraction save their state as often as they can."""
    train = stages.train
    stages.train = lambda *values, **named: train(*values, **named, seconds_between_saves=0.0)  # type: ignore[assignment]
    loop.SAVE_SHARE = 1e9
    extraction.SECONDS_BETWEEN_STATES = 0.0


# ------------------------------------------------------------------------------------------------------ forked children


class EndedError(Exception):
    """A child that was killed, crashed or hung."""


def in_child(function: Callable[[], Any], *, seconds: float = SECONDS, kill_after: float | None = None) -> Any:
    """The result of `function`, called in a forked child and its own process group.

    Raises:
        EndedError: the child was killed (after `kill_after` seconds, or by itself), crashed, or hung for `seconds`.
    """
    ours, theirs = context.Pipe(duplex=False)
    sys.stdout.flush(), sys.stderr.flush()
    process = context.Process(target=_in_group, args=(function, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds if kill_after is None else kill_after):
            raise EndedError(f"hung for {seconds:.0f} s" if kill_after is None else "killed")
        return ours.recv()
    except EOFError:
        process.join()
        raise EndedError(f"ended with status {process.exitcode}") from None
    finally:
        ours.close()
        kill_group(process.pid)
        process.join()


def _in_group(function: Callable[[], Any], pipe: Any) -> None:
    os.setpgid(0, 0)
    pipe.send(function())


def kill_group(leader: int | None) -> None:
    """Kill a process and all that it started."""
    for kill in (os.killpg, os.kill):
        try:
            kill(leader or 0, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it is over, or has no group yet
            continue


# ------------------------------------------------------------------------------------------------------------ the sweep


class Jobs:
    """What runs the jobs in Snakemake's place: the stage functions, as the Snakefile orders them.

    Attributes:
        ran: names of the jobs that were run, in order.
        errors: name of a job, or "sweep" -> how it failed: a user's one line, or a traceback.
        said: all that was printed on standard error.
    """

    def __init__(self, yaml: Path, outputs: Path, forked: bool) -> None:
        self.yaml, self.outputs, self.forked = yaml, outputs, forked
        self.ran: list[str] = []
        self.errors: dict[str, str] = {}
        self.said = ""

    def run_sweep(self) -> None:
        """`python -m lcutils sweep`, with this in Snakemake's place."""
        sweep.subprocess = SimpleNamespace(Popen=self._snakemake)  # type: ignore[assignment]
        self._catch("sweep", lambda: sweep.run_sweep(self._work()))

    def _work(self) -> Workspace:
        return stages.open_study(self.yaml, self.outputs)

    def _catch(self, name: str, function: Callable[[], Any]) -> None:
        try:
            function()
        except UserError as error:
            self.errors[name] = f"line: {error}"
        except Exception:
            self.errors[name] = traceback.format_exc()[-2500:]

    def _snakemake(self, command: list[str], **_: Any) -> contextlib.nullcontext[SimpleNamespace]:
        """Run what has no stamp, and what depends on what was run; go on with other branches after a failure."""
        work = self._work()
        stamps = work.folder / sweep.STAMPS
        parents, functions = _graph(work)
        ran: set[str] = set()
        failed: set[str] = set()
        if command[-1] == f"{sweep.STAMPS}/analyze":  # whatever else has failed
            parents, functions = {"analyze": []}, {"analyze": functions["analyze"]}
        for name, function in functions.items():
            if failed & set(parents[name]):
                failed.add(name)
            elif not (stamps / name).exists() or ran & set(parents[name]):
                (stamps / name).unlink(missing_ok=True)
                self.ran.append(name)
                self._run_job(name, function)
                if name in self.errors:
                    failed.add(name)
                else:
                    (stamps / name).parent.mkdir(parents=True, exist_ok=True)
                    (stamps / name).touch()
                    ran.add(name)
        return contextlib.nullcontext(SimpleNamespace(pid=os.getpid(), wait=lambda: int(bool(failed))))

    def _run_job(self, name: str, function: Callable[[], Any]) -> None:
        if not self.forked:
            self._catch(name, function)
            return

        def alone() -> dict[str, str]:
            self.errors = {}
            self._catch(name, function)
            return self.errors

        try:
            self.errors |= in_child(alone)
        except EndedError as error:
            self.errors[name] = str(error)


def _graph(work: Workspace) -> tuple[dict[str, list[str]], dict[str, Callable[[], Any]]]:
    """Each job's parents and what its notebook calls, in the Snakefile's order."""
    study = work.study
    parents: dict[str, list[str]] = {"data": []}
    functions: dict[str, Callable[[], Any]] = {"data": lambda: (stages.prepare_data(work), stages.load_tokenizer(work))}
    for run in study.runs.values():
        if isinstance(run, TrainedRun):
            parents[f"train/{run.name}"] = ["data"]
            functions[f"train/{run.name}"] = lambda run=run: _train(work, run.name)
    for stage, function in (("extract", stages.extract_point), ("measure", stages.measure_point)):
        for model, k in study.points:
            before = ["data", *([f"train/{model}"] if f"train/{model}" in parents else [])]
            name = f"{stage}/{model}@{k}"
            parents[name] = [f"extract/{model}@{k}"] if stage == "measure" else before
            functions[name] = lambda model=model, k=k, function=function: function(work, model, k)
    parents["analyze"] = [f"measure/{model}@{k}" for model, k in study.points]
    functions["analyze"] = lambda: stages.analyze_study(work)
    return parents, functions


def _train(work: Workspace, model: str) -> None:
    run = stages.train_run(work, model)
    assert len(run.checkpoints) == len(run.kept)  # as the notebook reads both
    assert len(run.log())


def run_again(yaml: Path, outputs: Path, *, forked: bool = True) -> Jobs:
    """Sweep the study in this process: best in a child. What it prints on standard error is kept."""
    jobs = Jobs(yaml, outputs, forked)
    reading, writing = os.pipe()  # no file: there may be no room for one
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.dup2(writing, 2)
    os.dup2(writing, 1)
    jobs.run_sweep()
    sys.stdout.flush(), sys.stderr.flush()
    os.set_blocking(reading, False)
    with contextlib.suppress(BlockingIOError):
        jobs.said = os.read(reading, 1 << 20).decode(errors="replace")
    return jobs


def make_template(yaml: Path, outputs: Path) -> None:
    """Run the study from nothing to its end, below `outputs`."""
    outputs.mkdir(parents=True, exist_ok=True)
    errors = in_child(lambda: run_again(yaml, outputs).errors)
    if errors:
        raise RuntimeError(f"the undamaged study fails: {errors}")


def make_unfinished(yaml: Path, whole: Path, outputs: Path) -> None:
    """A study killed while it trained its second run (in its second epoch), and while it extracted its last point."""
    shutil.copytree(whole, outputs)
    folder, last = outputs / NAME, "01x0032_02d"
    for path in [*folder.glob(f"*/{last}*"), *folder.glob("*/theirs@*"), folder / "analysis", folder / "results.csv"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def die_at_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = iter(range(number))

        def counted(*values: Any, **named: Any) -> Any:
            result = function(*values, **named)
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    def killed_training() -> None:
        save_often()
        loop.save_state = die_at_call(4, loop.save_state)
        stages.train_run(stages.open_study(yaml, outputs), last)

    def killed_extraction() -> None:
        save_often()
        extraction._State.save = die_at_call(3, extraction._State.save)  # type: ignore[method-assign]
        stages.extract_point(stages.open_study(yaml, outputs), "theirs", 0)

    for function in (killed_training, killed_extraction):
        try:
            in_child(lambda function=function: quietly(function))
        except EndedError:
            continue
        raise RuntimeError("unfinished work was finished")


def quietly(function: Callable[[], Any]) -> Any:
    """Call a function with nothing shown on standard output and error."""
    with Path(os.devnull).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        return function()


# ---------------------------------------------------------------------------------------------------------- its results


def results_of(folder: Path) -> dict[str, str]:
    """Digest of every result below a study's folder, clocks left out."""
    results = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder).as_posix()
        if NO_RESULT.search(place) or path.name == NOWHERE or (path.is_dir() and not path.is_symlink()):
            continue
        try:
            content = path.read_bytes()
            results[place] = hashlib.sha256(_timeless(path.name, content)).hexdigest()[:16]
        except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
            results[place] = type(error).__name__
    return results


def _timeless(name: str, content: bytes) -> bytes:
    if name in ("evaluation.json", "log.jsonl"):
        lines = content.splitlines() if name == "log.jsonl" else [content]
        values = [json.loads(line) for line in lines]
        content = json.dumps([{k: v for k, v in line.items() if k not in CLOCK} for line in values]).encode()
    elif name == "job.json":
        content = json.dumps(json.loads(content)).encode()
    elif name == "manifest.json":  # of its inputs, digests cover clocks
        content = json.dumps(json.loads(content)["parameters"]).encode()
    return content


def difference(template: dict[str, str], results: dict[str, str]) -> str:
    """The first files that differ, in words; empty if none does."""
    missing, extra = template.keys() - results.keys(), results.keys() - template.keys()
    changed = {place for place in template.keys() & results.keys() if template[place] != results[place]}
    found = [("missing", missing), ("changed", changed), ("left over", extra)]
    return "; ".join(f"{word}: {', '.join(sorted(places)[:4])}" for word, places in found if places)

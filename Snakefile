# The sweep: one papermill notebook per job. `make sweep STUDY=…` starts it in the study's own folder.
#
#   data ─> train <run> ─> extract <run>@<k> ─> measure <run>@<k> ─> analyze
#
# `lcutils.pipeline.sweep` leaves a stamp in `.current/` for every artifact that is complete and fits the study and its inputs'
# content. Jobs without a stamp run, and those that follow from them; a job that finds nothing to do ends at once.
import re
import sys
from pathlib import Path

if (Path(workflow.basedir) / "lcutils").is_dir():
    sys.path.insert(0, workflow.basedir)  # this checkout's package, on a cluster's nodes too

from snakemake.exceptions import WorkflowError

from lcutils.pipeline.lanes import lanes
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import STAMPS
from lcutils.pipeline.workers import JobError, Workers
from lcutils.runs import TrainedRun

work = open_study(**config["parameters"])
study = work.study
GPUS = 0 if study.device == "cpu" else 1  # that a job asks for; on a cluster Slurm assigns it

workers = Workers(work.folder)  # their kernels stay from one job of this process to the next


def run_notebook(output, notebook, job, **options):
    """Run a job's notebook, and leave its stamp."""
    try:
        workers.run(notebook, job, **options)
    except JobError as error:
        raise WorkflowError(str(error)) from None
    Path(str(output)).touch()


def data(wildcards):
    """The stamp of the text that a run is given."""
    # Jobs run in threads of this process. `--force-use-threads` says the same, but not to a group of jobs on a cluster.
    workflow.execution_settings.use_threads = True
    return f"{STAMPS}/{work.data_of(wildcards.run).name}"


def trained(wildcards):
    """The stamp of a point's run; none for a pretrained model."""
    return f"{STAMPS}/train/{wildcards.run}" if isinstance(study.run(wildcards.run), TrainedRun) else []


def stamps(stage):
    """The stamps of all points of a stage."""
    return [f"{STAMPS}/{stage}/{run}@{checkpoint}" for run, checkpoint in study.points]


def needed(paths):
    """Those of some stamps whose jobs are needed: rows that came from elsewhere do without what they were made from."""
    return [path for path in paths if path.removeprefix(f"{STAMPS}/") not in config["spared"]]


localrules: all, analyze


# Every artifact is asked for, not only the last: one that was deleted is made again, with what depends on it.
rule all:
    input:
        needed(f"{STAMPS}/{name}" for name in work.corpora),
        needed(f"{STAMPS}/train/{run.name}" for run in study.runs.values() if isinstance(run, TrainedRun)),
        needed(stamps("extract")), stamps("measure"), f"{STAMPS}/analyze"


# After a sweep in which jobs failed, the analysis is asked for alone, of what is measured.
rule analyze:
    input: [] if config["only_analyze"] else stamps("measure")
    output: f"{STAMPS}/analyze"
    threads: study.threads
    run: run_notebook(output, "05_analyze", "05_analyze")


rule data:
    output: f"{STAMPS}/data"
    threads: study.threads
    run: run_notebook(output, "01_data", "01_data")


# The same text for a pretrained model whose tokenizer or layout is another.
rule data_of_a_model:
    output: STAMPS + "/data-{owner}"
    threads: study.threads
    run: run_notebook(output, "01_data", f"01_data_{wildcards.owner}", model=wildcards.owner)


# The jobs of one architecture follow one another, so that a kernel compiles it once: each takes one of the lane's
# tickets, of which the sweep gives out one, or more where the lane is a large part of the work. Lanes with more work
# come first. A cluster has no tickets; there, what is left of a run is one group, which is submitted as one job.
for number, lane in enumerate(lanes(study)):
    wildcard_constraints_of_lane = {"run": "|".join(map(re.escape, lane.runs)), "checkpoint": r"\d+"}
    tickets = {"gpu": GPUS, lane.ticket: 1}

    rule:
        name: f"train_{lane.name}"
        input: data
        output: STAMPS + "/train/{run}"
        wildcard_constraints: **wildcard_constraints_of_lane
        params: task=lane.name
        group: "run"
        priority: 2 * (1000 - number)
        threads: study.threads
        resources: **tickets
        run:
            run_notebook(output, "02_train", f"02_train_{wildcards.run}", task=params.task, model=wildcards.run, story=False)

    rule:
        name: f"extract_{lane.name}"
        input: data, trained
        output: STAMPS + "/extract/{run}@{checkpoint}"
        wildcard_constraints: **wildcard_constraints_of_lane
        params: task=lane.name
        group: "run"
        priority: 2 * (1000 - number) + 1
        threads: study.threads
        resources: **tickets
        run:
            point = {"model": wildcards.run, "checkpoint": int(wildcards.checkpoint), "by_hand": False}
            run_notebook(output, "03_extract", f"03_extract_{wildcards.run}@{wildcards.checkpoint}", task=params.task, **point)

    rule:
        name: f"measure_{lane.name}"
        input: lambda wildcards: needed([f"{STAMPS}/extract/{wildcards.run}@{wildcards.checkpoint}"])
        output: STAMPS + "/measure/{run}@{checkpoint}"
        wildcard_constraints: **wildcard_constraints_of_lane
        params: task=lane.name
        group: "run"
        priority: 2 * (1000 - number) + 1
        threads: study.threads
        resources: **tickets
        run:
            point = {"model": wildcards.run, "checkpoint": int(wildcards.checkpoint), "by_hand": False}
            run_notebook(output, "04_measure", f"04_measure_{wildcards.run}@{wildcards.checkpoint}", task=params.task, **point)

# The sweep: one papermill notebook per job. `make sweep STUDY=…` starts it in the study's own folder.
#
#   data ─> train <run> ─> extract <run>@<k> ─> measure <run>@<k> ─> analyze
#
# `lcutils.pipeline.sweep` leaves a stamp in `.current/` for every artifact that is complete and fits the study and its inputs'
# content. Jobs without a stamp run, and those that follow from them; a job that finds nothing to do ends at once.
import shlex
import sys

sys.path.insert(0, workflow.basedir)  # this checkout's package, on a cluster's nodes too

from lcutils.parameters import ROOT
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.sweep import STAMPS
from lcutils.runs import TrainedRun

work = open_study(**config["parameters"])
study = work.study
GPUS = 0 if study.device == "cpu" else 1  # that a job asks for; on a cluster Slurm assigns it


def quoted(text):
    """Text as one word of a shell command of Snakemake's, which reads braces as wildcards."""
    return shlex.quote(str(text)).replace("{", "{{").replace("}", "}}")


RUN = f"(cd {quoted(ROOT)} && exec {quoted(sys.executable)} -m lcutils.pipeline.run_job {quoted(work.folder)}"
RUN += " {params.notebook} {params.job}"

# papermill's own log is kept; if a job fails, the log's end is shown, which says what went wrong.
END = ") 2> logs/{params.job}.papermill || {{ tail -n 3 logs/{params.job}.papermill >&2; exit 1; }}; touch {output}"


def trained(wildcards):
    """The stamp of a point's run; none for a pretrained model."""
    return f"{STAMPS}/train/{wildcards.run}" if isinstance(study.run(wildcards.run), TrainedRun) else []


def stamps(stage):
    """The stamps of all points of a stage."""
    return [f"{STAMPS}/{stage}/{run}@{checkpoint}" for run, checkpoint in study.points]


localrules: all, analyze


# Every artifact is asked for, not only the last: one that was deleted is made again, with what depends on it.
rule all:
    input:
        f"{STAMPS}/data", [f"{STAMPS}/train/{run.name}" for run in study.runs.values() if isinstance(run, TrainedRun)],
        stamps("extract"), stamps("measure"), f"{STAMPS}/analyze"


# After a sweep in which jobs failed, the analysis is asked for alone, of what is measured.
rule analyze:
    input: [] if config["only_analyze"] else stamps("measure")
    output: f"{STAMPS}/analyze"
    params: notebook="05_analyze", job="05_analyze"
    threads: study.threads
    shell: RUN + END


rule data:
    output: f"{STAMPS}/data"
    params: notebook="01_data", job="01_data"
    threads: study.threads
    shell: RUN + END


rule train:
    input: f"{STAMPS}/data"
    output: STAMPS + "/train/{run}"
    params: notebook="02_train", job="02_train_{run}"
    priority: 1  # before the short jobs, so that no long one is left for the end
    threads: study.threads
    resources: gpu=GPUS
    shell: RUN + " {wildcards.run}" + END


rule extract:
    input: f"{STAMPS}/data", trained
    output: STAMPS + "/extract/{run}@{checkpoint}"
    params: notebook="03_extract", job="03_extract_{run}@{checkpoint}"
    threads: study.threads
    resources: gpu=GPUS
    shell: RUN + " {wildcards.run} {wildcards.checkpoint}" + END


rule measure:
    input: STAMPS + "/extract/{run}@{checkpoint}"
    output: STAMPS + "/measure/{run}@{checkpoint}"
    params: notebook="04_measure", job="04_measure_{run}@{checkpoint}"
    threads: study.threads
    resources: gpu=GPUS
    shell: RUN + " {wildcards.run} {wildcards.checkpoint}" + END

# The sweep: one papermill notebook a job. `make sweep STUDY=…` starts it; working directory is the study's own folder.
#
#   data ─> train <run> ─> extract <run>@<k> ─> measure <run>@<k> ─> analyze
#
# A job runs again when its manifest is missing, when the parameters that it reads (`params.reads`) changed, or when the
# content of an input manifest changed. Only manifests are declared: Snakemake deletes a failed job's outputs, and what
# a killed training or extraction needs to continue must stay.
import json
import shlex
import sys

from lcutils.corpus import source_digest
from lcutils.parameters import ROOT
from lcutils.workspace import fingerprint, open_study

work = open_study(config["study"], config["outputs"], config.get("overrides"))
study = work.study
GPUS = 0 if study.device == "cpu" else 1  # a job asks for; on a cluster Slurm assigns it

def quoted(text):
    """Text as one word of a shell command of Snakemake's, which reads braces as wildcards."""
    return shlex.quote(str(text)).replace("{", "{{").replace("}", "}}")


PAPERMILL = (
    f"TQDM_DISABLE=1 {sys.executable} -m papermill --kernel python3 --no-progress-bar --cwd {quoted(ROOT)}"
    f" {quoted(ROOT)}/notebooks/{{params.notebook}}.ipynb notebooks/{{params.job}}.ipynb"
    f" -p study {quoted(study.source)} -p outputs {quoted(work.folder.parent)}"
    + (f" -p overrides {quoted(json.dumps(work.overridden))}" if work.overridden else "")
)

# papermill's own log is kept; of a failed job its end is shown, which says what was wrong.
END = " 2> logs/{params.job}.papermill || {{ tail -n 3 logs/{params.job}.papermill >&2; exit 1; }}"


def reads(stage):
    """The parameters that a job of this stage reads."""
    def of(wildcards):
        run = study.run(wildcards.run) if hasattr(wildcards, "run") else None
        return fingerprint(study.stage_parameters(stage, run))
    return of


def checkpoint_input(wildcards):
    """A trained run's manifest; nothing for a pretrained model."""
    return [] if study.run(wildcards.run).pretrained else f"runs/{wildcards.run}/manifest.json"


def manifests(kind):
    """The manifests of all points of a kind of artifact."""
    return [f"{kind}/{run}@{checkpoint}/manifest.json" for run, checkpoint in study.points]


localrules: all, analyze


# Every artifact is asked for, not the last alone: one that was deleted is made again, with what follows from it.
rule all:
    input:
        "data/manifest.json", [f"runs/{run.name}/manifest.json" for run in study.runs.values() if not run.pretrained],
        manifests("statistics"), manifests("measurements"), "analysis/manifest.json", "results.csv"


rule analyze:
    input: manifests("measurements")
    output: "analysis/manifest.json", "results.csv"
    params: notebook="05_analyze", job="05_analyze", reads=reads("analyze")
    threads: study.threads
    shell: PAPERMILL + END


rule data:
    output: "data/manifest.json"
    params: notebook="01_data", job="01_data", reads=reads("data"), text=source_digest(work.corpus)
    threads: study.threads
    shell: PAPERMILL + END


rule train:
    input: "data/manifest.json"
    output: "runs/{run}/manifest.json"
    params: notebook="02_train", job="02_train_{run}", reads=reads("train")
    priority: 1  # before the short jobs, so that no long one is left for the end
    threads: study.threads
    resources: gpu=GPUS
    shell: PAPERMILL + " -p model {wildcards.run}" + END


rule extract:
    input: "data/manifest.json", checkpoint_input
    output: "statistics/{run}@{checkpoint}/manifest.json"
    params: notebook="03_extract", job="03_extract_{run}@{checkpoint}", reads=reads("extract")
    threads: study.threads
    resources: gpu=GPUS
    shell: PAPERMILL + " -p model {wildcards.run} -p checkpoint {wildcards.checkpoint}" + END


rule measure:
    input: "statistics/{run}@{checkpoint}/manifest.json"
    output: "measurements/{run}@{checkpoint}/manifest.json"
    params: notebook="04_measure", job="04_measure_{run}@{checkpoint}", reads=reads("measure")
    threads: study.threads
    resources: gpu=GPUS
    shell: PAPERMILL + " -p model {wildcards.run} -p checkpoint {wildcards.checkpoint}" + END

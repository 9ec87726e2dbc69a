"""Every command of the README, and of that of the notebooks, is run: as it is, small, or by a test named here."""

import json
import re
import shlex
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import SHARED, lcutils_command

from lcutils.analysis import correlations
from lcutils.parameters import ROOT, load_study
from lcutils.pipeline.sweep import PROFILES

TEXT = "".join((ROOT / name).read_text() for name in ("README.md", "notebooks/README.md"))
PAGES = ["README.md", "CONTRIBUTING.md", *(f"{n}/README.md" for n in ("notebooks", "parameters", "lcutils", "outputs"))]
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]

# What stands for a command that needs more than a clean machine, or that other tests run.
ELSEWHERE = {
    "make demo": "conftest.py: the demo fixture, which test_demo.py looks at",
    "make lab": "test_jupyterlab.py opens the notebooks in a browser",
    "make test": "this very run",
    "make check": "make test begins with it",
    "make docs": "test_package.py: the API reference",
    "lcutils repeat tinystories outputs/tinystories-sample 02x0768_01d19@0 --set source=FOLDER "
    "tokenizer=EleutherAI/gpt-neo-125M": "test_repeating.py: a tiny study",
    "conda env create -f environment.yml && conda activate lcutils": "test_conda_installs_what_make_installs, below",
    "lcutils sweep demo": "test_install.py: without make, in an environment of conda's list",
    "make sweep STUDY=paper": "test_the_paper_dry_run, below",
    "make sweep STUDY=paper PROFILE=slurm": "test_slurm.py runs a small study on a one-node cluster",
    "torchrun --nproc-per-node 2 -m lcutils train paper 12x1024_10L": "test_stages.py: two processes, a tiny model",
    "torchrun --nproc-per-node 2 -m lcutils extract mine my-model": "test_stages.py: two processes, a tiny model",
    "lcutils export paper path/to/kept": "test_kept.py: a tiny study",
    "lcutils import paper path/to/kept": "test_kept.py: a tiny study, in another folder",
    "lcutils compare outputs/tinystories-sample path/to/lc-2024_05_18.csv": "test_comparing.py",
    "make sweep STUDY=paper DRY=1": "test_the_paper_dry_run, below",
}
TINY_FORMS = (
    "papermill notebooks/0", "make sweep STUDY=demo", "make sweep STUDY=sample", "make plan", "lcutils measure",
    "make measure",
)  # fmt: skip


def test_every_command_is_accounted_for():
    unknown = [c for c in COMMANDS if c not in ELSEWHERE and not c.startswith(TINY_FORMS)]
    assert not unknown
    assert not [c for c in ELSEWHERE if c not in COMMANDS]


def dry(command: str) -> str:
    """What make would run, without the installation."""
    outcome = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout.replace("\\\n", " ")


def run_make_line(command: str, *extra: str) -> subprocess.CompletedProcess[str]:
    """Run the `python -m lcutils …` line that make would run, with further words."""
    line = next(line for line in dry(command).splitlines() if "-m lcutils" in line)
    return lcutils_command(*shlex.split(line)[3:], *extra)


def test_plan_of_a_study_that_trains_nothing(tmp_path, lcutils_here):
    path = tmp_path / "mine.yaml"
    path.write_text("corpus: {tokenizer: EleutherAI/gpt-neo-125M}\npretrained: {gpt2: openai-community/gpt2}\n")
    outcome = lcutils_here("plan", path)
    assert outcome.returncode == 0, outcome.stderr
    assert "1 runs (0 to train)" in outcome.stdout


def test_plan():
    outcome = run_make_line("make plan STUDY=paper")
    assert outcome.returncode == 0, outcome.stderr
    assert "230 points" in outcome.stdout
    assert "GB" in outcome.stdout


def test_sweeps_of_one_model(demo, tmp_path):
    for command in [c for c in COMMANDS if c.startswith("make sweep STUDY=demo")]:
        outcome = run_make_line(re.sub(r"outputs/\w+", str(tmp_path), command), "--dry-run")
        assert outcome.returncode == 0, outcome.stderr
        found = "Nothing to be done" in outcome.stdout + outcome.stderr
        assert found == ("OUTPUTS" not in command)  # the demo has it already


def test_sweep_of_text_files(tmp_path):
    story = "Once upon a time there was a cat named Tom. He sat on a mat and sang to the moon.\n<|endoftext|>\n"
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text(story * 400)
    command = next(c for c in COMMANDS if c.startswith("make sweep STUDY=sample"))
    command = command.replace("path/to", str(tmp_path)) + f" OUTPUTS={tmp_path / 'out'}"
    small = command.replace('valid.txt"', 'valid.txt tokenizer=bpe:300 block_size=32"')
    outcome = run_make_line(small, "--model", "01x0064_01d")
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert (tmp_path / "out/sample/measurements/01x0064_01d@0/row.json").is_file()


def test_papermill_on_published_tables(tmp_path):
    table = SHARED / "published" / "lc-2024_05_18.csv"
    if not table.exists():
        pytest.skip("the published tables are not beside the checkout")
    command = next(c for c in COMMANDS if "-p published" in c)
    command = command.replace("/tmp", str(tmp_path)).replace("path/to/lc-2024_05_18.csv", str(table))
    words = shlex.split(command)
    outcome = subprocess.run(
        [sys.executable, "-m", *words, "-p", "outputs", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert (tmp_path / "paper/analysis/report.html").is_file()


def test_papermill_for_one_model(demo, tmp_path):
    for command in [c for c in COMMANDS if c.startswith("papermill") and "published" not in c]:
        words = shlex.split(command.replace("/tmp", str(tmp_path)))
        outcome = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr[-3000:]


def test_the_paper_dry_run(tmp_path):
    """The hub is not asked: a dry run lists 1 + 170 + 230 + 230 + 1 jobs, and the rule that asks for all."""
    outcome = lcutils_command("sweep", "paper", "--outputs", tmp_path, "--dry-run", "--set", "device=cpu")
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert re.search(r"total\s+633", outcome.stdout + outcome.stderr)
    assert outcome.stdout.splitlines()[-1] == "to do: data 1, train 170, extract 230, measure 230, analyze 1"


@pytest.mark.parametrize("profile", sorted(path.name for path in PROFILES.iterdir()))
def test_profiles(tmp_path, profile):
    outcome = lcutils_command("sweep", "paper", "--outputs", tmp_path, "--profile", profile, "--dry-run")
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert re.search(r"total\s+633", outcome.stdout + outcome.stderr)


@pytest.fixture
def a_model(tmp_path):
    """A tiny GPT-2 and a text, where the README says `path/to`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from lcutils.corpus.tokenization import train_bpe

    story = "Once upon a time there was a cat named Tom. He sat on a mat and sang to the moon."
    (tmp_path / "text.txt").write_text(f"{story}\n<|endoftext|>\n" * 300)
    tokenizer = train_bpe(iter([[story] * 50]), 280)
    tokenizer.save_pretrained(tmp_path / "model")
    settings = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(settings).save_pretrained(tmp_path / "model")
    return tmp_path


def test_a_model_of_your_own(a_model):
    """The YAML of the README; the model on the hub is left out, with a line that says so."""
    text = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert text
    values = yaml.safe_load(text[1].replace("path/to", str(a_model)))
    values["corpus"]["block_size"] = 32
    del values["pretrained"]["pythia"]
    study = a_model / "mine.yaml"
    study.write_text(yaml.safe_dump(values | {"device": "cpu", "analysis": {"pictures": False}}))
    outcome = lcutils_command("sweep", study, "--outputs", a_model)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert "my-model" in (a_model / "mine/results.csv").read_text()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("lcutils measure", "make measure"))])
def test_measure(a_model, command):
    layers, command = "--layers" in command, command.replace("path/to", str(a_model))
    more = ["--outputs", str(a_model / "out"), "--name", "mine"]
    if command.startswith("make"):
        command += f" OUTPUTS={a_model / 'out'} NAME=mine SET='device=cpu permutations=20 pictures=false'"
        outcome = run_make_line(command)
    else:
        words = shlex.split(command)[1:]
        outcome = lcutils_command(*words, *more, "--set", "device=cpu", "permutations=20", "pictures=false")
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert (a_model / "out/mine/analysis/report.html").is_file()
    assert (a_model / "out/mine/results.csv").read_text().count("\n") == 2
    assert (a_model / "out/mine/measurements/model@0/layers.parquet").is_file() == layers


def test_the_caption_of_the_first_picture_is_true():
    """Correlations with the loss of the table beside it, and which way each of them goes."""
    results = pd.read_csv(ROOT / "outputs/tinystories-sample/results.csv")
    table = correlations(results, trials=100).set_index("measurement")
    caption = re.search(r"\n\*The paper's grid, (.*?)\*\n", TEXT, re.DOTALL)
    assert caption
    sizes = len(results.groupby(["depth", "width"]))
    counted = f"{len(results)} checkpoints of {results['model'].nunique()} models of {sizes} sizes"
    assert counted in " ".join(caption[1].split())
    said = [float(number.replace("−", "-")) for number in re.findall(r"(?:r = |\()(−?0\.\d\d)", caption[1])]
    keys = ["nc1_cdnv", "nc1_cdnv_galanti", "nc1_quotient"]
    assert said == [round(table.loc[key, "r_log"], 2) for key in keys]
    assert list(table.loc[keys, "collapse_log"]) == ["with", "with", "against"]
    assert table.loc[["nc1_cdnv", "nc4_agreement"], "collapse"].tolist() == ["with", "with"]


def test_the_python_of_the_readme_runs():
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    outcome = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert "nc1_cdnv" in outcome.stdout


def test_conda_installs_what_make_installs():
    """conda is not here: both ways install the same list of versions and the same package with the same extras."""
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    makefile = (ROOT / "Makefile").read_text()
    for words in pip:
        assert words in makefile
    assert "torch==2.13.0" in (ROOT / "requirements.txt").read_text().splitlines()


def anchors(page: str) -> set[str]:
    """The names by which a code host links to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / page).read_text()):
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), target


def test_half_the_learning_rate_is_half_of_it():
    command = next(c for c in COMMANDS if "OUTPUTS=outputs/half" in c)
    found = re.search(r"learning_rate=(\S+?)\"", command)
    assert found
    assert float(found[1]) == load_study("demo").training.learning_rate / 2


def kept(name: str, **wanted: object) -> dict[str, Any]:
    """The last line of a file of benchmarks with these values."""
    lines = map(json.loads, (ROOT / "tests/benchmarks" / name).read_text().splitlines())
    return [line for line in lines if wanted.items() <= line.items()][-1]


@pytest.mark.parametrize(
    ("model", "speed", "unit", "times"),
    [("1x64", "11.2 M", 1e6, "25"), ("2x768", "1.48 M", 1e6, "7.9"), ("12x1024", "329 k", 1e3, "7.0")],
)
def test_speeds_of_training(model, speed, unit, times):
    sentence = " ".join(re.findall(r"Training runs at .*?same run\.", TEXT, re.DOTALL)[0].split())
    assert speed in sentence
    assert re.search(rf"\b{re.escape(times)}\b", sentence)
    ours, trainer = (kept("train-h200.jsonl", part="rows", model=model, side=s) for s in ("ours", "trainer"))
    assert f"{ours['tokens_per_second'] / unit:.3g}" == speed.split()[0]
    ratio = ours["tokens_per_second"] / trainer["tokens_per_second"]
    assert f"{ratio:.{len(times.partition('.')[2])}f}" == times


def test_times_of_the_table():
    plain = " ".join(TEXT.split())
    first = next(
        json.loads(line)
        for line in (ROOT / "tests/benchmarks/measure-h200.jsonl").read_text().splitlines()
        if '"released"' in line and '"K": 29233, "D": 1024' in line
    )
    assert f"{1000 * first['ours']:.0f} ms, {first['peak_gib']:.1f} GiB" in plain
    assert f"by the released code {first['released']:.1f} s" in plain
    assert f"{kept('layers-h100.jsonl', way='all layers')['times']:.1f} times as long" in plain
    lines = [json.loads(line) for line in (ROOT / "tests/benchmarks/train-h200.jsonl").read_text().splitlines()]
    largest = max(line["largest_difference"] for line in lines if line["part"] == "curves")
    assert f"{largest:.0e}".replace("e-0", "e-") == "2e-4"
    assert "agree to 2e-4 nats over 200 steps" in plain
    page = (ROOT / "tests/benchmarks/README.md").read_text()  # which test_study_cost.py holds to the kept lines
    assert "77.6 GPU-hours, the Trainer 865" in page
    assert "78 hours; with `transformers.Trainer` 865" in plain


def test_the_citation_is_that_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    for words in (citation["title"], citation["version"], *(work["title"] for work in citation["references"])):
        assert f"{{{words}}}" in TEXT

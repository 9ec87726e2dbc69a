"""`lcutils measure`: from models and a text to a table and a page, by one command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import lcutils_command
from test_preflight import CODE
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from lcutils import measure_model, measuring
from lcutils.corpus.tokenization import train_bpe
from lcutils.errors import UserError
from lcutils.measuring import measure_models, named, read_number
from lcutils.stages import open_study

TALES = [
    f"Once upon a time there was a {who} that liked to {what} in the {where}. One day the {who} was sad, then happy."
    for who in ("cat", "dog", "bird", "little girl", "boy")
    for what in ("sing", "run", "play", "sleep", "jump")
    for where in ("park", "house", "garden", "wood")
]
SETTINGS = ["block_size=32", "device=cpu", "threads=1", "blocks_per_batch=32", "permutations=50"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """A text, and models of several kinds: two families with tokenizers of their own, an adapter, a broken one."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "tales.txt").write_text("<|endoftext|>".join(TALES * 3), encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=64, **sizes, **ends))
    llama.to(torch.bfloat16).save_pretrained(folder / "llama", max_shard_size="20KB")
    train_bpe([TALES], 300).save_pretrained(folder / "llama")
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=280, max_position_embeddings=48, **sizes, **ends))
    neox.save_pretrained(folder / "neox")
    train_bpe([TALES[:30]], 280).save_pretrained(folder / "neox")
    neox.save_pretrained(folder / "broken")
    train_bpe([TALES], 280).save_pretrained(folder / "broken")
    weights = folder / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


def adapter(shelf: Path) -> Path:
    peft = pytest.importorskip("peft", reason="adapters need peft")
    if not (shelf / "adapter").exists():
        base = LlamaForCausalLM.from_pretrained(shelf / "llama", dtype=torch.float32)
        base.name_or_path = base.config._name_or_path = str(shelf / "llama")
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        peft.get_peft_model(base, config).save_pretrained(shelf / "adapter")
    return shelf / "adapter"


def bare(shelf: Path) -> Path:
    """A model without its tokenizer."""
    (shelf / "bare").mkdir(exist_ok=True)
    for file in (shelf / "neox").iterdir():
        if "token" not in file.name:
            (shelf / "bare" / file.name).write_bytes(file.read_bytes())
    return shelf / "bare"


def test_one_command_goes_from_a_model_to_its_page(shelf, tmp_path):
    command = [sys.executable, "-m", "lcutils", "measure", str(shelf / "llama"), "--text", str(shelf / "tales.txt")]
    command += ["--outputs", str(tmp_path), "--tokens", "3K", "--set", *SETTINGS]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    results = pd.read_csv(tmp_path / "llama" / "results.csv")
    assert results["model"].tolist() == ["llama"]
    assert (results["family"][0], results["n_params"][0] > 0) == ("llama", True)
    assert str(tmp_path / "llama" / "analysis" / "report.html") in outcome.stdout
    page = (tmp_path / "llama" / "analysis" / "report.html").read_text(encoding="utf-8")
    assert "llama" in page
    assert "GPT-Neo" not in page
    data = json.loads((tmp_path / "llama" / "data" / "corpus.json").read_text())
    assert 3000 - 32 <= data["train"]["blocks"] * 32 <= 3000
    # Once more: nothing is done again, and a notebook opens the same study.
    before = (tmp_path / "llama" / "results.csv").stat().st_mtime_ns
    statistics = tmp_path / "llama" / "statistics" / "llama@0" / "statistics.safetensors"
    made = statistics.stat().st_mtime_ns
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert statistics.stat().st_mtime_ns == made
    assert (tmp_path / "llama" / "results.csv").stat().st_mtime_ns >= before
    assert open_study(tmp_path / "llama" / "llama.yaml", tmp_path).study.points == [("llama", 0)]


def test_many_models_share_a_study_and_a_failure_is_one_line(shelf, tmp_path, capsys):
    models = [shelf / "llama", shelf / "neox", shelf / "broken", adapter(shelf), bare(shelf), tmp_path / "nowhere"]
    outcome = measure_models(models, shelf / "tales.txt", outputs=tmp_path, name="all", overrides=SETTINGS)
    results = pd.read_csv(tmp_path / "all" / "results.csv").set_index("model")
    assert set(results.index) == {"llama", "neox", "adapter"}
    assert results["family"].to_dict() == {"llama": "llama", "neox": "gpt_neox", "adapter": "llama"}
    assert set(outcome.failures) == {"bare@0", "broken@0", "nowhere@0"}
    assert all("\n" not in line for line in outcome.failures.values())
    page = outcome.page.read_text(encoding="utf-8")
    assert "model.safetensors" in outcome.failures["broken@0"]
    for model in ("broken", "nowhere"):
        assert f"{model}@0" in page
    assert f"broken@0 is left out: {outcome.failures['broken@0']}" in capsys.readouterr().err
    # Two tokenizers, two folders of blocks of the same text; the adapter is fed as its base is.
    work = outcome.work
    assert work.data_of("llama") != work.data_of("neox")
    assert results["val_loss_per_character"].notna().all()
    assert results.loc["adapter", "val_loss"] != results.loc["llama", "val_loss"]


def test_a_model_alone_gives_what_it_gives_among_others(shelf, tmp_path, undrawn):
    text = shelf / "tales.txt"
    alone = measure_model(shelf / "neox", text, outputs=tmp_path, name="alone", overrides=SETTINGS).row
    listed = tmp_path / "models.txt"
    listed.write_text(f"# two models\n{shelf / 'llama'}\n\n{shelf / 'neox'}\n")
    work = measure_models(listed, text, outputs=tmp_path, name="both", overrides=SETTINGS).work
    row = json.loads((work.measurements("neox", 0) / "row.json").read_text())
    assert row == alone


def test_a_sweep_of_the_same_study_gives_the_same_rows(shelf, tmp_path, undrawn):
    models = [shelf / "llama", shelf / "neox", shelf / "broken"]
    work = measure_models(models, shelf / "tales.txt", outputs=tmp_path, name="all", overrides=SETTINGS).work
    swept = lcutils_command("sweep", work.study.source, "--outputs", tmp_path / "swept")
    assert swept.returncode == 1
    assert "the other models are measured" in swept.stderr.splitlines()[0]
    assert swept.stderr.splitlines()[-1].startswith("03_extract_broken@0 failed: error: ")
    for model in ("llama", "neox"):
        rows = [
            json.loads((tmp_path / place / "all" / "measurements" / f"{model}@0" / "row.json").read_text())
            for place in (".", "swept")
        ]
        assert rows[0] == rows[1]
    page = (tmp_path / "swept" / "all" / "analysis" / "report.html").read_text(encoding="utf-8")
    assert "broken@0" in page
    assert (tmp_path / "swept" / "all" / "notebooks" / "01_data_neox.ipynb").is_file()


def test_blocks_fit_the_model_with_the_fewest_positions(shelf, tmp_path, undrawn):
    settings = [word for word in SETTINGS if not word.startswith("block_size")]
    measure_models([shelf / "llama", shelf / "neox"], shelf / "tales.txt", outputs=tmp_path, overrides=settings)
    study = yaml.safe_load((tmp_path / "models" / "models.yaml").read_text())
    assert study["corpus"]["block_size"] == 48


def refusal(*models: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        measure_models(list(models), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_mistakes_are_one_line_before_any_work(shelf, tmp_path):
    text, common = shelf / "tales.txt", {"outputs": tmp_path, "overrides": SETTINGS}
    assert "there is no such folder" in refusal(shelf / "nothing", text=text, **common)
    assert "none is named" in refusal(text=text, **common)
    assert "no such file or folder" in refusal(shelf / "llama", text=shelf / "no.txt", **common)
    assert "10M" in refusal(shelf / "llama", text=text, tokens="many", **common)
    assert "is a file" in refusal(shelf / "llama" / "config.json", text=text, **common)
    assert "learning_rat: no such parameter" in refusal(
        shelf / "llama", text=text, outputs=tmp_path, overrides="learning_rat=3"
    )
    assert "has no revisions" in refusal(shelf / "llama", text=text, revisions=["step1"], **common)
    bare(shelf)
    assert "holds no tokenizer" in refusal(shelf / "bare", text=text, **common)
    assert not list(tmp_path.glob("*/statistics"))


def test_a_mistake_leaves_nothing_that_stands_in_the_way_of_the_next_call(shelf, tmp_path, undrawn):
    text, common = shelf / "tales.txt", {"outputs": tmp_path, "name": "one"}
    assert "no such file" in refusal(shelf / "neox", text=shelf / "no.txt", overrides=SETTINGS, **common)
    assert "blocks_per_batch" in refusal(shelf / "neox", text=text, overrides="blocks_per_batch=many", **common)
    assert not list(tmp_path.iterdir())
    measure_models(shelf / "neox", text, overrides=SETTINGS, **common)


@pytest.mark.parametrize("name", ["..", "a/b", "/tmp/x", "", ".hidden", "x" * 200, 3.5])
def test_a_name_is_that_of_a_folder_in_outputs(shelf, tmp_path, name):
    outputs = tmp_path / "outputs"
    message = refusal(shelf / "neox", text=shelf / "tales.txt", outputs=outputs, name=name, overrides=SETTINGS)
    assert "name" in message
    assert not list(tmp_path.iterdir())


def test_results_do_not_go_into_the_folder_of_a_model(shelf, tmp_path):
    folder = shutil.copytree(shelf / "llama", tmp_path / "own")
    (tmp_path / "link").symlink_to(folder)
    before = sorted(folder.iterdir())
    for models, options in (([folder], {}), ([tmp_path / "link", shelf / "neox"], {"name": "own"})):
        line = refusal(*models, text=shelf / "tales.txt", outputs=tmp_path, overrides=SETTINGS, **options)
        assert line == f"name: {folder} is the folder of a model; give another name, or other outputs"
    assert sorted(folder.iterdir()) == before


def test_code_of_a_model_is_run_where_the_command_says_so(shelf, tmp_path, monkeypatch):
    folder = shutil.copytree(shelf / "llama", tmp_path / "own")
    (folder / "mine.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    automatic = {"AutoConfig": "mine.Settings", "AutoModelForCausalLM": "mine.Mine"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": automatic, "model_type": "mine"}))
    command = ["measure", folder, "--text", shelf / "tales.txt", "--outputs", tmp_path / "out", "--set", *SETTINGS]
    refused = lcutils_command(*command)
    assert refused.returncode == 2
    assert "code of its own (auto_map in config.json), which is not run" in refused.stderr
    assert "--trust-remote-code" in refused.stderr
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    outcome = lcutils_command("measure", "--trust-remote-code", *command[1:])
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert pd.read_csv(tmp_path / "out/own/results.csv")["family"].tolist() == ["mine"]


def test_another_text_needs_another_name(shelf, tmp_path, undrawn):
    text = shelf / "tales.txt"
    common = {"outputs": tmp_path, "name": "one", "overrides": SETTINGS}
    measure_models(shelf / "neox", text, **common)
    assert "was measured with max_tokens = None, not 2000; give another --name" in refusal(
        shelf / "neox", text=text, tokens=2000, **common
    )


@pytest.mark.parametrize(
    ("text", "number"), [("10M", 10**7), ("1.5b", 1_500_000_000), (300, 300), ("2_000", 2000), ("4k", 4000)]
)
def test_numbers_of_tokens_are_read_as_people_write_them(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "-5", "10X", "1e6", "M", "0.0001K"])
def test_what_is_no_number_of_tokens_is_refused(text):
    with pytest.raises(UserError, match="is no number of tokens; write for instance 10M"):
        read_number(text)


def test_models_are_named_by_the_last_part_of_their_source(tmp_path):
    sources = ["org/pythia-70m", "other/Pythia-70M", str(tmp_path / "run" / "checkpoint-3"), "./some model!"]
    assert list(named([*sources, sources[0]])) == ["pythia-70m", "Pythia-70M-2", "run-checkpoint-3", "some-model"]


def test_whatever_goes_wrong_in_one_model_the_others_are_measured(shelf, tmp_path, undrawn, monkeypatch):
    measure = measuring.extract_point

    def breaking(work, model, checkpoint):
        if model == "neox":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")
        return measure(work, model, checkpoint)

    monkeypatch.setattr(measuring, "extract_point", breaking)
    models = [shelf / "neox", shelf / "llama"]
    outcome = measure_models(models, shelf / "tales.txt", outputs=tmp_path, overrides=SETTINGS)
    assert outcome.failures == {"neox@0": "OutOfMemoryError: CUDA out of memory."}
    assert outcome.analysis.results["model"].tolist() == ["llama"]
    left = (tmp_path / "models" / "logs" / "03_extract_neox@0.failed").read_text()
    assert "Traceback" in left
    monkeypatch.setattr(measuring, "extract_point", measure)
    assert not measure_models(models, shelf / "tales.txt", outputs=tmp_path, overrides=SETTINGS).failures

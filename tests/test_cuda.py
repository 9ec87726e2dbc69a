"""The CUDA path of the model and of training: against Hugging Face, against the CPU, killed, on two GPUs.

`make test` skips these where there is no GPU. Most of their time is compilation: `pytest -n 8 tests/test_cuda.py`
(pytest-xdist) does it side by side.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from hf_trainer import hugging_face, trainer
from safetensors.torch import load_file
from test_model import stirred
from toy_training import blocks, logits, recipe

from lcutils.features import loading
from lcutils.features.batches import blocks_on_device
from lcutils.features.extraction import extract_statistics
from lcutils.features.models import load_feature_model
from lcutils.gptneo.model import GPTNeo
from lcutils.runs import Architecture
from lcutils.training.loop import train
from lcutils.training.optimizer import ClippedAdamW, FlatParameters
from lcutils.training.step import TrainingStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
VOCABULARY = 997
WIDTHS = (64, 128, 256, 512, 768, 1024)  # heads of 4 to 64: cuDNN, FlexAttention with and without padding
SMALL = Architecture(2, 64, VOCABULARY, positions=512)


def gradients(flat, data, batch, compile_step=False):
    """The step's gradients of one batch, by the names of the parameters; (loss, gradients)."""
    optimizer = ClippedAdamW(flat, (0.9, 0.999), 1e-8, 0.0, 1e9)
    data = blocks_on_device(data, flat.values.device)
    words = {"batch_size": batch, "learning_rate": 0.0, "total_steps": 1, "history": 1, "compile_step": compile_step}
    step = TrainingStep(flat, optimizer, data, **words)
    step.start_epoch(np.arange(len(data)), batch, 0)
    step.run()
    found = {name: flat.view(flat.grads, name)[: shape[0]] for name, shape in flat.shapes.items()}
    return float(step.fetch()[0, 0]), {name: tensor.double().cpu() for name, tensor in found.items()}


@pytest.mark.parametrize("length", [301, 45])  # longer than the window and odd; shorter than a block
@pytest.mark.parametrize("width", WIDTHS)
def test_logits_in_fp32(width, length):
    a = Architecture(2, width, VOCABULARY, positions=512)
    model = stirred(a) if width == 64 else GPTNeo(a, 3)  # wide models look unevenly at the keys from the start
    x = torch.randint(0, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(length)).cuda()
    with torch.no_grad():
        expected = hugging_face(model).cuda()(x).logits
        model.cuda()
        torch.testing.assert_close(logits(model, x), expected, atol=1e-4, rtol=1e-5)
        compiled = model.features(x, compile_blocks=True) @ model.head.T
        torch.testing.assert_close(compiled, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("width", "length"), [(64, 300), (64, 512), (256, 512), (512, 300), (768, 512), (1024, 300)])
def test_bf16_is_as_near_to_fp32_as_autocast(width, length):
    """Loss and gradients of a step against fp32: ours may err 1.3 times as much as Hugging Face's under autocast."""
    model = GPTNeo(Architecture(2, width, VOCABULARY, positions=512), 3)
    data, rival = blocks(4, length, vocabulary=VOCABULARY), hugging_face(model).cuda()
    x = torch.from_numpy(data.astype(np.int64)).cuda()
    losses, theirs = {}, {}
    for name in ("fp32", "bf16"):
        rival.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=name == "bf16"):
            logits = rival(x).logits[:, :-1].float()
            loss = F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
        loss.backward()
        losses[name] = loss.item()
        theirs[name] = {k: p.grad.double().cpu() for k, p in rival.named_parameters()}
    flat = FlatParameters(model, torch.device("cuda"), torch.bfloat16)
    for compile_step in (False, True):
        loss, ours = gradients(flat, data, 4, compile_step)
        assert abs(loss - losses["fp32"]) < max(2e-4, 2 * abs(losses["bf16"] - losses["fp32"]))
        for name, exact in theirs["fp32"].items():
            limit = 1.3 * (theirs["bf16"][name] - exact).norm() + 1e-3 * exact.norm()
            assert (ours[name] - exact).norm() < limit, (name, compile_step)


@pytest.mark.parametrize("width", [64, 512])
def test_the_cpus_fallback_agrees(width):
    """The same step in fp32 on both devices, through the loss and attention that each has."""
    found = {}
    for way, device in (("cpu", "cpu"), ("cuda", "cuda"), ("compiled", "cuda")):
        model = GPTNeo(Architecture(3, width, VOCABULARY, positions=512), 3)
        flat = FlatParameters(model, torch.device(device), torch.float32)
        found[way] = gradients(flat, blocks(3, 290, vocabulary=VOCABULARY), 3, way == "compiled")
    for way in ("cuda", "compiled"):
        assert found[way][0] == pytest.approx(found["cpu"][0], rel=1e-6)
        for name, exact in found["cpu"][1].items():
            assert (found[way][1][name] - exact).norm() < 1e-4 * exact.norm(), (name, way)


@pytest.mark.parametrize("way", ["eager", "captured", "compiled"])
@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-4), ("bf16", 5e-3)])
def test_every_step_is_the_trainers(tmp_path, monkeypatch, precision, error, way):
    """Captured graphs, an odd last batch, clipping, decay: 18 steps of ours and of `transformers.Trainer`."""
    monkeypatch.setattr("lcutils.training.loop.CAPTURE_FROM", 10**9 if way == "eager" else 0)
    monkeypatch.setattr("lcutils.gptneo.trunk.COMPILE_FROM", 0 if way == "compiled" else 1e99)
    monkeypatch.setattr("lcutils.training.loop.LOG_LINES", 10**9)
    monkeypatch.setattr("lcutils.training.loop.LOG_EVERY_AT_LEAST", {"cpu": 1, "cuda": 1})
    given = recipe(autocast=precision, weight_decay=0.5, clip_norm=0.5)
    data = blocks(22, 300, vocabulary=VOCABULARY)
    records = train(SMALL, given, data, blocks(5, 300, 1, VOCABULARY), tmp_path / "run", device="cuda")
    rival = trainer(hugging_face(GPTNeo(SMALL, given.init_seed)), given, data, tmp_path / "theirs", cpu=False)
    rival.train()
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    np.testing.assert_allclose(losses, torch.stack(rival.losses).double().cpu(), rtol=error)
    assert records[0]["steps"] == 18


RESUMED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cuda import SMALL, VOCABULARY
from toy_training import blocks, die_at_the_end, recipe
from lcutils.training.loop import train
if "die" in sys.argv:
    die_at_the_end()
data, other = blocks(1200, 256, vocabulary=VOCABULARY), blocks(9, 256, 1, VOCABULARY)
chosen = recipe(autocast="bf16", deterministic=True)
train(SMALL, chosen, data, other, Path({folder!r}), device="cuda", seconds_between_saves=0.02)
"""


def test_killed_it_ends_with_the_same_bits(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    kills = 0
    for wanted in (0, 2):
        folder = tmp_path / f"killed-{wanted}"
        script = RESUMED.format(tests=str(Path(__file__).parent), folder=str(folder))
        for attempt in range(wanted + 1):
            before = set(folder.glob("resume/state-*"))
            command = [sys.executable, "-c", script, *(["die"] if attempt < wanted else [])]
            process = subprocess.Popen(command, env=environment)
            while attempt < wanted and process.poll() is None:
                if set(folder.glob("resume/state-*")) - before:  # this process has saved
                    time.sleep(random.uniform(0, 0.1))
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.002)
            kills += process.wait() == -signal.SIGKILL
        assert process.wait() == 0
    assert kills == 2
    whole, killed = (load_file(tmp_path / f"killed-{n}" / "checkpoint-2" / "model.safetensors") for n in (0, 2))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


RANK = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cuda import SMALL, VOCABULARY
from toy_training import blocks, recipe
from lcutils.training.loop import train
data, other = blocks(20, 256, vocabulary=VOCABULARY), blocks(3, 256, 1, VOCABULARY)
train(SMALL, recipe(batch_size=3, autocast="fp32"), data, other, Path({folder!r}), device="cuda")
"""


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_share_uneven_batches(tmp_path):
    for name, processes in (("alone", 1), ("shared", 2)):
        script = tmp_path / f"{name}.py"
        script.write_text(RANK.format(tests=str(Path(__file__).parent), folder=str(tmp_path / name)))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        outcome = subprocess.run([*command, str(script)], env=environment, capture_output=True, text=True, timeout=3000)
        assert outcome.returncode == 0, outcome.stderr[-2000:]
    alone, shared = (load_file(tmp_path / n / "checkpoint-2" / "model.safetensors") for n in ("alone", "shared"))
    for name in alone:
        torch.testing.assert_close(shared[name], alone[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_spread_over_two_gpus_gives_the_features_of_one(tmp_path, monkeypatch, dtype):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
    hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=VOCABULARY, **sizes)).to(dtype).save_pretrained(tmp_path)
    text = blocks(8, 64, vocabulary=VOCABULARY)
    found = []
    for places in (1, 2):
        model = load_feature_model(tmp_path, device="cuda")
        stats = extract_statistics(model, text, batch_size=4, device="cuda")
        found.append((stats, model.logits(torch.from_numpy(text[:2].astype(np.int64)).cuda())))
        assert (torch.cuda.memory_allocated(1) > 0) == (places == 2)
        monkeypatch.setattr(loading, "ROOM", 0.0)  # from now on one is too small
    (one, logits_one), (two, logits_two) = found
    torch.testing.assert_close(two.means, one.means, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits_two, logits_one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["sums", "state", "agreement"])
def test_memory_of_a_large_vocabulary(part):
    """262,144 classes of 4,096 numbers, 8 GiB of means: sums and agreement take 1.3 times that at most."""
    if torch.cuda.get_device_properties(0).total_memory < 20 << 30:
        pytest.skip("needs 20 GiB of GPU memory")
    script, sizes = Path(__file__).with_name("memory.py"), ("262144", "262144", "4096")
    outcome = subprocess.run([sys.executable, script, part, "cuda", *sizes], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert 0.9 < float(outcome.stdout) < 1.3


def test_precisions_of_extraction():
    """Features under TF32, fp16 and bf16 stay near fp32, in every kind of attention."""
    for width in (64, 512):
        model = GPTNeo(Architecture(2, width, VOCABULARY, positions=512), 2).requires_grad_(False).cuda()
        x = torch.from_numpy(blocks(2, 300, vocabulary=VOCABULARY).astype(np.int64)).cuda()
        exact = model.features(x)
        for precision, error in (("tf32", 2e-2), ("fp16", 2e-2), ("bf16", 1e-1)):
            for compile_blocks in (False, True):
                difference = (model.features(x, precision, compile_blocks) - exact).abs().max()
                assert 0 < difference < error, (width, precision, compile_blocks)

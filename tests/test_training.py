"""Training against `transformers.Trainer`, resuming after random kills, the loss, the evaluation, several processes."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hf_trainer import hugging_face, trainer
from safetensors.torch import load_file
from toy_training import SMALL, blocks, logits, recipe

from lcutils.errors import UserError
from lcutils.features.batches import blocks_on_device, next_tokens
from lcutils.features.evaluation import evaluate_model
from lcutils.features.models import FeatureModel, load_feature_model
from lcutils.gptneo import loss as losses
from lcutils.gptneo.loss import head_loss, padded_vocabulary, prediction_loss
from lcutils.gptneo.model import GPTNeo
from lcutils.runs import Architecture
from lcutils.training.loop import train
from lcutils.training.optimizer import FlatParameters
from lcutils.training.step import epoch_order


def weights(folder, checkpoint=2):
    return load_file(Path(folder) / f"checkpoint-{checkpoint}" / "model.safetensors")


# ------------------------------------------------------------------------------------------------ the paper's recipe


@pytest.mark.parametrize(
    "changes",
    [{}, {"weight_decay": 0.5}, {"clip_norm": 0.05}, {"betas": (0.8, 0.95), "eps": 1e-4, "seed": 7, "init_seed": 3}],
    ids=["paper", "decay", "clipped", "settings"],
)
def test_every_step_is_the_trainers(tmp_path, monkeypatch, changes):
    monkeypatch.setattr("lcutils.training.loop.LOG_LINES", 10**9)
    monkeypatch.setattr("lcutils.training.loop.LOG_EVERY_AT_LEAST", {"cpu": 1, "cuda": 1})
    given, data = recipe(**changes), blocks(22)  # six steps an epoch, the last of two sequences
    records = train(SMALL, given, data, blocks(5, seed=1), tmp_path / "run", device="cpu")
    model = hugging_face(GPTNeo(SMALL, given.init_seed))
    rival = trainer(model, given, data, tmp_path / "theirs", cpu=True)
    rival.train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert [line["step"] for line in lines] == list(range(1, 19))
    np.testing.assert_allclose([line["loss"] for line in lines], torch.stack(rival.losses), rtol=2e-5)
    for name, tensor in weights(tmp_path / "run").items():
        torch.testing.assert_close(tensor, model.state_dict()[name], atol=1e-5, rtol=1e-3, msg=name)
    for step, line in enumerate(lines):
        assert line["lr"] == pytest.approx(given.learning_rate * (1 - step / 18))
        assert line["epoch"] == step // 6
    assert records[0]["steps"] == 18
    assert records[0]["tokens_seen"] == 3 * 22 * 16
    assert records[0]["train_loss"] == pytest.approx(np.mean([line["loss"] for line in lines[12:]]))


def test_biases_and_layer_norms_are_not_decayed():
    flat = FlatParameters(GPTNeo(SMALL, 1), torch.device("cpu"), torch.float32)
    for name, span in flat.spans.items():
        decays = not (name.endswith("bias") or ".ln_" in name)
        assert (span.stop <= flat.decayed) == decays, name
    assert sum(span.stop - span.start for span in flat.spans.values()) == len(flat.values)


def test_orders():
    first, again = epoch_order(1, 0, 50), epoch_order(1, 0, 50)
    assert (first == again).all()
    assert sorted(first) == list(range(50))
    for other in (epoch_order(1, 1, 50), epoch_order(2, 0, 50)):
        assert (first != other).any()


def test_seeds_order_the_data_and_init_seeds_the_weights(tmp_path):
    data, validation = blocks(20), blocks(3, seed=1)
    runs = {"base": {}, "same": {}, "order": {"seed": 1}, "start": {"init_seed": 1}}
    for name, changes in runs.items():
        train(SMALL, recipe(epochs=1, checkpoints=(0,), **changes), data, validation, tmp_path / name, device="cpu")
    base, same, order, start = (weights(tmp_path / name, 0)["transformer.wte.weight"] for name in runs)
    assert torch.equal(base, same)
    assert not torch.equal(base, order)
    assert (base - start).abs().mean() > 3 * (base - order).abs().mean()


class AtOnce:
    """An executor that runs what it is given at once, in the calling thread."""

    def __init__(self, workers: int) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, *words):
        future = Future()
        future.set_result(function(*words))
        return future


def test_weights_drawn_beside_other_work_are_the_same(tmp_path, monkeypatch):
    """They are drawn in a thread while this one readies the device, whatever this one draws meanwhile."""
    data, validation = blocks(20), blocks(3, seed=1)
    given = recipe(epochs=1, checkpoints=(0,), init_seed=5)
    with monkeypatch.context() as context:
        context.setattr("lcutils.training.loop.ThreadPoolExecutor", AtOnce)
        train(SMALL, given, data, validation, tmp_path / "alone", device="cpu")
    drawing, drawn = threading.Event(), threading.Event()
    starts: list[dict[str, torch.Tensor]] = []

    class Drawn(GPTNeo):
        def _initialise(self, generator: torch.Generator) -> None:
            assert threading.current_thread() is not threading.main_thread()
            drawing.set()
            try:
                super()._initialise(generator)
                starts.append({name: tensor.clone() for name, tensor in self.state_dict().items()})
            finally:
                drawn.set()

    def resident(*words):
        drawing.wait()
        while not drawn.is_set():
            torch.manual_seed(1)
            torch.rand(1000)
        return blocks_on_device(*words)

    monkeypatch.setattr("lcutils.training.loop.GPTNeo", Drawn)
    monkeypatch.setattr("lcutils.training.loop.blocks_on_device", resident)
    train(SMALL, given, data, validation, tmp_path / "beside", device="cpu")
    for name, tensor in GPTNeo(SMALL, 5).state_dict().items():
        assert torch.equal(starts[0][name], tensor), name
    alone, beside = (tmp_path / name / "checkpoint-0/model.safetensors" for name in ("alone", "beside"))
    assert alone.read_bytes() == beside.read_bytes()


def test_no_epoch_is_trained_after_the_last_that_is_kept(tmp_path):
    data, validation = blocks(20), blocks(4, seed=1)
    whole = train(SMALL, recipe(epochs=5, checkpoints=(1, 4)), data, validation, tmp_path / "whole", device="cpu")
    short = train(SMALL, recipe(epochs=5, checkpoints=(1,)), data, validation, tmp_path / "short", device="cpu")
    steps = [json.loads(line)["step"] for line in (tmp_path / "short/log.jsonl").read_text().splitlines()]
    assert steps[-1] == short[0]["steps"] == 10
    assert short[0]["val_loss"] == whole[0]["val_loss"]  # the schedule is that of five epochs


def test_training_learns_and_evaluates_what_it_keeps(tmp_path):
    data, validation = blocks(64), blocks(7, seed=1)
    records = train(SMALL, recipe(checkpoints=(0, 2)), data, validation, tmp_path / "run", device="cpu")
    assert [record["checkpoint"] for record in records] == [0, 2]
    assert records[1]["val_loss"] < records[0]["val_loss"] < math.log(101)
    for record in records:
        folder = tmp_path / "run" / f"checkpoint-{record['checkpoint']}"
        assert json.loads((folder / "evaluation.json").read_text()) == record
        scores = evaluate_model(load_feature_model(folder), validation, batch_size=3, device="cpu")
        assert scores["val_loss"] == pytest.approx(record["val_loss"], abs=1e-6)
    assert not (tmp_path / "run" / "resume").exists()
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert train(SMALL, recipe(checkpoints=(0, 2)), data, validation, tmp_path / "run", device="cpu") == records
    assert (tmp_path / "run" / "log.jsonl").read_text() == log  # nothing was trained again


def test_each_step_of_a_slow_machine_is_told(tmp_path, monkeypatch):
    """Losses are fetched every few steps; how far the run is must not wait for them."""
    monkeypatch.setattr("lcutils.progress.SECONDS_BETWEEN_LINES", 0.0)
    log = tmp_path / "01x0016_01d.log"
    given = recipe(epochs=1, checkpoints=(0,))
    train(SMALL, given, blocks(22), blocks(5, seed=1), tmp_path / "run", log=log, device="cpu")
    told = [line.split("01d ")[1].split(" %")[0] for line in log.read_text().splitlines() if " train " in line]
    assert list(dict.fromkeys(told)) == [f"{min(4 * step, 22) / 22:.0%}"[:-1] for step in range(1, 7)]
    assert "evaluate 01x0016_01d 100 %, " in log.read_text()
    (line,) = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open())
    record = json.loads((tmp_path / "run" / "checkpoint-0" / "evaluation.json").read_text())
    assert record["tokens_seen"] == 22 * 16
    assert line["tokens_per_second"] == pytest.approx(record["tokens_per_second"])


def test_bf16_is_near_fp32(tmp_path):
    data, validation = blocks(40), blocks(4, seed=1)
    found = [
        train(SMALL, recipe(autocast=p), data, validation, tmp_path / p, device="cpu")[0]["val_loss"]
        for p in ("fp32", "bf16")
    ]
    assert found[0] != found[1]
    assert found[0] == pytest.approx(found[1], abs=0.02)


def test_large_token_ids(tmp_path):
    architecture = Architecture(1, 16, 70_000, heads=4, positions=16)
    small, large = (np.array([[1, 40_000, 60_000, 5] * 4] * 6, kind) for kind in (np.uint16, np.uint32))
    for name, data in (("small", small), ("large", large)):
        train(architecture, recipe(epochs=1, checkpoints=(0,)), data, data, tmp_path / name, device="cpu")
    for name, tensor in weights(tmp_path / "small", 0).items():
        assert torch.equal(tensor, weights(tmp_path / "large", 0)[name])


# ------------------------------------------------------------------------------------------------------- resuming

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from toy_training import SMALL, blocks, die_at_the_end, recipe
from lcutils.training.loop import train
if "die" in sys.argv:
    die_at_the_end()
folder = Path({folder!r})
chosen = recipe(checkpoints=(0, 2))
train(SMALL, chosen, blocks(900), blocks(9, seed=1), folder, device="cpu", seconds_between_saves=0.02)
"""


def test_killed_at_random_it_ends_with_the_same_bits(tmp_path):
    train(SMALL, recipe(checkpoints=(0, 2)), blocks(900), blocks(9, seed=1), tmp_path / "whole", device="cpu")
    folder = tmp_path / "killed"
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder))
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(Path.cwd())}
    kills = 0
    for attempt in range(4):
        before = set(folder.glob("resume/state-*"))
        command = [sys.executable, "-c", script, *(["die"] if attempt < 2 else [])]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        while attempt < 2 and process.poll() is None:
            if set(folder.glob("resume/state-*")) - before:  # this process has saved
                time.sleep(random.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        errors = process.communicate()[1]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors.decode()
        kills += 1
    assert process.returncode == 0
    assert kills == 2
    for checkpoint in (0, 2):
        expected, found = weights(tmp_path / "whole", checkpoint), weights(folder, checkpoint)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    whole, lines = ([json.loads(line) for line in (f / "log.jsonl").open()] for f in (tmp_path / "whole", folder))
    for key in ("step", "loss", "lr", "grad_norm"):
        assert [line[key] for line in whole] == [line[key] for line in lines]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"learning_rate": 1e-4}}, "recipe.learning_rate = 0.003, not 0.0001"),
        ({"architecture": Architecture(1, 32, 101, heads=4, positions=32, window=8)}, "architecture.depth = 2, not 1"),
        ({"data": blocks(20, seed=5)}, "other train blocks"),
    ],
)
def test_another_run_is_refused(tmp_path, change, message):
    validation = blocks(3, seed=1)
    train(SMALL, recipe(), blocks(20), validation, tmp_path / "run", device="cpu")
    with pytest.raises(UserError, match=message) as caught:
        train(
            change.get("architecture", SMALL),
            recipe(**change.get("recipe", {})),
            change.get("data", blocks(20)),
            validation,
            tmp_path / "run",
            device="cpu",
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"autocast": "fp16"}, "autocast: .*'fp16'"),
        ({"checkpoints": (3,)}, "checkpoints: .* epochs from 0 to 2"),
        ({"batch_size": 0}, "batch_size: 0"),
    ],
)
def test_impossible_recipes(given, message):
    with pytest.raises(UserError, match=message):
        recipe(**given)


def test_what_cannot_be_trained(tmp_path):
    with pytest.raises(UserError, match="no blocks to train on"):
        train(SMALL, recipe(), blocks(0), blocks(3), tmp_path / "a", device="cpu")
    with pytest.raises(UserError, match="33 tokens exceed the model's 32 positions"):
        train(SMALL, recipe(), blocks(4, 33), blocks(3), tmp_path / "b", device="cpu")
    with pytest.raises(UserError, match="learning_rate: the loss is no number"):
        train(SMALL, recipe(learning_rate=1e30), blocks(80), blocks(3), tmp_path / "c", device="cpu")


def test_more_processes_than_sequences(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(UserError, match="5 processes cannot share batches of 4 sequences"):
        train(SMALL, recipe(), blocks(20), blocks(3), tmp_path / "run", device="cpu")


RANK = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from toy_training import SMALL, blocks, recipe
from lcutils.training.loop import train
train(SMALL, recipe(batch_size=3), blocks(20), blocks(3, seed=1), Path({folder!r}), device="cpu")
"""


def test_two_processes_share_uneven_batches(tmp_path):
    train(SMALL, recipe(batch_size=3), blocks(20), blocks(3, seed=1), tmp_path / "alone", device="cpu")
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "shared")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    alone, shared = weights(tmp_path / "alone"), weights(tmp_path / "shared")
    for name in alone:
        torch.testing.assert_close(shared[name], alone[name], atol=1e-5, rtol=1e-4, msg=name)


# ------------------------------------------------------------------------------------------- the loss, the evaluation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("number", "vocabulary", "scale"), [(1, 5, 1.0), (150, 101, 1.0), (300, 64, 40.0)])
def test_head_loss_is_cross_entropy(monkeypatch, dtype, number, vocabulary, scale):
    monkeypatch.setattr(losses, "CPU_CHUNK_BYTES", 1)  # many chunks of the least size
    torch.manual_seed(number)
    h, rows, D = torch.randn(number, 8).to(dtype), padded_vocabulary(vocabulary), 8
    head = (scale * torch.randn(rows, D)).to(dtype)  # rows beyond the vocabulary are not zero: they must not count
    labels = torch.randint(-1, vocabulary, (number,), dtype=torch.int32)
    labels[0] = 3
    exact_h, exact_head = h.double().requires_grad_(), head.double().requires_grad_()
    expected = F.cross_entropy(exact_h @ exact_head[:vocabulary].T, labels.long(), ignore_index=-1)
    expected.backward()
    gradient = torch.full((rows, D), torch.nan)
    found, grad_h = head_loss(h, head, labels, 1 / (labels >= 0).sum(), vocabulary, gradient)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (grad_h.double() - exact_h.grad).norm() <= (1e-5 if dtype == torch.float32 else 1e-2) * exact_h.grad.norm()
    assert (gradient[:vocabulary].double() - exact_head.grad[:vocabulary]).norm() <= 1e-4 * exact_head.grad.norm()
    assert (gradient[vocabulary:] == 0).all()
    assert (grad_h[labels < 0] == 0).all()


def test_prediction_loss(monkeypatch):
    monkeypatch.setattr(losses, "CPU_CHUNK_BYTES", 1)
    torch.manual_seed(0)
    h, head, labels = torch.randn(200, 8), torch.randn(50, 8), torch.randint(-1, 50, (200,))
    logits = h.double() @ head.double().T
    total, right = prediction_loss(h, head, labels)
    assert total.item() == pytest.approx(F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum").item())
    assert right.item() == (logits.argmax(1) == labels).sum().item() > 0


def test_evaluation_whatever_the_batches():
    model, data = GPTNeo(SMALL, 1), blocks(7)
    tokens = torch.from_numpy(data.astype(np.int64))
    found = logits(model, tokens).detach()[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(found, tokens[:, 1:].flatten()).item()
    accuracy = (found.argmax(1) == tokens[:, 1:].flatten()).double().mean().item()
    for size in (1, 3, 7, 20):
        scores = evaluate_model(FeatureModel(model.features, model.head), data, batch_size=size, device="cpu")
        assert scores["val_loss"] == pytest.approx(expected, rel=1e-6)
        assert scores["val_accuracy"] == pytest.approx(accuracy)
        assert scores["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    with pytest.raises(UserError, match="validation: no blocks"):
        evaluate_model(FeatureModel(model.features, model.head), data[:0], batch_size=2, device="cpu")


def test_labels_are_the_next_tokens():
    assert next_tokens(torch.tensor([[5, 6, 7], [1, 2, 3]])).tolist() == [[6, 7, -1], [2, 3, -1]]

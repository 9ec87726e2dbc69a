"""CollapseMonitor and CollapseCallback: the values of NumPy's loops, and a training that does not notice them."""

import doctest
import json
import os
import random
import re
import subprocess
import sys

import monitor_ranks
import numpy as np
import pytest
import torch
from monitor_samples import VOCABULARY, assert_alike, features_and_classes, llama, measured_naively, rows, texts
from test_package import modules_after
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, LlamaModel, Trainer, TrainerCallback, TrainingArguments

import lcutils.monitor
from lcutils import ClassStatistics, CollapseCallback, CollapseMonitor, measure_collapse
from lcutils.errors import UserError
from lcutils.parameters import ROOT


def test_docstring_example():
    assert doctest.testmod(lcutils.monitor).failed == 0


def test_a_loop_of_ones_own_needs_no_transformers():
    loaded = modules_after("from lcutils import CollapseMonitor")
    assert "torch" in loaded
    assert not loaded & {"transformers", "accelerate", "pandas", "pydantic"}


# ------------------------------------------------------------------------------- what is measured


def left_padded():
    tokens, mask = texts(6), torch.ones(6, 24, dtype=torch.int64)
    for row, padding in enumerate((0, 3, 7, 1, 20, 22)):
        mask[row, :padding] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def right_padded():
    batch = {key: value.flip(1) for key, value in left_padded().items()}
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def prompts_ignored():
    labels = texts(6)
    for row in range(6):
        labels[row, : 3 * row] = -100
    return {"input_ids": texts(6), "labels": labels}


BATCHES = {
    "plain": lambda: texts(6),
    "a dict": lambda: {"input_ids": texts(6)},
    "padded on the left": left_padded,
    "padded on the right": right_padded,
    "padded, without labels": lambda: {key: right_padded()[key] for key in ("input_ids", "attention_mask")},
    "prompts ignored": prompts_ignored,
    "positions of several texts in a row": lambda: {
        "input_ids": texts(1), "position_ids": torch.arange(24)[None] % 10, "labels": texts(1),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", BATCHES)
def test_equals_loops_over_positions(kind):
    model, batches = llama(), [BATCHES[kind](), texts(5, 11, seed=3)]
    before = [dict(batch) if isinstance(batch, dict) else batch for batch in batches]
    values = CollapseMonitor(model, batches).measure()
    assert_alike(values, measured_naively(model, batches))
    assert all(isinstance(value, float) for value in values.values())
    assert values["collapse/seconds"] > 0
    for old, new in zip(before, batches, strict=True):  # the caller's batches are as they were
        assert old.keys() == new.keys() if isinstance(old, dict) else old is new


@pytest.mark.parametrize("tokens", [5 * 23, 5 * 23 + 1, 200])
def test_exactly_the_wanted_tokens_are_counted(tokens):
    model, loader = llama(), DataLoader(rows(texts(40)), batch_size=5)
    passed = []
    hook = model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: passed.append(len(inputs[0])))
    values = CollapseMonitor(model, loader, tokens=tokens).measure()
    hook.remove()
    assert_alike(values, measured_naively(model, loader, tokens))
    assert sum(passed) == -(-tokens // 23)  # texts that give none of them do not go through the model


def test_rare_classes_can_be_left_out():
    model, batches = llama(), [texts(8)]
    values = CollapseMonitor(model, batches, min_count=4).measure()
    assert_alike(values, measured_naively(model, batches, min_count=4))
    assert values["collapse/n_classes"] < CollapseMonitor(model, batches).measure()["collapse/n_classes"]


class Bare(nn.Module):
    """A language model that knows nothing of transformers; its head has a bias, which no measurement reads."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids):
        return self.head(self.embedding(input_ids).cumsum(1))


def test_a_module_of_ones_own():
    model, tokens = Bare(), texts(6)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "weights": torch.ones(6)}
    values = CollapseMonitor(model, [batch]).measure()
    stats = ClassStatistics(VOCABULARY, 8)
    stats.update(model.embedding(tokens).cumsum(1)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    expected = measure_collapse(stats, model.head.weight)
    assert {key: values[f"collapse/{key}"] for key in expected} == expected


def test_half_precision_and_autocast_are_the_models_own():
    model, batches = llama().float(), [texts(6)]
    exact = CollapseMonitor(model, batches).measure()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = CollapseMonitor(model, batches).measure()
    halved = CollapseMonitor(llama().bfloat16(), batches).measure()
    for values in (rounded, halved):
        assert values["collapse/nc1_quotient"] == pytest.approx(exact["collapse/nc1_quotient"], rel=0.05)
        assert values["collapse/nc1_quotient"] != exact["collapse/nc1_quotient"]
    assert CollapseMonitor(model, batches).measure()["collapse/nc1_cdnv"] == exact["collapse/nc1_cdnv"]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_model_is_measured_as_it_was_written(in_place):
    model, batches = llama(), [texts(6)]
    expected = CollapseMonitor(model, batches).measure()
    compilations = []

    def backend(graph, _inputs):
        compilations.append(graph)
        return graph.forward

    compiled = model if in_place else torch.compile(model, backend=backend)
    if in_place:
        model.compile(backend=backend)
    compiled(input_ids=texts(6))
    number = len(compilations)
    values = CollapseMonitor(compiled, batches).measure()
    assert all(values[key] == value for key, value in expected.items() if key != "collapse/seconds")
    compiled(input_ids=texts(6))
    assert len(compilations) == number > 0


def test_not_finite_features_end_no_training():
    model = llama()
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    with pytest.warns(RuntimeWarning, match="not finite; all measurements are nan"):
        values = CollapseMonitor(model, [texts(6)]).measure()
    assert set(values) == set(CollapseMonitor(llama(), [texts(6)]).measure())
    assert all(np.isnan(value) for key, value in values.items() if key != "collapse/seconds")


class Headless(Bare):
    def forward(self, input_ids):
        return self.embedding(input_ids) @ self.head.weight.T


@pytest.mark.parametrize(
    ("model", "batches", "words"),
    [
        (nn.Linear(3, 4), [], "model: Linear has no output embedding"),
        (LlamaModel(llama().config), [], "model: LlamaModel has no output embedding"),
        (llama(), iter([]), "batches: a generator ends after one measurement"),
        (llama(), (row for row in [texts(2)]), "batches: a generator ends after one measurement"),
        (llama(), [], "batches: they hold no token"),
        (llama(), [texts(3, 1)], "batches: they hold no token"),
        (llama(), [{"input_ids": texts(2), "labels": torch.full((2, 24), -100)}], "batches: they hold no token"),
        (llama(), [{"input_ids": texts(2), "labels": texts(2) + 100}], "batches: token 136 is none of the model's 37"),
        (llama(), [{"inputs": texts(2)}], r"batches: each must be a \(B, S\) tensor of input_ids"),
        (llama(), [texts(2)[0]], r"batches: each must be a \(B, S\) tensor of input_ids"),
        (llama(), [[texts(2)]], r"batches: each must be a \(B, S\) tensor of input_ids"),
        (Headless(), [texts(2)], "model: Headless does not call its output embedding"),
    ],
)
def test_mistakes_are_told_in_one_line(model, batches, words):
    with pytest.raises(UserError, match=words) as caught:
        CollapseMonitor(model, batches).measure()
    assert "\n" not in str(caught.value)


def test_an_adapter_on_the_head_is_refused():
    model = llama()
    model.lm_head = nn.Sequential()  # as PEFT's layers name what they wrap
    model.lm_head.base_layer = nn.Linear(16, VOCABULARY)
    with pytest.raises(UserError, match="an adapter changes the head of LlamaForCausalLM; leave the head out"):
        CollapseMonitor(model, [texts(2)])


# ------------------------------------------------------------------------------- what is left as it was


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_left_as_it_was(fails):
    model = llama(attention_dropout=0.3).train()
    model.model.layers[0].eval()  # frozen, say
    model.gradient_checkpointing_enable()
    model.config.use_cache = True
    model(input_ids=texts(2), labels=texts(2)).loss.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
    modes = [module.training for module in model.modules()]

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), [list(map(str, np.random.get_state()))]

    class Drawn:
        """Batches that draw from every generator, as a loader that shuffles may."""

        def __iter__(self):
            torch.rand(3), np.random.rand(3), random.random()
            yield texts(4)
            if fails:
                raise RuntimeError("the disk is gone")
            yield from DataLoader(texts(4), batch_size=2, shuffle=True)

    expected = measured_naively(llama(), [texts(4), texts(4)])
    before, monitor = states(), CollapseMonitor(model, Drawn())
    if fails:
        with pytest.raises(RuntimeError, match="the disk is gone"):
            monitor.measure()
    else:
        assert_alike(monitor.measure(), expected)
    assert states() == before
    assert [module.training for module in model.modules()] == modes
    assert {True, False} <= set(modes)
    assert model.config.use_cache
    assert model.is_gradient_checkpointing
    assert torch.is_grad_enabled()
    assert torch.is_autocast_cache_enabled()
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name])


def test_autocast_remembers_no_weights_of_before():
    model, batches = llama().float(), [texts(6)]
    with torch.autocast("cpu", torch.bfloat16):  # around a whole loop: autocast keeps rounded weights until it ends
        first = CollapseMonitor(model, batches).measure()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.sin(torch.arange(parameter.numel()).view_as(parameter))
        second = CollapseMonitor(model, batches).measure()
    with torch.autocast("cpu", torch.bfloat16):
        anew = CollapseMonitor(model, batches).measure()
    assert second["collapse/nc1_cdnv"] == anew["collapse/nc1_cdnv"] != first["collapse/nc1_cdnv"]


# ------------------------------------------------------------------------------------------------------- in a Trainer


class Snapshots(TrainerCallback):
    """Keeps the weights at each evaluation."""

    def __init__(self):
        self.weights = {}

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}


def trainer(folder, model, callbacks, evaluation=None, **settings):
    arguments = {"max_steps": 10, "eval_strategy": "steps", "eval_steps": 4, "logging_steps": 3, "save_strategy": "no"}
    arguments |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 3, "report_to": [], "use_cpu": True}
    arguments |= {"disable_tqdm": True, "learning_rate": 1e-2, "seed": 5} | settings
    return Trainer(
        model,
        TrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=rows(texts(30, seed=2)),
        eval_dataset=rows(texts(7)) if evaluation is None else evaluation,
        callbacks=callbacks,
    )


def logged(trainer, key="collapse/nc1_cdnv"):
    return [line for line in trainer.state.log_history if key in line]


def test_tensorboard_receives_every_measurement(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    snapshots = Snapshots()
    training = trainer(tmp_path, llama(), [CollapseCallback(), snapshots], report_to=["tensorboard"])
    training.train()
    assert list(snapshots.weights) == [4, 8, 10]  # the Trainer evaluates after its last step too
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            if tag.startswith("train/collapse/"):
                found.setdefault(event.step, {})[tag.removeprefix("train/")] = event.value
    lines = {line["step"]: line for line in logged(training)}
    assert list(found) == list(lines) == list(snapshots.weights)
    model = llama()
    for step, weights in snapshots.weights.items():
        model.load_state_dict(weights)
        values = {key: value for key, value in lines[step].items() if key.startswith("collapse/")}
        assert_alike(values, measured_naively(model, [texts(7)]))
        assert_alike(found[step], values | {"collapse/seconds": found[step]["collapse/seconds"]}, rtol=1e-6)  # float32
        features, classes = (torch.from_numpy(part) for part in features_and_classes(model, [texts(7)]))
        stats = ClassStatistics(VOCABULARY, 16)
        stats.update(features, classes)
        expected = measure_collapse(stats, model.lm_head.weight)
        assert_alike(values, {f"collapse/{key}": value for key, value in expected.items()}, rtol=1e-10)


class Losses(TrainerCallback):
    """Keeps what is logged, random states and all."""

    def __init__(self):
        self.lines = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs or "eval_loss" in logs:
            self.lines.append([logs.get(key) for key in ("loss", "eval_loss", "grad_norm", "learning_rate")])
            self.lines.append([torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_checkpointing": True, "bf16": True},
        # An epoch has 8 batches: its last step has two of them.
        {"gradient_accumulation_steps": 3, "eval_steps": 1, "max_steps": 7},
        {"dataloader_num_workers": 1, "eval_steps": 5},
        {"eval_strategy": "epoch", "eval_on_start": True},
    ],
)
def test_training_does_not_notice(tmp_path, settings):
    outcomes = []
    for callbacks in ([CollapseCallback(tokens=60)], []):
        losses, model = Losses(), llama(attention_dropout=0.2)
        training = trainer(tmp_path, model.float(), [*callbacks, losses], **settings)
        training.train()
        assert bool(logged(training)) == bool(callbacks)
        outcomes.append((model.state_dict(), losses.lines))
    for name, weights in outcomes[0][0].items():
        assert torch.equal(weights, outcomes[1][0][name])
    assert outcomes[0][1] == outcomes[1][1]
    assert len(outcomes[0][1]) > 4


def test_text_of_ones_own_and_evaluation_by_hand(tmp_path):
    other = [texts(4, seed=9)]
    training = trainer(tmp_path, llama(), [CollapseCallback(other, min_count=2)])
    metrics = training.evaluate()
    assert not any("collapse" in key for key in metrics)  # a search over hyperparameters would add them to the loss
    values = {key: value for key, value in logged(training)[0].items() if key.startswith("collapse/")}
    assert_alike(values, measured_naively(training.model, other, min_count=2))


def test_each_of_several_evaluation_sets_has_its_name(tmp_path):
    sets = {"stories": texts(5), "runtime_code": texts(6, seed=8)}
    evaluation = {name: rows(tokens) for name, tokens in sets.items()}
    training = trainer(tmp_path, llama(), [CollapseCallback()], evaluation)
    training.evaluate()
    training.evaluate(rows(texts(3)), metric_key_prefix="test")
    for name, tokens in {**sets, "test": texts(3)}.items():
        (line,) = logged(training, f"collapse/{name}/nc1_cdnv")
        expected = measured_naively(training.model, [tokens])["collapse/nc1_cdnv"]
        assert line[f"collapse/{name}/nc1_cdnv"] == pytest.approx(expected, rel=1e-9)
    assert not logged(training)


def test_a_callback_without_a_trainer_says_so():
    callback = CollapseCallback([texts(3)])
    with pytest.raises(RuntimeError, match=r"only in a transformers\.Trainer; otherwise use CollapseMonitor"):
        callback.on_evaluate(None, None, None, model=llama(), metrics={}, eval_dataloader=None)


def test_gpt2_with_a_tied_head(tmp_path):
    torch.manual_seed(0)
    config = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**config, bos_token_id=0, eos_token_id=0)).double()
    training = trainer(tmp_path, model, [CollapseCallback()])
    training.train()
    values = {key: value for key, value in logged(training)[-1].items() if key.startswith("collapse/")}
    assert_alike(values, measured_naively(model, [texts(7)]))


# ------------------------------------------------------------------------------------------------------- several ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes said, and the folder with their tensors."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    words = [*command, monitor_ranks.__file__, str(folder)]
    outcome = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return folder, [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", monitor_ranks.CASES)
def test_all_reduce_is_merge_on_every_rank(ranks, case):
    merged = monitor_ranks.share(0, case)
    merged.merge(monitor_ranks.share(1, case))
    expected = monitor_ranks.tensors(merged)
    for rank in (0, 1):
        got = torch.load(ranks[0] / f"{case}-{rank}.pt")
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(got[name], tensor), name
            assert got[name].dtype == tensor.dtype
    if case == "label out of range":
        with pytest.raises(ValueError, match="label 11 is out of range"):
            merged.counts  # noqa: B018


def test_all_reduce_refuses_other_shapes_on_every_rank(ranks):
    for said in ranks[1]:
        assert re.search(r"differ between ranks: \[\(9, 3, True.*\), \(10, 3, True.*\)\]", said["other shapes"])


def test_all_reduce_of_one_process_does_nothing():
    stats, same = monitor_ranks.share(0, "float64"), monitor_ranks.share(0, "float64")
    stats.all_reduce()
    before, after = monitor_ranks.tensors(same), monitor_ranks.tensors(stats)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("name", ["own shares", "prepared loader", "stream"])
def test_ranks_measure_the_whole_text(ranks, name):
    """13 texts, in shares of 7 and 6, or as accelerate deals them out, with some twice to make the shares equal."""
    alone = CollapseMonitor(llama(), [texts(13)]).measure()
    one, other = (said[name] for said in ranks[1])
    assert_alike(one, {key: value for key, value in other.items() if key != "collapse/seconds"}, rtol=0)
    assert_alike(one, {key: value for key, value in alone.items() if key != "collapse/seconds"}, rtol=1e-12)


def test_ranks_share_the_tokens_to_be_counted(ranks):
    tokens, said = texts(13), ranks[1]
    stats = ClassStatistics(VOCABULARY, 16)
    for part, number in ((tokens[0::2], 26), (tokens[1::2], 25)):
        features, classes = features_and_classes(llama(), [part])
        stats.update(torch.from_numpy(features[:number]), torch.from_numpy(classes[:number]))
    expected = measure_collapse(stats, llama().lm_head.weight)
    for line in said:
        assert_alike(line["limited"], {f"collapse/{key}": value for key, value in expected.items()}, rtol=1e-10)
        assert line["start of the stream"]["collapse/nc1_cdnv"] > 0  # a rank that has enough keeps no other waiting
        assert line["loaders in use"] == 0  # accelerate would take a loader left open for that of the training


def test_a_trainer_of_two_ranks(ranks):
    model = llama()
    one, other = (torch.load(ranks[0] / f"trained-{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    model.load_state_dict(one)
    for said in ranks[1]:
        assert [line["step"] for line in said["trainer"]] == [2, 4]
        values = {key: value for key, value in said["trainer"][-1].items() if key.startswith("collapse/")}
        assert_alike(values, measured_naively(model, [texts(13)]))


def test_a_wrapped_model_of_one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        wrapped = nn.DataParallel(DistributedDataParallel(llama()))
        assert_alike(CollapseMonitor(wrapped, [texts(6)]).measure(), measured_naively(llama(), [texts(6)]))
    finally:
        torch.distributed.destroy_process_group()

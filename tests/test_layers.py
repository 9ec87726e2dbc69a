"""Inner layers: their statistics, the logit lens, the law along them, and that nothing else changes by them."""

import math

import naive_collapse as naive
import numpy as np
import pytest
import torch
from model_samples import refusal, tiny
from test_families import FAMILIES, build
from torch import nn

from lcutils.collapse.catalogue import COUNTS, KEYS, MEASUREMENTS
from lcutils.collapse.layers import OF_HEAD, measure_layer, prediction_residual
from lcutils.errors import NotFiniteError, UserError
from lcutils.features import extraction
from lcutils.features.blocks import InnerLayers, find_blocks
from lcutils.features.extraction import extract_statistics
from lcutils.features.layers import LayerStatistics, find_inner_layers
from lcutils.features.models import FeatureModel, load_feature_model
from lcutils.features.sections import in_parts
from lcutils.features.statistics import ClassStatistics
from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.model import GPTNeo
from lcutils.runs import Architecture

VOCABULARY, LENGTH = 60, 16
KINDS = ["ours", "llama", "gemma2", "gpt_neox", "gpt2", "gemma3"]  # the last has its text nested


@pytest.fixture(scope="module")
def blocks():
    return np.random.default_rng(0).integers(5, VOCABULARY - 5, (23, LENGTH)).astype(np.uint16)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Checkpoints by kind, made when they are asked for."""
    folder = tmp_path_factory.mktemp("shelf")

    def find(kind):
        if not (folder / kind).exists():
            if kind == "ours":
                model = GPTNeo(Architecture(3, 32, VOCABULARY, window=4), 0)
                with torch.no_grad():
                    for parameter in model.transformer.h.parameters():
                        parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
                write_checkpoint(model, folder / kind)
            elif kind in ("gpt2", "gemma3"):
                build(kind, FAMILIES[kind]).save_pretrained(folder / kind)
            else:
                tiny(kind).save_pretrained(folder / kind)
        return folder / kind

    return find


def hidden_states(folder, tokens):
    """transformers' own: hidden_states[k] is the output of block k, but the last went through the final norm."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return theirs(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states


def streams_of(model, blocks, layers=None):
    """The residual stream at each layer, and the final features, of all blocks at once."""
    inner, kept = model.inner_layers(), {}
    with torch.no_grad():
        final = inner.features(
            torch.from_numpy(blocks.astype(np.int64)),
            lambda layer, stream: kept.update({layer: stream.clone()}),
            range(inner.depth + 1) if layers is None else layers,
        )
    return kept, final


def labelled(stream, blocks):
    """Features that have a next token, (N, D) float64, and these."""
    features = stream[:, :-1].reshape(-1, stream.shape[2]).double().numpy()
    return features, blocks[:, 1:].astype(np.int64).flatten()


def gathered(model, blocks, batch_size=4, layers=None, **options):
    inner = model.inner_layers()
    kinds = {key: options.pop(key) for key in ("norm", "covariance") if key in options}
    layers = range(inner.depth + 1) if layers is None else layers
    inside = LayerStatistics(inner, layers, len(model.classifier), **kinds)
    return extract_statistics(model, blocks, batch_size=batch_size, layers=inside, **options), inside


# ------------------------------------------------------------------------------------------------- what is captured


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_those_of_transformers(kind, shelf, blocks):
    model = load_feature_model(shelf(kind))
    kept, final = streams_of(model, blocks)
    tokens = torch.from_numpy(blocks.astype(np.int64))
    theirs = hidden_states(shelf(kind), tokens)
    assert list(kept) == list(range(len(theirs)))
    for layer, state in enumerate(theirs[:-1]):
        torch.testing.assert_close(kept[layer], state, rtol=1e-5, atol=1e-5, msg=f"{kind} {layer}")
    with torch.no_grad():
        assert torch.equal(final, model.features(tokens))
    torch.testing.assert_close(model.inner_layers().norm(kept[len(theirs) - 1]), theirs[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_layers_asked_for_are_captured(kind, shelf, blocks):
    model = load_feature_model(shelf(kind))
    kept, _ = streams_of(model, blocks, [0, 2])
    every, _ = streams_of(model, blocks)
    assert list(kept) == [0, 2]
    assert all(torch.equal(kept[layer], every[layer]) for layer in kept)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_layers_in_16_bits_keep_their_type_and_the_norm_is_exact(kind, shelf, blocks):
    model = load_feature_model(shelf(kind), precision="bf16")
    kept, final = streams_of(model, blocks)
    inner = model.inner_layers()
    assert {stream.dtype for stream in kept.values()} == {torch.bfloat16}
    assert torch.equal(inner.norm(kept[inner.depth]), final)


class Toy(nn.Module):
    """A model of two blocks, with other lists of two members in the way."""

    def __init__(self, order=(0, 1), inner=True):
        super().__init__()
        self.order = order
        self.gates = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))  # each called once, in order, on streams too
        self.blocks = nn.ModuleList(Block(inner) for _ in range(2))

    def forward(self, x):
        for number in self.order:
            x = self.blocks[number](self.gates[number](x))
        return x


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.halves = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.inner = inner

    def forward(self, x):
        for half in self.halves:
            x = x + half(x)
        return (x, None) if self.inner else x.sum(-1)


@pytest.mark.parametrize("wrapped", [True, False])
def test_of_several_lists_the_one_of_blocks_is_found(wrapped):
    class Unpacked(Toy):
        def forward(self, x):
            for gate, block in zip(self.gates, self.blocks, strict=True):
                x = block(gate(x))
                x = x[0] if isinstance(x, tuple) else x
            return x

    model = Unpacked()
    if not wrapped:
        for block in model.blocks:
            block.forward = lambda x, block=block: Block.forward(block, x)[0]
    found = find_blocks(model, 2, "toy", lambda: model(torch.zeros(1, 3, 4)), (1, 3))
    assert found == list(model.blocks)


@pytest.mark.parametrize("case", ["none", "backwards", "no stream", "turned", "another depth", "no depth", "shared"])
def test_blocks_that_cannot_be_found_are_one_line(case):
    model = Toy(order=(1, 0) if case == "backwards" else (0, 1), inner=False)
    for block in model.blocks:
        block.forward = (lambda x: x.sum(-1)) if case == "no stream" else (lambda x: x)
    del model.gates
    model.gates = [lambda x: x] * 2
    if case == "no stream":
        model.forward = lambda x: [block(x) for block in model.blocks]
    if case == "shared":  # one block, called twice
        model.blocks = nn.ModuleList([model.blocks[0]] * 2)
    depth = {"another depth": 3, "no depth": 0}.get(case, 2)
    shape = (3, 1) if case == "turned" else (1, 3)  # positions before texts
    asked = find_blocks, model, depth, "toy", lambda: model(torch.zeros(1, 3, 4)), shape
    if case == "none":
        assert asked[0](*asked[1:]) == list(model.blocks)
        return
    line = refusal(*asked)
    assert line.startswith("toy: the ")
    assert line.endswith("of Toy cannot be found, so its inner layers are not measured")


# ---------------------------------------------------------------------------------------- statistics and measurements


def twin(features, lens, labels, head):
    """Every measurement of a layer, by loops: of its features, and of the lens where the head takes part."""
    of_layer = naive.class_statistics(features, labels, VOCABULARY)
    values = naive.measurements(*of_layer, np.zeros_like(head))
    through = naive.measurements(*naive.class_statistics(lens, labels, VOCABULARY), head)
    of_head = {key for key in KEYS if key in MEASUREMENTS and MEASUREMENTS[key].property in OF_HEAD}
    return of_layer, {key: (through if key in of_head else values)[key] for key in KEYS}


@pytest.mark.filterwarnings("ignore:.*divide|.*invalid value")
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", ["ours", "llama"])
def test_measurements_of_layers_are_those_of_a_plain_computation(kind, norm, shelf, blocks):
    model = load_feature_model(shelf(kind))
    kept, _ = streams_of(model, blocks)
    _, inside = gathered(model, blocks, batch_size=len(blocks), norm=norm, covariance=True)
    inner, head = inside.inner, model.classifier.double().numpy()
    for layer, stream in kept.items():
        lens, labels = labelled(inner.norm(stream), blocks)
        features = lens if norm else labelled(stream, blocks)[0]
        (counts, means, variances, covariance), expected = twin(features, lens, labels, head)
        stats = inside.named[f"layer{layer}"]
        assert stats.counts.tolist() == counts.tolist()
        for ours, plain in ((stats.means, means), (stats.variances, variances), (stats.covariance, covariance)):
            np.testing.assert_allclose(ours.numpy(), plain, rtol=1e-9, atol=1e-9 * np.abs(plain).max())
        values = measure_layer(stats, inside.lens[layer], model.classifier)
        residuals = {key: values.pop(key) for key in ("prediction_residual", "prediction_residual_one_hot")}
        assert list(values) == list(KEYS)
        assert values == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert residuals == pytest.approx(plain_residuals(features, labels), rel=1e-9)


def test_without_covariances_what_needs_them_is_absent(shelf, blocks):
    model = load_feature_model(shelf("ours"))
    _, inside = gathered(model, blocks)
    values = measure_layer(inside.named["layer1"], inside.lens[1], model.classifier)
    assert set(KEYS) - set(values) == {"nc1_pinv"}
    assert set(values) <= set(KEYS)


def test_a_head_behind_a_projection_has_no_lens(shelf, blocks):
    model = load_feature_model(shelf("opt"))  # its head is given 24 of 32 features
    _, inside = gathered(model, blocks)
    assert inside.lens == {}
    values = measure_layer(inside.named["layer1"], None, model.classifier)
    assert {MEASUREMENTS[key].property for key in values if key not in COUNTS} == {"NC1", "NC2", "GNC2"}
    line = refusal(LayerStatistics, model.inner_layers(), [1], VOCABULARY, norm=True, name="opt")
    assert line.startswith("extraction.layers_norm: opt has no final norm right before its head")


def plain_residuals(features, labels):
    """Least squares by NumPy, of the number of the next token and of its indicators.

    A final LayerNorm leaves one direction in which features differ by rounding alone: it is cut off.
    """
    design = (features - features.mean(0)) / features.std(0)
    indicators = (labels[:, None] == np.unique(labels)).astype(float)

    def left(targets):
        targets = targets - targets.mean(0)
        fitted = design @ np.linalg.lstsq(design, targets, rcond=1e-5)[0]
        return ((targets - fitted) ** 2).sum() / (targets**2).sum()

    return {
        "prediction_residual": left(labels.astype(float)),
        "prediction_residual_one_hot": left(indicators),
    }


def of_draws(scale=1.0, dim=6, classes=9, shift=0.0):
    random = np.random.default_rng(3)
    labels = random.integers(0, classes, 400)
    features = (random.normal(size=(classes, dim))[labels] + random.normal(size=(400, dim))) * scale + shift
    stats = ClassStatistics(classes + 2, dim)
    stats.update(torch.from_numpy(features), torch.from_numpy(labels))
    return stats, features, labels


@pytest.mark.parametrize("scale", [1.0, np.array([1e-3, 1.0, 1e4, 1.0, 1.0, 50.0])])
def test_the_prediction_residual_is_that_of_least_squares(scale):
    stats, features, labels = of_draws(scale, shift=100.0)
    expected = plain_residuals(features / scale - 100.0, labels)
    assert 0.05 < expected["prediction_residual"] < 0.95
    assert prediction_residual(stats) == pytest.approx(expected, rel=1e-9)


def test_features_without_information_or_with_all_of_it():
    stats = ClassStatistics(3, 2)
    stats.update(torch.eye(3)[:, :2], torch.arange(3))  # three points of a plane: any numbers follow linearly
    assert prediction_residual(stats) == pytest.approx(
        {"prediction_residual": 0.0, "prediction_residual_one_hot": 0.0}, abs=1e-12
    )
    constant = ClassStatistics(3, 2)
    constant.update(torch.ones(6, 2), torch.arange(6) % 3)
    assert prediction_residual(constant) == {"prediction_residual": 1.0, "prediction_residual_one_hot": 1.0}
    single = ClassStatistics(3, 2)
    single.update(torch.randn(6, 2), torch.zeros(6, dtype=torch.int64))
    assert all(math.isnan(value) for value in prediction_residual(single).values())


# --------------------------------------------------------------------------------------- the same bits, killed or not


def sums(stats):
    return [stats._counts, stats._pivots, stats._totals, stats._squares, stats._scatter]


def assert_same_bits(ours, others):
    assert ours.keys() == others.keys()
    for name, stats in ours.items():
        for one, other in zip(sums(stats), sums(others[name]), strict=True):
            assert (one is None and other is None) or torch.equal(one, other), name


@pytest.mark.parametrize("kind", ["ours", "llama"])
def test_the_heads_statistics_keep_their_bits(kind, shelf, blocks):
    model = load_feature_model(shelf(kind))
    alone = extract_statistics(model, blocks, batch_size=4)
    beside, _ = gathered(model, blocks, covariance=True)
    assert_same_bits({"": beside}, {"": alone})


def interrupted(model, batches):
    """The same model, cut off after some batches."""
    calls, inner = iter(range(10**9)), model.inner_layers()

    def features(tokens, watch, watched):
        if next(calls) >= batches:
            raise KeyboardInterrupt
        return inner.features(tokens, watch, watched)

    cut = InnerLayers(features, inner.widths, inner.norm)
    return FeatureModel(model.features, model.classifier, model.identity, inner_layers=lambda: cut)


@pytest.mark.parametrize("options", [{}, {"norm": True, "covariance": True}])
def test_resumed_layers_have_the_same_bits(options, shelf, blocks, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SECONDS_BETWEEN_STATES", 0.0)
    model = load_feature_model(shelf("ours"))
    whole, inside = gathered(model, blocks, **options)
    with pytest.raises(KeyboardInterrupt):
        gathered(interrupted(model, 3), blocks, resume=tmp_path, **options)
    (state,) = tmp_path.glob("*.safetensors")
    assert state.name.startswith("statistics-000000000012-")
    again, resumed = gathered(interrupted(model, 3), blocks, resume=tmp_path, **options)
    assert_same_bits({"": again, **resumed.named}, {"": whole, **inside.named})


@pytest.mark.parametrize("lost", [False, True])
def test_layers_beside_parts_have_the_same_bits_whatever_file_is_lost(lost, shelf, blocks, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SECONDS_BETWEEN_STATES", 0.0)
    model = load_feature_model(shelf("ours"))
    text = np.concatenate([blocks] * 2)
    _, edges = in_parts(text, halve_first=True)
    whole, inside = gathered(model, text)
    with pytest.raises(KeyboardInterrupt):
        gathered(interrupted(model, 5), text, resume=tmp_path, edges=edges)
    if lost:  # without it the whole begins anew
        sorted(tmp_path.glob("section-00-*"))[0].unlink()
    again, resumed = gathered(model, text, resume=tmp_path, edges=edges)
    assert_same_bits({"": again, **resumed.named}, {"": whole, **inside.named})


def test_a_state_of_other_layers_is_not_continued(shelf, blocks, tmp_path):
    model = load_feature_model(shelf("ours"))
    extract_statistics(model, blocks, batch_size=4, resume=tmp_path)
    for layers in ([1], [1, 2]):
        _, inside = gathered(model, blocks, layers=layers, resume=tmp_path)
        _, expected = gathered(model, blocks, layers=layers)
        assert_same_bits(inside.named, expected.named)


def test_processes_that_share_the_text_gather_what_one_does(shelf, blocks, tmp_path):
    model = load_feature_model(shelf("ours"))
    one, alone = gathered(model, blocks, covariance=True)
    shares = {"covariance": True, "resume": tmp_path, "world": 2}
    with pytest.raises(UserError, match="is missing; extract again"):  # the first one, before the other has begun
        gathered(model, blocks, rank=0, **shares)
    for rank in (1, 0):
        shared, inside = gathered(model, blocks, rank=rank, **shares)
    assert torch.equal(shared.counts, one.counts)
    for name, stats in inside.named.items():
        assert torch.equal(stats.counts, alone.named[name].counts)
        for what in ("means", "variances", "covariance"):
            ours, theirs = getattr(stats, what), getattr(alone.named[name], what)
            # A batch of another size rounds features of float32 otherwise.
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_a_layer_that_overflows_is_reported(shelf, blocks):
    model = load_feature_model(shelf("ours"))
    inner = model.inner_layers()

    def features(tokens, watch, watched):
        def broken(layer, stream):
            watch(layer, torch.where(stream > 0, torch.inf, stream) if layer == 1 else stream)

        return inner.features(tokens, broken, watched)

    cut = InnerLayers(features, inner.widths, inner.norm)
    broken = FeatureModel(model.features, model.classifier, model.identity, inner_layers=lambda: cut)
    with pytest.raises(NotFiniteError):
        gathered(broken, blocks)


def test_an_unknown_layer_is_one_line(shelf):
    model = load_feature_model(shelf("llama"))
    line = refusal(LayerStatistics, model.inner_layers(), [1, 3, 9], VOCABULARY, name="llama")
    assert line == (
        "extraction.layers: llama has 2 blocks, so layers 0 to 2, and no layer 3; leave it out, or write all"
    )
    refusal(find_inner_layers, FeatureModel(lambda tokens: tokens, torch.zeros(3, 2)), "made")

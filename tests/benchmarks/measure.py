"""Speed and values of statistics, extraction and measurements, beside the released code on the same inputs.

    python tests/benchmarks/measure.py --reference NEURAL_COLLAPSE LINGUISTIC_COLLAPSE [--tokens train.npy]

NEURAL_COLLAPSE and LINGUISTIC_COLLAPSE are clones of rhubarbwu/neural-collapse and rhubarbwu/linguistic-collapse;
without them only ours is measured. `--tokens` is a (blocks, 2048) array of GPT-2 token ids: real labels, and text to
train the models on whose features are extracted at every precision. Each figure is the median of several runs on one
device, ours and theirs in this one process. Results go to `--out` as JSON lines, one as soon as it is known.

Shapes: K classes, D dimensions, N features.
"""

import argparse
import json
import platform
import statistics as numbers
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import released
import torch

from lcutils.collapse.agreement import AgreementCounter
from lcutils.collapse.measure import measure_collapse
from lcutils.collapse.tokens import measure_tokens
from lcutils.features.extraction import extract_agreement, extract_statistics
from lcutils.features.models import load_feature_model
from lcutils.features.statistics import ClassStatistics

VOCABULARY = 50257
SECTIONS = ("statistics", "pairs", "memory", "agreement", "growth", "extraction")
# What a precision may change, relative (the first) or absolute: the targets of tests/benchmarks/README.md.
RELATIVE = ("nc1_cdnv", "nc1_cdnv_log", "nc1_pinv", "nc2_norm_cov", "gnc2_log_mean", "gnc2_log_std", "nc3_cosine_mean")
ABSOLUTE = ("nc2_cosine_mean", "nc4_agreement")


class Report:
    """Writes each result at once, and the table at the end."""

    def __init__(self, path: Path) -> None:
        self.file, self.began = path.open("w"), time.perf_counter()

    def add(self, section: str, **values: object) -> None:
        """One result."""
        line = {"section": section, **values, "at": round(time.perf_counter() - self.began, 1)}
        print(json.dumps(line, default=float), file=self.file, flush=True)
        print("  ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()), flush=True)


def seconds(work, device: str, repeat: int = 5, warm: int = 1, inner: int = 1) -> float:
    """Median seconds of one call of `work`, the GPU waited for before and after `inner` calls."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(warm):
        work()
    wait()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        for _ in range(inner):
            work()
        wait()
        times.append((time.perf_counter() - began) / inner)
    return numbers.median(times)


def clustered(K: int, D: int, device: str) -> tuple[ClassStatistics, torch.Tensor]:
    """Statistics of K classes with two or three samples each (one in seven with one), and a head."""
    random = torch.Generator(device=device).manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, device=device)

    base = normal(64, D)[torch.randint(0, 64, (K,), generator=random, device=device)]
    means = 0.2 * base + 0.3 * normal(K, D) + normal(1, D)
    stats = ClassStatistics(K, D, device=device)
    labels = torch.arange(K, device=device)
    for turn in range(3):
        stats.update(means + 0.05 * normal(K, D), labels if turn == 0 else torch.where(labels % 7 == 0, -1, labels))
    return stats, 0.1 * normal(K, D)


def without_covariance(stats: ClassStatistics) -> ClassStatistics:
    """The same statistics, covariance left out."""
    bare = ClassStatistics(stats.num_classes, stats.dim, covariance=False, device=stats.device)
    for name in ("_counts", "_pivots", "_totals", "_squares"):
        setattr(bare, name, getattr(stats, name))
    return bare


def peak(work, device: str) -> float | None:
    """GiB allocated beyond what is there before `work` (CUDA only)."""
    if device != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def pairs(report: Report, device: str, theirs: bool) -> None:
    """measure_collapse beside analyze.py's measurements."""
    shapes = [(29233, 1024), (29233, 64)] if device == "cuda" else [(4000, 256), (2000, 64)]
    for K, D in shapes:
        stats, head = clustered(K, D, device)
        bare = without_covariance(stats)
        result = {"K": K, "D": D, "ours": seconds(lambda: measure_collapse(bare, head), device)}  # noqa: B023
        result["ours_with_pinv"] = seconds(lambda: measure_collapse(stats, head), device, 3)  # noqa: B023
        result["peak_gib"] = peak(lambda: measure_collapse(bare, head), device)  # noqa: B023
        result["tokens"] = seconds(lambda: measure_tokens(bare, head), device, 3)  # noqa: B023
        if theirs:
            means, variances, wide = stats.means, stats.variances, head.double()
            ours, values = measure_collapse(bare, head), []
            work = lambda: values.append(released.measurements(means, variances, wide))  # noqa: B023, E731
            result["released"] = seconds(work, device, 1 if D > 64 else 3, 0)
            result["ratio"] = result["released"] / result["ours"]
            result["differences"] = {key: abs(ours[key] / value - 1) for key, value in values[0].items()}
        report.add("pairs", **result)


def labels_of(tokens: np.ndarray | None, blocks: int, device: str) -> torch.Tensor:
    """Labels of some blocks: real ones, or Zipf's."""
    if tokens is not None:
        return torch.from_numpy(tokens[:blocks, 1:].astype(np.int64)).flatten().to(device)
    weights = 1 / (np.arange(29233) + 2.7)
    drawn = np.random.default_rng(0).choice(29233, blocks * 2047, p=weights / weights.sum())
    return torch.from_numpy(drawn).to(device)


def class_statistics(report: Report, device: str, theirs: bool, tokens: np.ndarray | None) -> None:
    """One update beside the two passes of the released accumulators, and the scatters that could have been."""
    for D, blocks in [(1024, 16), (768, 16), (64, 16), (64, 128)] if device == "cuda" else [(256, 2), (64, 2)]:
        labels = labels_of(tokens, blocks, device)
        batches = [torch.randn(len(labels), D, device=device) for _ in range(3)]
        inner = 20 if device == "cuda" else 1
        result = {"N": len(labels), "D": D, "C": VOCABULARY}
        for name, covariance in (("ours", False), ("ours_with_covariance", True)):
            stats = ClassStatistics(VOCABULARY, D, covariance=covariance, device=device)
            turn = iter(range(10**9))
            work = lambda: stats.update(batches[next(turn) % 3], labels)  # noqa: B023, E731
            result[name] = seconds(work, device, inner=inner)
        if device == "cuda":
            result["ours_on_the_gpu"] = _graphed(batches, labels)
        totals = torch.zeros(VOCABULARY, D, dtype=torch.float64, device=device)
        result["index_add_float64"] = seconds(lambda: totals.index_add_(0, labels, batches[0].double()), device)  # noqa: B023
        if theirs:
            code = released.Statistics(VOCABULARY, D, device)
            result["released_means"] = seconds(lambda: code.means(batches[0], labels), device, 2)  # noqa: B023
            result["released_variances"] = seconds(lambda: code.variances(batches[0], labels), device, 2)  # noqa: B023
            both = result["released_means"] + result["released_variances"]
            result["ratio"] = both / result["ours"]
        report.add("statistics", **result)


def _graphed(batches: list[torch.Tensor], labels: torch.Tensor) -> float | None:
    """Seconds of one update in a captured graph: what is left without Python's launches."""
    graph = torch.cuda.CUDAGraph()
    stats = ClassStatistics(VOCABULARY, batches[0].shape[1], covariance=False, device="cuda")
    stats.update(batches[0], labels)
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph):
            for batch in batches:
                stats.update(batch, labels)
    except RuntimeError:
        return None
    return seconds(graph.replay, "cuda", inner=5) / len(batches)


def agreement(report: Report, device: str, theirs: bool) -> None:
    """Decisions for the paper's validation set, ours over all its tokens, the released ones scaled up."""
    K, total = (29233, 4_700_000) if device == "cuda" else (4000, 20_000)
    rows = 1 << 17 if device == "cuda" else 2000
    for D in (1024, 768, 64) if device == "cuda" else (256,):
        random = torch.Generator(device=device).manual_seed(0)
        head = 0.1 * torch.randn(K, D, generator=random, device=device)
        means = 0.35 * torch.randn(K, D, generator=random, device=device) + 0.5
        keep = torch.ones(K, dtype=torch.bool, device=device)
        labels = torch.randint(0, K, (rows,), generator=random, device=device)
        batches = [means[labels] + torch.randn(rows, D, generator=random, device=device) for _ in range(3)]
        counter = AgreementCounter(head, means, keep)
        counter.update(batches[0], labels)

        def everything() -> None:
            for start in range(0, total, rows):
                counter.update(batches[start // rows % 3], labels)  # noqa: B023

        result = {"N": total, "K": K, "D": D, "ours": seconds(everything, device, 3, 0)}
        exact = AgreementCounter(head, means, keep)
        some = batches[0][: min(rows, 8192)]
        exact.update(some, labels[: len(some)])
        wide = some.double()
        linear = torch.cat([(x @ head.double().T).argmax(1) for x in wide.split(1024)])
        halves = means.double().square().sum(1) / 2
        nearest = torch.cat([(x @ means.double().T - halves).argmax(1) for x in wide.split(1024)])
        hits = torch.zeros(K, dtype=torch.int64, device=device)
        hits.index_add_(0, labels[: len(some)], (linear == nearest).long())
        result["classes_whose_hits_differ_from_float64"] = int((hits != exact.result()[0]).sum())
        if theirs:
            code = released.Statistics(K, D, device)
            code.means(means.repeat(3, 1), torch.arange(K, device=device).repeat(3))
            few = min(rows, 2048)
            took = seconds(lambda: code.decisions(batches[0][:few], labels[:few], head), device, 2)  # noqa: B023
            result["released"] = took * total / few
            result["ratio"] = result["released"] / result["ours"]
        report.add("agreement", **result)


def growth(report: Report, device: str, theirs: bool) -> None:
    """How time grows with K and D (measurements) and with N (statistics)."""
    cuda = device == "cuda"
    for D in (64, 256, 1024) if cuda else (64, 256):
        for K in (1000, 4000, 16000, 50257) if cuda else (500, 1000, 2000, 4000):
            stats, head = clustered(K, D, device)
            bare = without_covariance(stats)
            report.add("growth", K=K, D=D, ours=seconds(lambda: measure_collapse(bare, head), device, 3))  # noqa: B023
    for power in range(12, 19 if cuda else 16, 2):
        labels = labels_of(None, 2 ** max(power - 11, 0), device)
        features = torch.randn(len(labels), 256, device=device)
        stats = ClassStatistics(VOCABULARY, 256, covariance=False, device=device)
        took = seconds(lambda: stats.update(features, labels), device, inner=5)  # noqa: B023
        report.add("growth", N=len(labels), D=256, update=took)


def memory(report: Report, device: str) -> None:
    """Peak memory of all measurements at the whole vocabulary, beyond statistics and head."""
    if device != "cuda":
        return
    stats, head = clustered(VOCABULARY, 1024, device)
    report.add("memory", K=VOCABULARY, D=1024, peak_gib=peak(lambda: measure_collapse(stats, head), device))
    report.add("memory", K=VOCABULARY, D=1024, tokens_peak_gib=peak(lambda: measure_tokens(stats, head), device))


def extraction(report: Report, device: str, theirs: bool, tokens: np.ndarray | None, models: list[str]) -> None:
    """Extraction end to end at each precision, and what each does to the measurements of a trained model."""
    from lcutils.runs import Architecture, Recipe
    from lcutils.training.loop import train

    if tokens is None:
        return
    cuda = device == "cuda"
    train_blocks, validation = tokens[:-64], tokens[-64:]
    for model in models:
        depth, width = map(int, model.split("x"))
        architecture = Architecture(depth, width, VOCABULARY)
        sequences, fed, measured = {12: (16, 256, 256), 2: (32, 512, 512)}.get(depth, (128, 2048, 1024))
        folder = Path(tempfile.mkdtemp())
        steps = 300 if cuda else 20
        batch_size = 4 if depth > 8 else 16
        recipe = Recipe(1, batch_size, learning_rate=5e-4, autocast="bf16" if cuda else "fp32")
        began = time.perf_counter()
        train(architecture, recipe, train_blocks[: steps * recipe.batch_size], validation[:8], folder, device=device)
        report.add("training", model=model, seconds=time.perf_counter() - began)
        reference: dict[str, float] = {}
        for precision in ("fp32", "tf32", "fp16", "bf16") if cuda else ("fp32", "bf16"):
            began = time.perf_counter()
            features = load_feature_model(folder / "checkpoint-0", precision=precision, device=device, tokens=10**9)
            slow = precision == "fp32" and depth > 8
            blocks = train_blocks[: fed // 4 if slow else fed]
            common = {"batch_size": min(sequences, len(blocks)), "device": device}
            few = blocks[: common["batch_size"]]
            result: dict[str, object] = {"model": model, "precision": precision}
            extract_statistics(features, few, **common)  # compiles
            result["compile_seconds"] = time.perf_counter() - began
            stay = torch.from_numpy(few.astype(np.int32)).to(device)
            with torch.no_grad():
                bare = seconds(lambda: features.features(stay), device, 3, inner=max(len(blocks) // len(few), 1))  # noqa: B023
            result["forward_tokens_per_second"] = stay.numel() / bare
            for name, covariance in (("tokens_per_second", False), ("with_covariance", True)):
                work = lambda: extract_statistics(features, blocks, covariance=covariance, **common)  # noqa: B023, E731
                result[name] = blocks.size / seconds(work, device, 2 if slow else 3, 0)
            stats = extract_statistics(features, train_blocks[:measured], **common)
            values = measure_collapse(stats, features.classifier)
            counter = AgreementCounter(features.classifier, stats.means, stats.counts > 0)
            hits, totals = extract_agreement(features, validation, counter, **common)
            values["nc4_agreement"] = float(hits.sum() / totals.sum())
            reference = reference or values
            result["K"] = values["n_classes"]
            result["relative"] = {key: abs(values[key] / reference[key] - 1) for key in RELATIVE}
            result["absolute"] = {key: abs(values[key] - reference[key]) for key in ABSOLUTE}
            report.add("extraction", **result)
        if theirs and cuda:
            _released_extraction(report, folder, train_blocks, model, device)


@torch.no_grad()
def _released_extraction(report: Report, folder: Path, blocks: np.ndarray, model: str, device: str) -> None:
    config = json.loads((folder / "checkpoint-0" / "config.json").read_text())
    network, head = released.stripped_model(config, device)
    code = released.Statistics(*head.shape, device)
    batch = torch.from_numpy(blocks[:8].astype(np.int64)).to(device)
    labels = batch[:, 1:].flatten()

    def both() -> None:
        for collect in (code.means, code.variances):
            collect(network(batch).logits[:, :-1].flatten(0, 1), labels)

    report.add("extraction", model=model, released_tokens_per_second=batch.numel() / seconds(both, device, 2))


def main() -> None:
    """Run the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, nargs="*", default=[], help="clones of the authors' two repositories")
    parser.add_argument("--tokens", type=Path, help=".npy of (blocks, 2048) GPT-2 token ids")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--only", nargs="*", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--models", nargs="*", default=["12x1024", "2x768", "1x64"], help="depth x width")
    parser.add_argument("--out", type=Path, default=Path("measure.jsonl"))
    options = parser.parse_args()
    theirs = released.use(options.reference)
    tokens = np.load(options.tokens, mmap_mode="r") if options.tokens else None
    report = Report(options.out)
    chip = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads of a CPU"
    report.add("machine", device=chip, torch=torch.__version__, python=platform.python_version())
    runs = {
        "pairs": lambda: pairs(report, options.device, theirs),
        "statistics": lambda: class_statistics(report, options.device, theirs, tokens),
        "agreement": lambda: agreement(report, options.device, theirs),
        "growth": lambda: growth(report, options.device, theirs),
        "memory": lambda: memory(report, options.device),
        "extraction": lambda: extraction(report, options.device, theirs, tokens, options.models),
    }
    for section in options.only:
        try:
            runs[section]()
        except Exception as error:  # the other sections are worth their device time
            report.add(section, failed=repr(error)[:300])
            print(f"{section} failed: {error!r}", file=sys.stderr)
        if options.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

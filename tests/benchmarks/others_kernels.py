"""Our loss of the head and our AdamW beside the kernels of others, at the sizes of three models.

    pip download --no-deps cut-cross-entropy liger-kernel    # and unpack the wheels into a folder
    python tests/benchmarks/others_kernels.py --reference FOLDER [--out others-kernels.jsonl]

The loss: forwards and both gradients of one batch in bf16, cut-cross-entropy's and Liger's fused kernels against
`lcutils.gptneo.loss.head_loss`; errors of the gradients against fp64, over the first tokens of the batch. AdamW:
`torch.optim.AdamW`'s fused, capturable update of one flat tensor and a copy of it in bf16, against ours, which writes
both at once. Medians of seven rounds in which all take turns. `--small` is a try of ours alone, on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCABULARY = 50_257
SIZES = {"1x64": (64, 32_768, 3_400_000), "2x768": (768, 32_768, 54_350_000), "12x1024": (1024, 8_192, 204_700_000)}
CHECKED = 2_048  # tokens of which the gradients are compared


def losses(h: Tensor, head: Tensor, labels: Tensor) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Each kernel as a function that returns both gradients of the mean loss, (N, D) and (V, D)."""
    from lcutils.gptneo.loss import head_loss, padded_vocabulary

    V, D = head.shape
    padded = torch.zeros(padded_vocabulary(V), D, dtype=head.dtype, device=head.device)
    padded[:V] = head
    grad_head = torch.empty(padded.shape, device=head.device)
    scale = torch.tensor(1.0 / len(labels), device=head.device)

    def ours() -> tuple[Tensor, Tensor]:
        _, grad_h = head_loss(h, padded, labels, scale, V, grad_head)
        return grad_h, grad_head[:V]

    def theirs(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        x, w = h.detach().requires_grad_(), head.detach().requires_grad_()
        loss(x, w).backward()
        assert x.grad is not None
        assert w.grad is not None
        return x.grad, w.grad

    if not h.is_cuda:
        return {"ours": ours}
    from cut_cross_entropy import linear_cross_entropy
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    long = labels.long()
    liger = LigerFusedLinearCrossEntropyFunction.apply
    return {
        "ours": ours,
        "cut-cross-entropy": lambda: theirs(lambda x, w: linear_cross_entropy(x, w, long)),
        "cut-cross-entropy, all gradients": lambda: theirs(
            lambda x, w: linear_cross_entropy(x, w, long, filter_eps=None)
        ),
        "Liger": lambda: theirs(lambda x, w: liger(x, w, long)[0]),
        "Liger, fp32 sums": lambda: theirs(
            lambda x, w: liger(x, w, long, None, None, -100, 0.0, 0.0, "mean", None, False, torch.float32)[0]
        ),
    }


def updates(size: int, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Each way to update a flat tensor of parameters and its copy in bf16."""
    from lcutils.gptneo.trunk import compiled
    from lcutils.training.optimizer import _adamw

    values, grads, first = (torch.randn(size, device=device) for _ in range(3))
    second, compute = torch.rand(size, device=device), torch.zeros(size, device=device, dtype=torch.bfloat16)
    one, rate = torch.ones((), device=device), torch.full((), 1e-4, device=device)
    count = torch.full((), 3.0, device=device, dtype=torch.float64)
    parameter = torch.nn.Parameter(values.clone())
    parameter.grad = grads
    optimizer = torch.optim.AdamW([parameter], lr=rate, weight_decay=5e-4, fused=True, capturable=device.type == "cuda")

    def theirs() -> None:
        optimizer.step()
        compute.copy_(parameter.detach())

    update = compiled(_adamw) if device.type == "cuda" else _adamw
    scalars = (one, rate, count, size - size // 100, 5e-4, (0.9, 0.999), 1e-8)
    return {"ours": lambda: update(values, grads, first, second, compute, *scalars), "torch, and a copy": theirs}


def medians(ways: dict[str, Callable[[], Any]], device: torch.device, rounds: int, calls: int) -> dict[str, float]:
    """Milliseconds of one call of each, in rounds in which all take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first compiles
        for name, way in ways.items():
            _wait(device)
            began = time.perf_counter()
            for _ in range(calls):
                way()
            _wait(device)
            if number:
                times[name].append((time.perf_counter() - began) / calls * 1e3)
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def errors(h: Tensor, head: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Relative errors of both gradients against fp64, over a part of the batch."""
    x, w = h[:CHECKED].double(), head.double()
    p = torch.softmax(x @ w.T, 1)
    p[torch.arange(len(x)), labels[:CHECKED].long()] -= 1.0
    exact = (p @ w / len(x), p.T @ x / len(x))
    return {
        name: [float((a.double() - b).norm() / b.norm()) for a, b in zip(way(), exact, strict=True)]
        for name, way in losses(h[:CHECKED].contiguous(), head, labels[:CHECKED].contiguous()).items()
    }


def main() -> None:
    """Compare, print a line for each size, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="folder of the unpacked wheels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("others-kernels.jsonl"))
    options = parser.parse_args()
    sys.path.append(str(options.reference))
    device = torch.device("cpu" if options.small else "cuda")
    for model, (width, tokens, size) in SIZES.items():
        vocabulary = VOCABULARY
        if options.small:
            width, tokens, size, vocabulary = min(width, 64), 64, 1_000, 300
        generator = torch.Generator(device).manual_seed(0)
        h = torch.randn(tokens, width, device=device, generator=generator).bfloat16()
        head = (0.02 * torch.randn(vocabulary, width, device=device, generator=generator)).bfloat16()
        labels = torch.randint(0, vocabulary, (tokens,), device=device, generator=generator).int()
        found: dict[str, Any] = {"model": model, "errors": errors(h, head, labels)}
        found["loss_ms"] = medians(losses(h, head, labels), device, options.rounds, 1 if options.small else 10)
        found["adamw_ms"] = medians(updates(size, device), device, options.rounds, 1 if options.small else 20)
        print(json.dumps(found), flush=True)
        with options.out.open("a") as file:
            print(json.dumps(found), file=file)


if __name__ == "__main__":
    main()

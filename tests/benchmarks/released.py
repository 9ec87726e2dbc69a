"""The released code's own functions behind plain calls, from clones that the user points at.

Nothing of it is copied here: `use` puts working trees of rhubarbwu/neural-collapse and rhubarbwu/linguistic-collapse
on the module path, and the functions below call them as the authors' analyze.py and lib/collection.py do.
"""

import sys
from pathlib import Path

import torch


def use(paths: list[Path]) -> bool:
    """Make the clones importable; False without them."""
    for path in paths:
        if not path.is_dir():
            raise SystemExit(f"error: {path}: there is no such folder; give clones of the authors' two repositories")
        sys.path.append(str(path))
    return bool(paths)


def measurements(means, variances, head, tile=1024):
    """What analyze.py computes of class means: its measurements under our keys."""
    from neural_collapse.kernels import kernel_grid, log_kernel
    from neural_collapse.measure import (
        interference_grid,
        mean_norms,
        self_duality_error,
        similarities,
        simplex_etf_error,
        variability_cdnv,
    )
    from neural_collapse.util import symm_reduce

    def over_pairs(grid):  # lib/statistics.py, triu_stats
        mean = symm_reduce(grid)
        return float(mean), float(symm_reduce(grid, lambda row: ((row - mean) ** 2).sum())) ** 0.5

    centre = means.mean(0)
    values = {"nc1_cdnv": variability_cdnv(variances, means, 2, tile)}
    values["nc2_log_norm_std"] = float(mean_norms(means, centre, [torch.log]).std())
    over_pairs(interference_grid(means, centre))  # products of October's code, not cosines: timed, not compared
    values["nc2_etf_error"] = simplex_etf_error(means, centre)
    values["gnc2_log_mean"], values["gnc2_log_std"] = over_pairs(kernel_grid(means, centre, log_kernel, tile))
    values["nc3_duality_error"] = self_duality_error(head, means.to(head.dtype), centre.to(head.dtype))
    values["nc3_cosine_mean"] = float(similarities(head, means, centre, True).mean())
    return values


class Statistics:
    """The two passes over train and the one over validation of lib/collection.py."""

    def __init__(self, classes: int, dim: int, device: str) -> None:
        from lib.collapse import CollapseStatistics

        self.stats = CollapseStatistics(classes, dim, device, verbose=False)

    def means(self, features, labels):
        """First pass over one batch."""
        self.stats.collect_mean_totals(features, labels)

    def variances(self, features, labels):
        """Second pass over one batch. The check against exceeding the first pass is told that there is room."""
        self.stats.vars_accum.ns_samples.zero_()
        self.stats.collect_vars_totals(features, labels)

    def decisions(self, features, labels, head):
        """Third pass over one batch."""
        self.stats.decs_accum.ns_samples.zero_()
        self.stats.collect_decs_hits(features, labels, head)


def stripped_model(config, device):
    """transformers' eager GPT-Neo with its head replaced by the identity (lib/model.py), and the head's rows."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    model = GPTNeoForCausalLM(GPTNeoConfig(**config, attn_implementation="eager")).to(device).eval()
    head = model.lm_head.weight.detach().clone()
    model.lm_head = torch.nn.Identity()
    return model, head

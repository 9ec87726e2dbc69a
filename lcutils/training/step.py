"""One training step: a batch's loss and gradients, then the update; on CUDA both replayed as graphs.

Shapes: B sequences of the global batch, b of them on this rank, S positions, D width, P padded vocabulary.

Everything a step needs is on the device: the tokens, the epoch's order, the counters, the learning rate. The host
only launches. A batch that is not full (the epoch's last) is filled up with sequences that predict nothing, so that
every step has one shape.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lcutils.devices import tf32
from lcutils.features.batches import as_int32, next_tokens
from lcutils.gptneo.determinism import add_rows
from lcutils.gptneo.loss import head_loss
from lcutils.gptneo.trunk import compiled, run_trunk
from lcutils.ranks import sum_over_ranks
from lcutils.training.optimizer import ClippedAdamW, FlatParameters

WARM_UP_STEPS = 2  # steps before the capture: compilation, and the workspaces of libraries


def epoch_order(seed: int, epoch: int, blocks: int) -> np.ndarray:
    """(blocks,) the order in which an epoch visits the train blocks: a permutation drawn from (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(blocks)


def _load_batch(
    order: Tensor, position: Tensor, blocks: Tensor, head: Tensor, positions: Tensor, rank: int, world: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """This rank's part of the batch: tokens, labels (b, S), one over all ranks' predictions, embeddings (b, S, D)."""
    rows = order.index_select(0, position.view(1))[0]  # (B,)
    predictions = (rows >= 0).sum() * (blocks.shape[1] - 1)
    rows = rows[rank::world]  # (b,)
    tokens = as_int32(blocks.index_select(0, rows.clamp(min=0)))  # (b, S)
    labels = torch.where(rows[:, None] >= 0, next_tokens(tokens), -1)
    return tokens, labels, 1.0 / predictions, F.embedding(tokens, head) + positions[: tokens.shape[1]]


class TrainingStep:
    """The step of one model over one set of blocks.

    Args:
        parameters: the model's flat tensors.
        optimizer: reads their gradients.
        blocks: (n, S) from `blocks_on_device`.
        batch_size: B, over all ranks.
        learning_rate: at the first step; it falls linearly to 0 at `total_steps`.
        total_steps: of the whole run.
        history: how many steps' losses and gradient norms are kept on the device until `fetch`.
        rank, world: this process and how many share the batch; gradients are summed over them.
        compile_step: by torch.compile, on CUDA only.
        capture: replay the step as graphs from its third run on; on CUDA only.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        optimizer: ClippedAdamW,
        blocks: Tensor,
        *,
        batch_size: int,
        learning_rate: float,
        total_steps: int,
        history: int,
        rank: int = 0,
        world: int = 1,
        compile_step: bool = False,
        capture: bool = True,
    ) -> None:
        device = blocks.device
        self.compile_step, self.capture = compile_step, capture
        self.parameters, self.optimizer, self.blocks = parameters, optimizer, blocks
        self.learning_rate, self.total_steps, self.rank, self.world = learning_rate, total_steps, rank, world
        self.batch_size = -(-batch_size // world) * world  # filled up so that every rank has as many sequences
        self.weights, self.leaves, self.targets = parameters.trunk_leaves()
        steps_per_epoch = -(-len(blocks) // batch_size)
        self.order = torch.full((steps_per_epoch, self.batch_size), -1, dtype=torch.long, device=device)
        self.step = torch.zeros((), dtype=torch.long, device=device)  # in the run
        self.position = torch.zeros((), dtype=torch.long, device=device)  # in the epoch
        self.loss = torch.zeros((), device=device)
        self.history = torch.zeros(history, 2, device=device)  # loss, gradient norm; a ring by step
        self.done = self.fetched = 0  # steps made, and steps that `fetch` has returned, as the host counts them
        self._warm = 0
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def start_epoch(self, permutation: np.ndarray, batch_size: int, position: int) -> None:
        """Set the order of the epoch's blocks and the step in it to go on from."""
        rows = np.full((len(self.order), self.batch_size), -1, np.int64)
        full = np.full(len(self.order) * batch_size, -1, np.int64)
        full[: len(permutation)] = permutation
        rows[:, :batch_size] = full.reshape(-1, batch_size)
        self.order.copy_(torch.from_numpy(rows))
        self.position.fill_(position)

    def start_at(self, step: int) -> None:
        """Set the counters of a resumed run."""
        self.done = self.fetched = step
        self.step.fill_(step)

    @property
    def is_ready(self) -> bool:
        """True once steps run at their full speed: on CUDA the first ones compile, and are captured."""
        warm = bool(self._graphs) if self.capture else self._warm >= WARM_UP_STEPS
        return warm or not self.blocks.is_cuda

    def run(self) -> None:
        """Make one step; its loss waits on the device for `fetch`."""
        if self._graphs:
            self._graphs[0].replay()
            self._reduce()
            self._graphs[1].replay()
        elif self.blocks.is_cuda and self.capture:
            self._warm_up_or_capture()
        else:
            self._warm += 1
            self._gradients()
            self._reduce()
            self._update()
        self.done += 1

    def fetch(self) -> np.ndarray:
        """(k, 2): loss and gradient norm of the steps since the last call. Waits for the device."""
        slots = torch.arange(self.fetched, self.done) % len(self.history)
        self.fetched = self.done
        return self.history.cpu()[slots].numpy().astype(np.float64)

    def _warm_up_or_capture(self) -> None:
        """Make a step on a stream of its own; after `WARM_UP_STEPS` steps, capture it as two graphs first."""
        self._warm += 1
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            if self._warm <= WARM_UP_STEPS:
                self._gradients()
                self._reduce()
                self._update()
        torch.cuda.current_stream().wait_stream(stream)
        if self._warm <= WARM_UP_STEPS:
            return
        for part in (self._gradients, self._update):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                part()
            self._graphs.append(graph)
        self._graphs[0].replay()
        self._reduce()
        self._graphs[1].replay()

    def _gradients(self) -> None:
        flat = self.parameters
        load = compiled(_load_batch) if self.compile_step else _load_batch
        tokens, labels, scale, x = load(
            self.order,
            self.position,
            self.blocks,
            flat.head(flat.values),
            flat.positions(flat.values),
            self.rank,
            self.world,
        )
        x.requires_grad_()
        with tf32(False):
            architecture = flat.model.architecture
            shape = architecture.heads, architecture.window
            h = run_trunk(x, self.weights, *shape, flat.compute.dtype, compile_blocks=self.compile_step)  # (b, S, D)
            loss, grad_h = head_loss(
                h.detach().flatten(0, 1),
                flat.head(flat.compute),
                labels.flatten(),
                scale,
                flat.vocab_size,
                flat.head(flat.grads),
            )
            self.loss.copy_(loss)
            grads = torch.autograd.grad(h, [x, *self.leaves], grad_h.view_as(h))
        # The token embedding is the head too: its gradient as an embedding is added to that as a head.
        add_rows(flat.head(flat.grads), tokens.flatten(), grads[0].flatten(0, 1))
        torch.sum(grads[0], 0, out=flat.positions(flat.grads)[: tokens.shape[1]])
        # One kernel copies many tensors only if their dtypes agree.
        for dtype in {gradient.dtype for gradient in grads}:
            pairs = [(target, g) for target, g in zip(self.targets, grads[1:], strict=True) if g.dtype == dtype]
            torch._foreach_copy_([target for target, _ in pairs], [g for _, g in pairs])

    def _reduce(self) -> None:
        if self.world > 1:
            sum_over_ranks(self.parameters.grads)
            sum_over_ranks(self.loss)

    def _update(self) -> None:
        fraction = self.step.double() / self.total_steps
        norm = self.optimizer.step(self.learning_rate * (1.0 - fraction), self.step, self.compile_step)
        self.history.index_copy_(0, (self.step % len(self.history)).view(1), torch.stack([self.loss, norm])[None])
        self.step += 1
        self.position += 1

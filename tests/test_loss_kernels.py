"""The CUDA kernels of the loss against F.cross_entropy in float64: on a GPU, or in Triton's interpreter without one."""

import os

import pytest
import torch
import torch.nn.functional as F

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="Triton is not installed: the kernels of the CUDA path cannot run")

from triton_bounds import check_bounds  # noqa: E402

from lcutils.gptneo import loss_kernels as kernels  # noqa: E402
from lcutils.gptneo.loss import padded_vocabulary  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
TOLERANCE = 2e-2 if CUDA else 1e-5  # the interpreter has no bf16 product, so it gets fp32


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """What the kernels need that the CPU, or Triton's interpreter with a new NumPy, lacks."""
    if CUDA:
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)  # int() of an array with one element is an error from NumPy 2.4 on
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    check_bounds(monkeypatch)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
    monkeypatch.setattr(torch, "mm", lambda a, b, out_dtype, out: out.copy_(a @ b))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double().cpu() - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("way", "tokens", "width", "vocabulary", "scale"),
    [
        ("in_place_head_loss", 40, 24, 90, 1.0),
        ("in_place_head_loss", 6, 32, 9000, 0.2),  # a row of logits takes two tiles
        ("in_place_head_loss", 5, 256, 9000, 3.0),  # a loss beyond 88 nats, where sums need the maximum
        ("in_place_head_loss", 3, 16, 8192, 9.0),  # a vocabulary of whole tiles
        ("fused_head_loss", 130, 16, 200, 0.2),  # within the bound: exp without subtracting a maximum
        ("fused_head_loss", 70, 32, 300, 8.0),  # beyond it
        ("fused_head_loss", 20, 64, 128, 0.5),  # a vocabulary of whole tiles
        ("fused_head_loss", 1, 128, 129, 1.0),
    ],
)
def test_loss_and_gradients(way, tokens, width, vocabulary, scale):
    random = torch.Generator().manual_seed(tokens)
    dtype = torch.bfloat16 if CUDA else torch.float32
    head = torch.zeros(padded_vocabulary(vocabulary), width)
    head[:vocabulary] = scale * torch.randn(vocabulary, width, generator=random)
    head, h = head.to(dtype), torch.randn(tokens, width, generator=random).to(dtype)
    labels = torch.randint(0, vocabulary, (tokens,), generator=random, dtype=torch.int32)
    labels[1::4] = -1
    labels[0] = vocabulary - 1
    x, w = h.double().requires_grad_(), head[:vocabulary].double().requires_grad_()
    logits = x @ w.T
    if way == "in_place_head_loss":  # it keeps them in the dtype of h: bf16 moves a logit of 200 by up to a half
        logits = logits + (logits.to(dtype).double() - logits).detach()
    expected = F.cross_entropy(logits, labels.long(), ignore_index=-1)
    expected.backward()

    inverse = 1.0 / (labels >= 0).sum()
    h, head, labels, inverse = (t.to(DEVICE) for t in (h, head, labels, inverse))
    grad_head = torch.full(head.shape, torch.nan, device=DEVICE)
    loss, grad_h = getattr(kernels, way)(h, head, labels, inverse, vocabulary, grad_head)
    assert float(loss) == pytest.approx(expected.item(), rel=TOLERANCE)
    assert relative(grad_h, x.grad) < TOLERANCE
    assert relative(grad_head[:vocabulary], w.grad) < TOLERANCE
    assert (grad_head[vocabulary:] == 0).all()
    assert (grad_h[labels < 0] == 0).all()

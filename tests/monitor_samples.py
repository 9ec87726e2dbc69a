"""Tiny models and texts for the tests of the monitor, and its measurements by loops over positions and plain NumPy."""

import naive_collapse as naive
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
VOCABULARY = 37


def llama(seed=0, **settings):
    """A Llama of two layers in float64: features do not depend on how a batch is put together, up to 1e-15."""
    torch.manual_seed(seed)
    config = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1}
    return LlamaForCausalLM(
        LlamaConfig(**config | {"eos_token_id": 2, "tie_word_embeddings": False} | settings)
    ).double()


def texts(number, length=24, seed=1):
    """(number, length) token ids."""
    return torch.randint(VOCABULARY, (number, length), generator=torch.Generator().manual_seed(seed))


def rows(tokens):
    """The texts as a dataset of the Trainer has them."""
    return [{"input_ids": row, "labels": row.clone()} for row in tokens]


def features_and_classes(model, batches):
    """All counted features and their classes, position by position: (N, D) float64 and (N,)."""
    found, classes = [], []
    for batch in batches:
        batch = {"input_ids": batch} if isinstance(batch, torch.Tensor) else dict(batch)
        labels, mask = batch.pop("labels", None), batch.get("attention_mask")
        with torch.no_grad():
            output = model.eval()(**batch, use_cache=False, output_hidden_states=True)  # as it is trained
            hidden = output.hidden_states[-1].double().numpy()
        for b, row in enumerate(batch["input_ids"].tolist()):
            for t in range(len(row) - 1):
                masked = mask is not None and 0 in mask[b, t : t + 2].tolist()
                if not masked and (labels is None or labels[b, t + 1] != -100):
                    found.append(hidden[b, t])
                    classes.append(row[t + 1])
    return np.array(found), np.array(classes)


def measured_naively(model, batches, tokens=None, min_count=1):
    """What the monitor should say, without its seconds."""
    features, classes = (part[:tokens] for part in features_and_classes(model, batches))
    head = model.get_output_embeddings().weight.detach()
    statistics = naive.class_statistics(features, classes, len(head))
    values = naive.measurements(*statistics, head.double().numpy(), min_count=min_count)
    return {f"collapse/{key}": value for key, value in values.items()}


def assert_alike(values, expected, rtol=1e-9):
    """All keys, all values."""
    assert set(values) == set(expected) | {"collapse/seconds"}
    for key, value in expected.items():
        np.testing.assert_allclose(values[key], value, rtol=rtol, atol=1e-12, err_msg=key)

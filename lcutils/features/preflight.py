"""What can be said of a model before its weights are read: whether it can be a causal language model, and its sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lcutils.errors import UserError
from lcutils.features.adapters import Adapter, adapter_in_folder, adapter_on_hub
from lcutils.features.model_folder import check_model_folder, no_checkpoint

# Families that count positions from the padding token's id + 1, so that their table has rows which no text reaches.
POSITIONS_AFTER_PADDING = {
    "camembert", "data2vec-text", "prophetnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
    "xmod",
}  # fmt: skip
POSITION_KEYS = ("max_position_embeddings", "max_target_positions", "max_seq_len", "n_positions")


@dataclass(frozen=True)
class ModelFacts:
    """What a model's configuration says of it.

    Attributes:
        family: `model_type` of the whole configuration, such as "llama"; of an adapter's base.
        positions: tokens that a text may have; None where the configuration has no such limit.
        vocab_size: rows of the token embedding; 0 if unknown.
        depth: layers; 0 if unknown.
        commit: of a model on the hub; None for a folder.
        adapter: what is merged into the model, if the name is that of a PEFT adapter.
    """

    family: str
    positions: int | None
    vocab_size: int
    depth: int
    commit: str | None
    adapter: Adapter | None


def check_model(name: str | Path, revision: str | None = None, *, trust_remote_code: bool = False) -> ModelFacts:
    """Refuse what cannot be a causal language model, from configuration and file names; no weights are read.

    Args:
        name: a checkpoint folder, the folder of a PEFT adapter, or a name on the hub.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run the code that a model may bring; otherwise such a model is refused, without a question.

    Raises:
        UserError: one line that says why `name` cannot be loaded, and what can be done.
    """
    return read_configuration(str(name), revision, trust_remote_code)[1]


def read_configuration(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Any, ModelFacts]:
    """The configuration as transformers reads it, of the base where `name` is an adapter; and what it says."""
    local = Path(name).exists()
    if name.startswith((".", "/", "~")) and not local:
        raise UserError(f"{name}: there is no such folder; train the model first, or give a name on the hub")
    if local and revision:
        raise UserError(f"{name}: is a folder, which has no revisions; leave {revision} out")
    adapter = adapter_in_folder(name) if local else None
    config: Any = None
    if local:
        check_model_folder(name)
    if adapter is None:
        try:
            config = _configuration(name, name, revision, trust_remote_code)
        except UserError as error:
            if local:
                raise
            # What is no model on the hub may be an adapter. Without a connection, only the cache is asked.
            no_model = "have a file named config.json" in str(error.args[0])
            adapter = adapter_on_hub(name, revision, cached_only=not no_model)
            if adapter is None:
                raise
    if adapter is not None:
        if not local and Path(adapter.base).exists():
            check_model_folder(adapter.base)
        config = _configuration(name, adapter.base, adapter.base_revision, trust_remote_code)
    text = config.get_text_config(decoder=True)  # models of pictures and text keep the layers there
    facts = ModelFacts(
        family=str(config.model_type),
        positions=position_limit(config),
        vocab_size=getattr(text, "vocab_size", None) or 0,
        depth=getattr(text, "num_hidden_layers", None) or 0,
        commit=_commit(adapter.base, adapter.base_revision) if adapter else _commit(name, revision),
        adapter=adapter,
    )
    return config, facts


def _configuration(name: str, source: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    try:
        with quiet(source):
            config: Any = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
            auto_class(config)
            config.get_text_config(decoder=True)
    except Exception as error:  # a wrong value of config.json fails in any way
        raise explain(name, error) from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{name}: has an encoder, which its decoder cannot do without; give a causal language model")
    check_quantization(name, config)
    return config


def _commit(source: str, revision: str | None) -> str | None:
    """The commit that a configuration on the hub was read of: the folder of the hub's cache that it lies in."""
    if Path(source).exists():
        return None
    from transformers.utils.hub import cached_file

    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(source, "config.json", revision=revision, **missing)
    found = re.search(r"snapshots/([0-9a-f]{40})/", Path(path).as_posix()) if path else None
    return found[1] if found else None


def auto_class(config: Any) -> Any:
    """The class of transformers that loads a model which predicts the next token of a text.

    Raises:
        ValueError: there is none.
    """
    import transformers

    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in (
        getattr(config, "auto_map", None) or {}
    ):
        # A model of pictures and text is given text only.
        if type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not config.is_encoder_decoder:
            return transformers.AutoModelForImageTextToText
        raise ValueError(f"Unrecognized configuration class {type(config).__name__}")
    return transformers.AutoModelForCausalLM


def position_limit(config: Any) -> int | None:
    """The most tokens that a text may have by its configuration; None where there is no such limit."""
    text = config.get_text_config(decoder=True)
    if getattr(text, "alibi", None) is True:  # Falcon's key; positions are then no table, and the limit is not used
        return None
    values = (getattr(text, key, None) for key in POSITION_KEYS)
    limit = next((value for value in values if isinstance(value, int) and value > 0), None)  # XLNet says -1 for none
    if limit is not None and text.model_type in POSITIONS_AFTER_PADDING:
        limit -= (text.pad_token_id or 0) + 1
    return limit


def check_quantization(name: str, config: Any) -> None:
    """Refuse quantised weights whose library is missing, by its name, before they are downloaded."""
    if not (quantization := getattr(config, "quantization_config", None)):
        return
    from transformers.quantizers import AutoHfQuantizer

    try:
        AutoHfQuantizer.from_config(quantization, pre_quantized=True).validate_environment()
    except Exception as error:  # a library is missing, its version or the device is not what it needs, a wrong value
        raise explain(name, error) from error


def explain(name: str, error: Exception) -> UserError:
    """Why transformers could not load a model, and what can be done."""
    message = str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.endswith(":")]
    reason, fix = lines[0] if lines else "", "give a folder of save_pretrained"
    if isinstance(error, UnpicklingError):
        reason = "its pytorch_model.bin holds more than tensors, or is damaged, and code in it is not run"
        fix = "save its weights as safetensors"
    elif "trust_remote_code" in message:
        reason = "it comes with code of its own (auto_map in config.json), which is not run"
        fix = "convert it to a model class of transformers, and save that, or trust its code "
        fix += "(trust_remote_code: true, --trust-remote-code)"
    elif "does not recognize this architecture" in message:
        reason, fix = "this version of transformers does not know its model_type", "correct it, or upgrade transformers"
    elif message.startswith("Unrecognized configuration class"):
        reason, fix = "transformers has no causal language model of its model_type", "give a causal language model"
    elif isinstance(error, ImportError):
        fix = "install that, or give a checkpoint that does without"
    elif not isinstance(error, (OSError, ValueError)):
        reason = f"{type(error).__name__} {reason}".strip()
    return no_checkpoint(name, reason, fix)


@contextmanager
def quiet(source: str) -> Iterator[None]:
    """Without transformers' report of weights, which are checked here, and for a folder without its progress bar."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if Path(source).exists():  # all files are at hand
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()

"""The files of a tokenizer: which there are, and what they say without any code of their folder being run."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcutils.errors import UserError, first_line
from lcutils.parameters import resolve_path

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

WHOLE = "tokenizer.json"
TOKENIZER_FILES = (
    "vocab.json", "merges.txt", WHOLE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
# These count where there is no tokenizer.json: another vocabulary, and the model whose class of tokenizer it takes.
OTHER_FILES = ("vocab.txt", "config.json")
TEMPLATE = "chat_template.jinja"
GENERAL_CLASSES = {"PreTrainedTokenizer", "PreTrainedTokenizerFast", "PythonBackend", "TokenizersBackend"}


def tokenizer_folder(name: str) -> Path | None:
    """The folder that a tokenizer's name stands for; None if there is none."""
    try:
        folder = resolve_path(name)
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, no permission, an unknown user's ~
        raise UserError(f"tokenizer: {name[:100]!r} is no path ({first_line(error)}); correct it") from None
    if not folder.is_dir():
        raise UserError(f"tokenizer: {name} is a file; name the folder that it lies in, {folder.parent}")
    return folder


def holds_tokenizer(name: str) -> bool:
    """Whether a model's folder has a tokenizer; what is no folder, such as a name on the hub, is taken to have one."""
    folder = resolve_path(name)
    if not os.path.isdir(folder):  # noqa: PTH112 - it does not raise where this user may not look
        return True
    return any((folder / file).is_file() for file in (WHOLE, "vocab.json", "vocab.txt"))


def tokenizer_files(name: str) -> list[Path]:
    """The local files that decide which ids a text gets; none for a tokenizer of the hub, or one to be trained."""
    if (folder := tokenizer_folder(name)) is None:
        return []
    names = TOKENIZER_FILES if (folder / WHOLE).is_file() else TOKENIZER_FILES + OTHER_FILES
    return [folder / file for file in names if (folder / file).is_file()]


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside the library `tokenizers` into a `UserError`.

    It raises bare Exception for a damaged file, and where it panics a PanicException, which is only a BaseException.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what} ({first_line(error)}); give a whole one, or bpe:4096") from None


def fetched(name: str) -> Path:
    """The folder of the hub's cache that holds the files of a tokenizer on the hub, fetched if need be.

    Behind an `@`, a name has a revision: "owner/name@step3000".
    """
    from transformers.utils.hub import cached_file

    names = (*TOKENIZER_FILES, *OTHER_FILES, TEMPLATE)
    model, _, revision = name.partition("@")
    wanted = {"revision": revision or None, "_raise_exceptions_for_missing_entries": False}
    try:
        found = [cached_file(model, file, **wanted) for file in names]
    except (OSError, ValueError) as error:  # unknown, gated; or no name for a repository
        found, why = [], first_line(error)
    else:
        why = "it has no such files, or the hub is out of reach"
    files = [Path(path) for path in found if path]
    if not {WHOLE, "merges.txt", "vocab.txt"} & {file.name for file in files}:
        raise UserError(
            f"tokenizer: {name} is not a folder here and cannot be loaded from the hub ({why}); "
            "name a folder with a tokenizer, or bpe:4096"
        )
    return files[0].parent


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is absent."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"tokenizer: {path} cannot be read ({first_line(error)}); correct or remove it") from None
    if not isinstance(value, dict):
        raise UserError(f"tokenizer: {path} is no JSON object; correct or remove it")
    return value


def _named_class(folder: Path) -> tuple[str | None, Any]:
    """The tokenizer class that the configuration or the model's type names, and that class if transformers has it."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    model_type = _read(folder / "config.json").get("model_type")
    name = _read(folder / "tokenizer_config.json").get("tokenizer_class")
    name = name or (TOKENIZER_MAPPING_NAMES.get(model_type) if isinstance(model_type, str) else None)
    if not isinstance(name, str) or name in GENERAL_CLASSES:
        return None, None
    return name, tokenizer_class_from_name(name)


def special_tokens(folder: Path, name: str) -> dict[str, str]:
    """The tokens that play a part (`eos_token` …), as the files name them or else the class.

    The vocabulary may lack them.
    """
    from transformers import PreTrainedTokenizerBase

    settings = _read(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in settings:  # newer files repeat there what the map says
        settings |= _read(folder / "special_tokens_map.json")
    _, kind = _named_class(folder)
    defaults = inspect.signature(kind.__init__).parameters if kind else {}
    tokens = {}
    for role in PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES:
        token = settings.get(role, defaults[role].default if role in defaults else None)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            tokens[role] = token
        elif token is not None:
            raise UserError(f"tokenizer: {name}: {role} is {token!r:.50}; give a token in tokenizer_config.json")
    return tokens


def wrapped(backend: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers' general class, which takes `backend` as it is."""
    from transformers import PreTrainedTokenizerFast

    backend.no_truncation()
    backend.no_padding()  # its token would be added to the vocabulary
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None  # it would draw other ids each time
    template: Any = _read(folder / "tokenizer_config.json").get("chat_template")
    if (folder / TEMPLATE).is_file():
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
    kept = {"chat_template": template} if isinstance(template, str) else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **kept)


def rebuilt(folder: Path, name: str) -> tuple[Tokenizer, dict[str, str]]:
    """What transformers builds from a vocabulary without tokenizer.json: the ids, and the tokens that play a part.

    Without a class in the configuration, a vocab.json with merges.txt is taken as GPT-2's kind.
    """
    from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast  # type: ignore[attr-defined]

    words, called = _words(folder)
    named, kind = _named_class(folder)
    if kind is None and (named or "auto_map" in _read(folder / "tokenizer_config.json")):
        raise UserError(
            f"tokenizer: {name}: its class {named or ''!s:.80} is not one of transformers, and code that comes with it "
            "is not run; save it with a tokenizer.json"
        )
    if not named and (called == "vocab.txt" or any(word.endswith("</w>") for word in words)):
        raise UserError(
            f"tokenizer: {name}: its {called} is of another kind than GPT-2's; name its tokenizer_class in "
            "tokenizer_config.json, or save it with a tokenizer.json"
        )
    source: Any = AutoTokenizer if named else GPT2TokenizerFast
    with in_one_line(f"tokenizer: {name} cannot be read"):
        tokenizer = source.from_pretrained(str(folder), trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"tokenizer: {name} is {named:.80}, which has no fast (Rust) form; name another, or bpe:4096")
    known = tokenizer.get_vocab()
    if wrong := next((word for word, number in words.items() if known.get(word) != number), None):
        raise UserError(
            f"tokenizer: {name}: {type(tokenizer).__name__} does not take {wrong!r:.50} from its {called}; correct "
            "tokenizer_class in tokenizer_config.json, or save it with a tokenizer.json"
        )
    return tokenizer.backend_tokenizer, {role: str(token) for role, token in tokenizer.special_tokens_map.items()}


def _words(folder: Path) -> tuple[dict[str, int], str]:
    """The vocabulary of a folder without tokenizer.json, and the name of its file."""
    path = folder / "vocab.json"
    if path.is_file() and (folder / "merges.txt").is_file():
        words = _read(path)
        if wrong := next((word for word, number in words.items() if type(number) is not int or number < 0), None):
            raise UserError(f"tokenizer: {path}: the id of {wrong!r:.50} is no whole number; correct the file")
    else:
        path = folder / "vocab.txt"
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError) as error:
            raise UserError(f"tokenizer: {path} cannot be read ({first_line(error)}); correct it") from None
        words = {line: number for number, line in enumerate(lines) if line}
    return words, path.name

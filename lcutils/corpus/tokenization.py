"""Tokenizers: from the hub, from local files, or a byte-level BPE trained on the stories of the study."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from lcutils.corpus.readers import END_OF_TEXT
from lcutils.corpus.tokenizer_files import (
    WHOLE,
    fetched,
    in_one_line,
    rebuilt,
    special_tokens,
    tokenizer_folder,
    wrapped,
)
from lcutils.errors import UserError, first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from lcutils.parameters import CorpusSettings

SMALLEST_BPE = 257  # 256 bytes and the end of text
LARGEST_VOCABULARY = 2**24  # counts of every id are held in memory; the largest vocabularies have some 2**18


def bpe_size(name: str) -> int | None:
    """Vocabulary size that "bpe:4096" asks for; None if `name` is the name of a tokenizer.

    Raises:
        UserError: the size is not a whole number, or is below 257 or above 16,777,216.
    """
    kind, colon, size = name.partition(":")
    if kind != "bpe" or not colon:
        return None
    if not size.isdecimal() or len(size) > 8 or not SMALLEST_BPE <= int(size) <= LARGEST_VOCABULARY:
        raise UserError(
            f"tokenizer: {name[:100]!r} has no vocabulary size of at least {SMALLEST_BPE} "
            f"(256 bytes and {END_OF_TEXT}) and at most {LARGEST_VOCABULARY}; write for example bpe:4096"
        )
    return int(size)


def train_bpe(batches: Iterable[list[str]], size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE like GPT-2's: token 0 is `<|endoftext|>`, then the 256 bytes, then the merges.

    The vocabulary is smaller where the text offers fewer merges. The same text gives the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # a set, which has no fixed order
        show_progress=False,
    )
    bpe.train_from_iterator(batches, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    tokenizer.name_or_path = f"bpe:{size}"
    return tokenizer


def check_tokenizer_name(name: str) -> None:
    """Check what can be checked without loading the tokenizer; raise a `UserError` if it cannot be one."""
    if bpe_size(name) is not None:
        return
    if (folder := tokenizer_folder(name)) is None:
        if name.startswith((".", "/", "~")):
            raise UserError(f"tokenizer: there is no folder {name}; correct the path, or train one with bpe:4096")
        return
    pair = ("vocab.json", "merges.txt")
    if (folder / WHOLE).is_file() or (folder / "vocab.txt").is_file() or all((folder / p).is_file() for p in pair):
        return
    for file in sorted(folder.iterdir()):
        if file.suffix in (".model", ".tiktoken") or file.name == "tekken.json":
            raise UserError(
                f"tokenizer: {name} holds {file.name} but no tokenizer.json; load it with transformers where "
                "sentencepiece, tiktoken or mistral-common is installed, and save it as a fast tokenizer"
            )
    raise UserError(
        f"tokenizer: {name} holds neither tokenizer.json nor vocab.json with merges.txt; add them, or name another "
        "tokenizer"
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a folder (a tokenizer.json, or a vocab.json and merges.txt) or from the hub.

    `tokenizer.json` is the truth: texts get the ids that this file gives them, also once the tokenizer was saved. The
    class that the configuration names (GPT2Tokenizer, LlamaTokenizer …) may read only vocabulary and merges from the
    file, replace its normalizer and pre-tokenizer by those of one model, and add tokens of its own; it is not asked.
    No code of the folder is run.

    Raises:
        UserError: the folder lacks the files or they are damaged, the hub is out of reach, or the tokenizer is empty
            or has no fast form.
    """
    check_tokenizer_name(name)
    folder = tokenizer_folder(name) or fetched(name)
    if (folder / WHOLE).is_file():
        from tokenizers import Tokenizer

        roles = {role: str(token) for role, token in special_tokens(folder, name).items()}
        with in_one_line(f"tokenizer: {folder / WHOLE} cannot be read"):
            backend = Tokenizer.from_file(str(folder / WHOLE))
    else:
        backend, roles = rebuilt(folder, name)
    vocabulary = backend.get_vocab()
    if not vocabulary:
        raise UserError(f"tokenizer: {name} is empty; name another tokenizer, or bpe:4096")
    if (largest := max(vocabulary.values())) >= LARGEST_VOCABULARY:
        raise UserError(f"tokenizer: {name} has a token of id {largest}; give ids below {LARGEST_VOCABULARY}")
    ordinary = backend.get_vocab(with_added_tokens=False)
    if len(owners := {number: token for token, number in ordinary.items()}) < len(ordinary):
        twin = next(token for token, number in ordinary.items() if owners[number] != token)
        raise UserError(
            f"tokenizer: {name} gives one id, {ordinary[twin]}, to {twin[:50]!r} and "
            f"{owners[ordinary[twin]][:50]!r}; give each token its own"
        )
    with in_one_line(f"tokenizer: {name} cannot be used"):
        tokenizer = wrapped(backend, folder)
    for role, token in roles.items():
        if token in vocabulary:  # the constructor would add one that the file does not list as an added token
            setattr(tokenizer, role, token)
    tokenizer.name_or_path = name
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """The largest id + 1: more than the number of tokens where ids are missing, as in a pruned vocabulary."""
    return max(tokenizer.get_vocab().values()) + 1


def end_of_text_id(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    """Id of the token that ends a text: the tokenizer's own, or `<|endoftext|>` if its vocabulary has that.

    Raises:
        UserError: the vocabulary has no such token.
    """
    token_id = tokenizer.get_vocab().get(tokenizer.eos_token or END_OF_TEXT)
    if token_id is None:
        folder = tokenizer_folder(name) if bpe_size(name) is None else None
        named = special_tokens(folder, name).get("eos_token") if folder else None
        which = f" in its vocabulary, which lacks {named!r:.50}" if named else ""
        raise UserError(
            f"tokenizer: {name} has no end-of-text token{which}; set end_of_text: false, or name another tokenizer"
        )
    return int(token_id)


def around(tokenizer: PreTrainedTokenizerFast, settings: CorpusSettings) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that stand in front of every block or row, and those behind every story.

    "auto" is what the tokenizer adds when it is called. In a stream, which goes on over the end of a story, only
    `end_of_text` puts something behind one; a chat template brings both by itself.

    Raises:
        UserError: there is no such token, no chat template, or no room left for the text.
    """
    if settings.chat_template:
        if not tokenizer.chat_template:
            raise UserError(f"chat_template: {settings.tokenizer} has none; set chat_template: false")
        return (), ()
    front, behind = _added_when_called(tokenizer.backend_tokenizer)
    if settings.beginning_of_text is False:
        front = ()
    elif settings.beginning_of_text is True and not front:
        front = (_beginning_of_text_id(tokenizer, settings.tokenizer),)
    if settings.layout == "stream":
        behind = ()
    if settings.end_of_text and not behind:
        behind = (end_of_text_id(tokenizer, settings.tokenizer),)
    if len(front) + 1 >= settings.block_size:
        raise UserError(
            f"block_size: {settings.block_size} leaves no prediction beside the {len(front)} token that "
            f"{settings.tokenizer} puts in front; use larger blocks, or beginning_of_text: false"
        )
    return front, behind


def _added_when_called(backend: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that a tokenizer puts in front of a text and behind it."""
    for text in ("a", *sorted(backend.get_vocab())[:1_000]):  # some know no "a"
        try:
            with in_one_line("tokenizer: cannot be called"):
                plain = backend.encode(text, add_special_tokens=False).ids
                whole = backend.encode(text, add_special_tokens=True).ids
        except UserError:  # a word that it does not know; the story that has one is reported when it comes
            continue
        for start in range(len(whole) - len(plain) + 1) if plain else ():
            if whole[start : start + len(plain)] == plain:
                return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return (), ()


def _beginning_of_text_id(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    token_id = tokenizer.get_vocab().get(tokenizer.bos_token or "")
    if token_id is None:
        raise UserError(f"tokenizer: {name} has no beginning-of-text token; set beginning_of_text: auto, or false")
    return int(token_id)


def as_message(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[str]:
    """Each text as a user's message in the tokenizer's chat template; a `UserError` if the template refuses it."""
    try:
        return [
            str(tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)) for text in texts
        ]
    except Exception as error:  # whatever a template of others may do wrong
        raise UserError(
            f"chat_template: that of {tokenizer.name_or_path} cannot be used ({first_line(error)}); "
            "set chat_template: false"
        ) from None


def _parts(component: Any) -> list[dict[str, Any]]:
    """The settings of a decoder, pre-tokenizer or post-processor; of each in turn if it is a sequence of several."""
    whole = [json.loads(component.__getstate__())] if component is not None else []
    parts: list[dict[str, Any]] = []
    while whole:
        part = whole.pop(0)
        parts.append(part)
        whole = [inner for key in ("decoders", "pretokenizers", "processors") for inner in part.get(key, [])] + whole
    return parts


def token_labels(backend: Tokenizer, ids: Iterable[int]) -> list[str]:
    """What each token is called in tables: its text, with the space that begins a word; no two tokens share a label.

    Special tokens show their names. A byte that is no UTF-8 by itself reads `<0xF0>`, as in SentencePiece's names.
    WordPiece's tokens keep their `##`.
    """
    added = backend.get_added_tokens_decoder()
    label = _labeller(_parts(backend.decoder or backend.pre_tokenizer))
    labels: dict[int, str] = {}
    taken = set[str]()
    # Over the whole vocabulary, so that a label does not depend on which tokens occur. An added token may repeat the
    # text of another one (as runs of spaces do in GPT-NeoX), and then tells its id.
    names = sorted(backend.get_vocab().items(), key=lambda item: (item[1] in added, item[1], item[0]))
    for name, number in names:
        text = name if number in added else label(name)
        if text in taken:
            text += f" [{number}]"
        taken.add(text)
        labels.setdefault(number, text)
    return [labels[number] for number in ids]


def _labeller(parts: list[dict[str, Any]]) -> Callable[[str], str]:
    """How a token's name in the vocabulary becomes its label, by the parts of the decoder."""
    # Byte-level vocabularies write a byte as a letter that can be seen; the others as the letters from 256 on.
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(256) if byte not in visible)
    byte_of = {chr(byte): byte for byte in visible} | {chr(256 + number): byte for number, byte in enumerate(hidden)}

    def of_bytes(name: str) -> str:
        if not all(letter in byte_of for letter in name):
            return name
        text = bytes(byte_of[letter] for letter in name).decode("utf-8", errors="surrogateescape")
        return re.sub("[\udc80-\udcff]", lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text)

    for part in parts:
        match part:
            case {"type": "ByteLevel"}:
                return of_bytes
            case {"type": "Metaspace", "replacement": str(mark)}:
                return lambda name: name.replace(mark, " ")
            case {"type": "Replace", "pattern": {"String": str(mark)}, "content": " "}:
                return lambda name: name.replace(mark, " ")
            case {"type": "BPEDecoder", "suffix": str(mark)} if mark:
                return lambda name: f"{name.removesuffix(mark)} " if name.endswith(mark) else name
    return lambda name: name


class Encoder:
    """Turns batches of texts into arrays of token ids, on all cores and without Python code per token.

    Args:
        tokenizer: a fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.backend = tokenizer.backend_tokenizer  # it does not warn about long texts as transformers does
        self.name = tokenizer.name_or_path
        self.backend.no_truncation()
        self.backend.no_padding()

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """The tokens of each text: (tokens,) uint32.

        Raises:
            UserError: a text cannot be encoded, as where a word is unknown and there is no token for that.
        """
        with in_one_line(f"tokenizer: {self.name} cannot encode the text"):
            encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(item.ids, dtype=np.uint32) for item in encoded]

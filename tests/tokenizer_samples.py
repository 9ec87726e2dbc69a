"""Small tokenizers of each kind that transformers knows, trained on a few lines."""

import json
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lcutils.corpus.tokenization import Encoder

END = "<|endoftext|>"
LINES = [
    f"In 19{i:02} the {i} Cats saw Lily and Lilybloom. It wasn't {1000 + i} o'clock; 😀 Größe 漢字!" for i in range(30)
]
PIECES = [piece for line in LINES for piece in line.split()]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    """GPT-2's kind, but with a normalizer and digits apart, as no class of transformers has them together."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(Regex("Cats"), "cats")
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*LINES, *PIECES], trainer)
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    """Llama's and Gemma's kind: spaces are ▁, and unknown letters fall back to bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    first = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=first + BYTES, limit_alphabet=50, show_progress=False)
    tokenizer.train_from_iterator([*PIECES, *(f" {piece}" for piece in PIECES)], trainer)
    settings = json.loads(tokenizer.to_str())
    settings["added_tokens"] = settings["added_tokens"][: len(first)]  # the bytes are ordinary tokens
    return Tokenizer.from_str(json.dumps(settings))


def unigram() -> Tokenizer:
    """T5's kind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*LINES, *PIECES], trainer)
    end = [("</s>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=end)
    return tokenizer


def wordpiece() -> Tokenizer:
    """BERT's kind."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def words() -> Tokenizer:
    """One token a word; its end of text is an ordinary token."""
    vocabulary = {"<unk>": 0, "</s>": 1, **{word: number for number, word in enumerate(sorted({*PIECES}), 2)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def word_ends() -> Tokenizer:
    """CLIP's kind: the end of a word is marked."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


KINDS = {kind.__name__: kind for kind in (byte_level, sentencepiece_bpe, unigram, wordpiece, words, word_ends)}


@cache
def _saved(kind: str) -> str:
    return str(KINDS[kind]().to_str())


def sample(kind: str) -> Tokenizer:
    """A fresh tokenizer of a kind."""
    return Tokenizer.from_str(_saved(kind))


def ids_of(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[int]:
    """The ids of all texts, one after the other, as the data stage gets them."""
    return [number for ids in Encoder(tokenizer)(texts) for number in ids.tolist()]

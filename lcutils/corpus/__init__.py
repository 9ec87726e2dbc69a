"""Stage 1, text to token blocks: `sources` reads, `stories` makes some up, `tokenization` encodes, `prepare` packs."""

from lcutils.corpus.prepare import Data, open_blocks, open_data, prepare_corpus, source_digest
from lcutils.corpus.tokenization import load_tokenizer

__all__ = ["Data", "load_tokenizer", "open_blocks", "open_data", "prepare_corpus", "source_digest"]

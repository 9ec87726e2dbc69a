"""Stage 1, text to token blocks: `sources` reads, `stories` makes some up, `tokenization` encodes, `prepare` packs."""

from lcutils.corpus.prepare import open_blocks, prepare_corpus, source_digest

__all__ = ["open_blocks", "prepare_corpus", "source_digest"]

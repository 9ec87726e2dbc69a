"""Stage 1, from text to blocks of tokens.

`sources` opens the text: `stories` invents stories; for local files, `folders` says which files there are, `splits`
which of them are for what, `readers` (with `json_rows` and `tables`) yields their texts, and `files` makes tables of
these. `tokenization` encodes the text (`cutting`: very long ones in pieces), and `prepare` packs and counts the tokens.
"""

from lcutils.corpus.prepare import (
    Data,
    open_blocks,
    open_data,
    prepare_corpus,
    source_digest,
    text_digest,
    tokenizer_digest,
)
from lcutils.corpus.tokenization import load_tokenizer

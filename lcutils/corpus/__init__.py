"""Stage 1, from text to blocks of tokens.

`sources` opens the text (`files` reads local files, `stories` invents stories), `tokenization` encodes it, and
`prepare` packs and counts the tokens.
"""

from lcutils.corpus.prepare import Data, open_blocks, open_data, prepare_corpus, source_digest
from lcutils.corpus.tokenization import load_tokenizer

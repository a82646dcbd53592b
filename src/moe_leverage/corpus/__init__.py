"""The text that is trained on: documents, tokens, and batches as a function of (seed, step)."""

from moe_leverage.corpus.documents import END_OF_TEXT
from moe_leverage.corpus.tokens import (
    TIERS,
    Corpus,
    batch,
    build_corpus,
    load,
    load_tokenizer,
    read_manifest,
)

__all__ = [
    "END_OF_TEXT",
    "TIERS",
    "Corpus",
    "batch",
    "build_corpus",
    "load",
    "load_tokenizer",
    "read_manifest",
]

"""The domain of each training document, kept beside the tokens so that they stay as they are.

Training documents stand in the order of their files' hashes, whatever their domain, and their
tokens do not say it. The index does. It is no part of the corpus' digest: what was trained before
there was an index is trained from the same tokens after.

    train.domains   two little-endian uint32 a document, in the order of train.bin: the token where
                    it ends, and the place of its domain in DOMAINS
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_leverage.corpus import documents
from moe_leverage.corpus.documents import Document, Report, file_sha256
from moe_leverage.paths import write_atomically
from moe_leverage.rules import require
from moe_leverage.stages import DOMAINS

INDEX = "train.domains"

Tokens = npt.NDArray[np.uint16]
Index = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]


class DomainText:
    """The training documents of one domain as one text, read from the tokens where they lie.

    >>> index = np.array([[3, 0], [5, 1], [6, 0]], np.uint32)
    >>> text = DomainText(np.arange(10, 16, dtype=np.uint16), index, 0)
    >>> len(text), text[np.array([[2, 3]])].tolist()
    (4, [[12, 15]])
    """

    def __init__(self, tokens: Tokens, index: Index, place: int) -> None:
        ends = index[:, 0].astype(np.int64)
        sizes = np.diff(ends, prepend=0)
        mine = index[:, 1] == place
        self._tokens, self._sizes = tokens, np.cumsum(sizes[mine])
        self._shifts: Places = ends[mine] - self._sizes  # from this text to all of the tokens

    def __len__(self) -> int:
        return int(self._sizes[-1]) if len(self._sizes) else 0

    def __getitem__(self, places: Places) -> Tokens:
        document = np.searchsorted(self._sizes, places, side="right")
        found: Tokens = self._tokens[places + self._shifts[document]]
        return found


def put(directory: Path, domains: Sequence[str], ends: Places) -> None:
    """Write the index of documents of these domains, which end at these tokens."""
    places = [DOMAINS.index(domain) for domain in domains]
    index = np.column_stack([ends, places]).astype("<u4")
    write_atomically(directory / INDEX, index.tobytes())


def read(directory: Path, sha256: str | None, tier: str) -> Index | None:
    """The index, or None where there is none yet; ValueError if it is not what the manifest says.

    A tier that was built before there was an index goes without until it is asked to be built.
    """
    path = directory / INDEX
    if not path.is_file():
        return None
    rule = f"{INDEX} differs from manifest-{tier}.json; run moe-leverage corpus build --tier {tier}"
    require(file_sha256(path) == sha256, "corpus", tier, rule)
    found: Index = np.fromfile(path, "<u4").reshape(-1, 2)
    return found


def write(
    directory: Path, tier: str, train: Tokens, manifest: dict[str, Any], report: Report
) -> None:
    """Write the index of a tier whose tokens are there, which are only read.

    The documents are gathered again; of each domain the first of those that are not held out were
    taken, as many as the manifest says. ValueError if the index is not what the manifest says.
    """
    recipe = documents.recipe(tier)
    shown: list[Document] = []
    kept = [d for d in documents.gather(recipe, report) if not documents.is_held_out(d, recipe)]
    for domain in DOMAINS:
        count = manifest["domains"][domain]["documents"]
        shown += [document for document in kept if document.domain == domain][:count]
    shown.sort(key=lambda document: document.order)
    ends = np.flatnonzero(train == documents.END_OF_TEXT) + 1
    rule = f"train.bin has {len(ends)} documents, its sources have {len(shown)}"
    require(len(ends) == len(shown), "corpus", tier, rule)
    put(directory, [document.domain for document in shown], ends)
    read(directory, manifest.get("train_domains_sha256"), tier)

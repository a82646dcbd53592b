"""The corpus as tokens: two tiers, hashed to the last byte, and the batches drawn from them.

It stands in for the paper's training and validation text (Section 3.1). Building takes pinned
wheels to documents (`documents.py`), documents to tokens and checks every file against the
manifest; loading reads the files; a batch is a pure function of seed and step.

    D    train        tokens of all training documents, in the order of their files' hashes
    B    batch        batch_sequences x sequence_length tokens of one optimiser step
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moe_leverage import paths
from moe_leverage.corpus import documents, domains
from moe_leverage.corpus.documents import (
    END_OF_TEXT,
    Document,
    Recipe,
    Report,
    file_sha256,
)
from moe_leverage.corpus.domains import DomainText, Index, Tokens
from moe_leverage.locks import claim
from moe_leverage.rules import one_of, require
from moe_leverage.stages import DOMAINS

TIERS = ("smoke", "full")
TOKENIZER_SLICE_BYTES = 2 << 20  # of each domain of the smoke tier, that the tokenizer learns from
ENCODED_TOGETHER = 256  # documents handed to the tokenizer at once

Encoded = tuple[Document, Tokens]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """The token arrays of one tier."""

    tier: str
    digest: str  # SHA-256 over the token files' own, the corpus' identity
    vocab_size: int
    train: Tokens
    validation: dict[str, Tokens]  # by domain; whole documents, none of them in `train`
    bytes_per_token: dict[str, float]  # of the validation documents, by domain
    train_domains: Index | None = None  # its domains in the order of `validation`

    def text(self, domain: str = "") -> Tokens | DomainText:
        """The training text of one domain, document after document; all of it where none is named.

        Raises ValueError for a domain that is not there, or where the index of domains is not.
        """
        if not domain:
            return self.train
        require(domain in self.validation, "domain", domain, one_of(self.validation))
        rule = "needs the index of domains; run moe-leverage corpus build --tier " + self.tier
        require(self.train_domains is not None, "domain", domain, rule)
        assert self.train_domains is not None
        return DomainText(self.train, self.train_domains, list(self.validation).index(domain))


def load(tier: str, *, build: bool = False) -> Corpus:
    """The corpus of a tier from the cache; with `build`, built there if it is not.

    Raises ValueError if the tier is unknown, not built, or differs from the manifest.
    """
    directory = _directory(tier)
    if not directory.is_dir():
        if build:
            return build_corpus(tier)
        raise ValueError(
            f"corpus = {tier!r}: not built; run moe-leverage corpus build --tier {tier}"
        )
    manifest = read_manifest(tier)
    _require_files(tier, manifest, directory)
    tokens = {name: np.memmap(directory / name, np.uint16, "r") for name in manifest["files"]}
    return Corpus(
        tier=tier,
        digest=manifest["digest"],
        vocab_size=manifest["vocab_size"],
        train=tokens["train.bin"],
        validation={domain: tokens[f"validation-{domain}.bin"] for domain in DOMAINS},
        bytes_per_token={
            domain: entry["validation_bytes"] / entry["validation_tokens"]
            for domain, entry in manifest["domains"].items()
        },
        train_domains=domains.read(directory, manifest.get("train_domains_sha256"), tier),
    )


def batch(
    tokens: Tokens | DomainText,
    *,
    seed: int,
    step: int,
    batch_sequences: int,
    sequence_length: int,
    before: int = 0,
) -> npt.NDArray[np.int64]:
    """The windows [batch_sequences, sequence_length + 1] of one step; the last column only targets.

    The stream is cut into windows that overlap by one token; every epoch visits each window once,
    in an order that depends on the seed and the epoch alone. The first `before` windows are left
    to the runs that a run goes on from.

    >>> stream = np.arange(41, dtype=np.uint16)
    >>> shown = [batch(stream, seed=1, step=s, batch_sequences=2, sequence_length=4)
    ...          for s in range(5)]
    >>> sorted(np.concatenate(shown)[:, 0].tolist())
    [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]
    """
    count = (len(tokens) - 1) // sequence_length
    rule = f"is longer than the {len(tokens)} tokens there are"
    require(count > 0, "sequence_length", sequence_length, rule)
    places = before + np.arange(step * batch_sequences, (step + 1) * batch_sequences)
    epochs = places // count
    windows = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        windows[chosen] = _window_order(count, seed, int(epoch))[places[chosen] % count]
    starts = windows[:, None] * sequence_length
    found: npt.NDArray[np.int64] = tokens[starts + np.arange(sequence_length + 1)].astype(np.int64)
    return found


@functools.lru_cache(maxsize=4)
def _window_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation from the raw bit stream, which numpy keeps the same in all its versions."""
    keys: npt.NDArray[np.uint64] = np.random.PCG64([seed, epoch]).random_raw(count)
    order: npt.NDArray[np.int64] = np.argsort(keys, kind="stable")
    return order


def read_manifest(tier: str) -> dict[str, Any]:
    """What data/corpus says the tier's files hold: hashes, and counts by domain and source."""
    require(tier in TIERS, "tier", tier, f"must be one of {', '.join(TIERS)}")
    path = _manifest_path(tier)
    require(path.is_file(), "tier", tier, f"has no manifest {path.name}")
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return manifest


def load_tokenizer() -> Tokenizer:
    """The byte-level BPE tokenizer that both tiers share; it is built with the smoke tier."""
    path = _directory("smoke") / "tokenizer.json"
    require(path.is_file(), "corpus", "smoke", "not built; run moe-leverage corpus build")
    return Tokenizer.from_file(str(path))


def build_corpus(tier: str, *, pin: bool = False, report: Report | None = None) -> Corpus:
    """Build a tier in the cache; the directory appears whole and checked, or not at all.

    What is there and agrees with the manifest is left as it is. `pin` writes the manifest instead
    of checking against it: for whoever changes the sources.
    """
    require(tier in TIERS, "tier", tier, f"must be one of {', '.join(TIERS)}")
    report = report or (lambda stage, share: None)
    directory = _directory(tier)
    directory.parent.mkdir(parents=True, exist_ok=True)
    if tier != "smoke":
        build_corpus("smoke", report=report)
    with claim(directory.parent / f".{tier}.lock", wait=True):
        if not pin:
            with contextlib.suppress(ValueError):
                found = load(tier)
                if found.train_domains is None:
                    domains.write(directory, tier, found.train, read_manifest(tier), report)
                return load(tier)
        partial = directory.with_name(f".{tier}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            manifest = _write(tier, documents.recipe(tier), partial, report)
            if pin:
                text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
                _manifest_path(tier).write_text(text, "utf-8")
            _require_same(tier, read_manifest(tier), manifest)
            shutil.rmtree(directory, ignore_errors=True)
            partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return load(tier)


def _write(tier: str, recipe: Recipe, directory: Path, report: Report) -> dict[str, Any]:
    """Every file of a tier in `directory`, and the manifest that describes them."""
    kept = documents.gather(recipe, report)
    tokenizer = _train_tokenizer(kept, recipe) if tier == "smoke" else load_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    held: list[Encoded] = []
    shown: list[Encoded] = []
    for domain in DOMAINS:
        mine = [document for document in kept if document.domain == domain]
        kept_back = [document for document in mine if documents.is_held_out(document, recipe)]
        kept_back.sort(key=lambda document: hashlib.sha256(document.text.encode()).digest())
        held += _encode(tokenizer, kept_back, recipe.validation_tokens // len(DOMAINS))
        learned = [document for document in mine if not documents.is_held_out(document, recipe)]
        shown += _encode(tokenizer, learned, round(recipe.shares[domain] * recipe.train_tokens))
        report("tokens", (DOMAINS.index(domain) + 1) / len(DOMAINS))
    shown.sort(key=lambda pair: pair[0].order)
    _write_tokens(directory / "train.bin", shown)
    ends = np.cumsum([len(tokens) for _, tokens in shown])
    domains.put(directory, [document.domain for document, _ in shown], ends)
    for domain in DOMAINS:
        mine_held = [pair for pair in held if pair[0].domain == domain]
        _write_tokens(directory / f"validation-{domain}.bin", mine_held)
    return _describe(tier, recipe, directory, held, shown)


def _train_tokenizer(kept: Iterable[Document], recipe: Recipe) -> Tokenizer:
    """Byte-level BPE learned from the first training documents of each domain."""
    seen: Counter[str] = Counter()
    texts = []
    for document in kept:
        if (
            not documents.is_held_out(document, recipe)
            and seen[document.domain] < TOKENIZER_SLICE_BYTES
        ):
            seen[document.domain] += len(document.text.encode())
            texts.append(document.text)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _encode(tokenizer: Tokenizer, chosen: list[Document], budget: int) -> Iterator[Encoded]:
    """Documents with their tokens, each ended by END_OF_TEXT, until `budget` tokens are reached."""
    total = 0
    for start in range(0, len(chosen), ENCODED_TOGETHER):
        group = chosen[start : start + ENCODED_TOGETHER]
        for document, encoding in zip(
            group, tokenizer.encode_batch_fast([document.text for document in group]), strict=True
        ):
            if total >= budget:
                return
            tokens = np.array([*encoding.ids, END_OF_TEXT], np.uint16)
            total += len(tokens)
            yield document, tokens


def _write_tokens(path: Path, encoded: list[Encoded]) -> None:
    """One little-endian uint16 a token, nothing else."""
    with path.open("wb") as file:
        for _, tokens in encoded:
            file.write(tokens.astype("<u2").tobytes())


def _describe(
    tier: str,
    recipe: Recipe,
    directory: Path,
    held: list[Encoded],
    shown: list[Encoded],
) -> dict[str, Any]:
    """The manifest of freshly written files."""
    files = {
        path.name: {"sha256": file_sha256(path), "tokens": path.stat().st_size // 2}
        for path in sorted(directory.glob("*.bin"))
    }
    digests = "".join(str(entry["sha256"]) for entry in files.values())
    total = sum(len(tokens) for _, tokens in shown)
    counted: dict[str, dict[str, Any]] = {}
    for domain in DOMAINS:
        entry = {
            f"{kind}{name}": value
            for kind, group in (("", shown), ("validation_", held))
            for name, value in _count(pair for pair in group if pair[0].domain == domain).items()
        }
        labels = {document.source for document, _ in shown + held if document.domain == domain}
        licences = sorted({source.licence for source in recipe.sources if source.label in labels})
        share = round(entry["tokens"] / total, 4)
        counted[domain] = entry | {"share": share, "licences": licences}
    sources = {
        source.label: _count(pair for pair in shown + held if pair[0].source == source.label)
        | {"licence": source.licence, "sha256": _text_sha256(source.label, held + shown)}
        for source in recipe.sources
    }
    return {
        "tier": tier,
        "vocab_size": recipe.vocab_size,
        "digest": hashlib.sha256(digests.encode()).hexdigest(),
        "tokenizer_sha256": _tokenizer_sha256(directory / "tokenizer.json"),
        "files": files,
        "train_domains_sha256": file_sha256(directory / domains.INDEX),
        "domains": counted,
        "sources": sources,
    }


def _count(encoded: Iterable[Encoded]) -> dict[str, int]:
    sizes = [(len(document.text.encode()), len(tokens)) for document, tokens in encoded]
    return {
        "documents": len(sizes),
        "bytes": sum(size for size, _ in sizes),
        "tokens": sum(size for _, size in sizes),
    }


def _tokenizer_sha256(path: Path) -> str:
    """SHA-256 of all that decides the tokens of a text; "damaged" where that cannot be read.

    The tokens in order, the merges and what stands before and after them; the file itself also
    holds the library's own settings, which change with its version.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        model, split = found["model"], found["pre_tokenizer"]
        parts = {
            "vocabulary": sorted(model["vocab"], key=model["vocab"].__getitem__),
            "merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
            "split": [split["type"], split["add_prefix_space"]],
            "added": [[token["id"], token["content"]] for token in found["added_tokens"]],
            "around": [found["normalizer"], found["post_processor"]],
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "damaged"
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _text_sha256(label: str, encoded: list[Encoded]) -> str:
    """SHA-256 of all text that one source gave: it names the source that changed."""
    digest = hashlib.sha256()
    for document, _ in encoded:
        if document.source == label:
            digest.update(document.text.encode())
    return digest.hexdigest()


def _require_same(tier: str, pinned: dict[str, Any], built: dict[str, Any]) -> None:
    """Refuse a build that differs from the manifest, naming the first thing that differs."""
    for label, entry in pinned["sources"].items():
        same = built["sources"].get(label) == entry
        require(same, "corpus source", label, f"gave another text than manifest-{tier}.json says")
    parts = {"tokenizer.json": (pinned["tokenizer_sha256"], built["tokenizer_sha256"])}
    parts |= {n: (entry, built["files"].get(n)) for n, entry in pinned["files"].items()}
    parts[domains.INDEX] = tuple(m["train_domains_sha256"] for m in (pinned, built))
    for name, (expected, found) in parts.items():
        rule = f"{name} differs from manifest-{tier}.json: {found} instead of {expected}"
        require(found == expected, "corpus", tier, rule)


def _require_files(tier: str, manifest: dict[str, Any], directory: Path) -> None:
    wanted = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    wanted["tokenizer.json"] = manifest["tokenizer_sha256"]
    for name, expected in wanted.items():
        path = directory / name
        digest = _tokenizer_sha256 if name == "tokenizer.json" else file_sha256
        found = digest(path) if path.is_file() else "missing"
        rule = (
            f"{name} is {found[:12]}, manifest-{tier}.json says {expected[:12]}; "
            f"run moe-leverage corpus build --tier {tier} again"
        )
        require(found == expected, "corpus", tier, rule)


def _directory(tier: str) -> Path:
    require(tier in TIERS, "tier", tier, f"must be one of {', '.join(TIERS)}")
    return paths.CACHE / "corpus" / tier


def _manifest_path(tier: str) -> Path:
    return paths.DATA / "corpus" / f"manifest-{tier}.json"

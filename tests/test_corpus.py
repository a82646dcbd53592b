"""The corpus is the same everywhere, refuses what differs, and leaves nothing half-written."""

import gzip
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from moe_leverage import ledger, paths
from moe_leverage.corpus import documents, domains
from moe_leverage.corpus import tokens as corpus
from moe_leverage.corpus.documents import Document, Source
from moe_leverage.stages import DOMAINS

WORDS = ("expert", "router", "token", "layer", "weight", "balance", "load", "score", "gate", "loss")


def prose(seed, length):
    rng = np.random.default_rng(seed)
    words = [*rng.choice(WORDS, length), "unit", str(seed)]
    return "\n\n".join(" ".join(words[i : i + 12]) + f" {seed}.{i}" for i in range(0, length, 12))


def wheel_of(folder, name, files):
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    return path


def toy_files(kind, count):
    if kind == "services":
        return {
            f"p/data/{i}.json": json.dumps({"operations": {"Do": prose(1000 + i, 100)}})
            for i in range(count)
        }
    if kind == "data":
        return {f"p/{i}.yaml": prose(2000 + i, 100) for i in range(count)}
    return {
        f"p/{i}.py": f'"""{prose(i, 100)}"""\n\ndef f{i}():\n    return {prose(500 + i, 100)!r}\n'
        for i in range(count)
    }


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Data and cache folders of a corpus of three wheels that are there already."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    wheels = cache / "corpus" / "wheels"
    wheels.mkdir(parents=True)
    (data / "corpus").mkdir(parents=True)
    lines = ["vocab_size = 300", "held_out_fraction = 0.25", "[shares]"]
    lines += ["code = 0.25", "prose = 0.25", "services = 0.25", "data = 0.25"]
    lines += ["[tokens.smoke]", "train = 8_000", "validation = 2_000"]
    lines += ["[tokens.full]", "train = 12_000", "validation = 3_000"]
    for kind in ("code", "services", "data"):
        path = wheel_of(wheels, kind, toy_files(kind, 40))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines += ["[[source]]", f'name = "{kind}"', 'version = "1.0"', f'wheel = "{path.name}"']
        lines += [f'sha256 = "{digest}"', 'licence = "MIT"', "smoke = true"]
        lines += ['domain = "services"'] if kind == "services" else []
    (data / "corpus" / "sources.toml").write_text("\n".join(lines))
    monkeypatch.setattr(paths, "DATA", data)
    monkeypatch.setattr(paths, "CACHE", cache)
    return tmp_path


def test_a_build_is_checked_whole_and_the_same_again(toy):
    first = corpus.build_corpus("smoke", pin=True)
    files = {p.name: p.read_bytes() for p in (paths.CACHE / "corpus/smoke").iterdir()}
    (paths.CACHE / "corpus/smoke/train.bin").unlink()
    again = corpus.build_corpus("smoke")
    assert again.digest == first.digest
    assert {p.name: p.read_bytes() for p in (paths.CACHE / "corpus/smoke").iterdir()} == files
    manifest = corpus.read_manifest("smoke")
    assert len(first.train) == sum(row["tokens"] for row in manifest["domains"].values())
    assert set(first.validation) == set(DOMAINS)
    assert first.train.dtype == np.uint16
    assert first.train.max() < first.vocab_size == 300
    assert all(row["licences"] == ["MIT"] for row in manifest["domains"].values())
    assert sorted(p.name for p in (paths.CACHE / "corpus").iterdir()) == ["smoke", "wheels"]


def test_held_out_documents_are_never_trained_on(toy):
    built = corpus.build_corpus("smoke", pin=True)
    tokenizer = corpus.load_tokenizer()
    learned = tokenizer.decode(built.train.tolist())
    for tokens in built.validation.values():
        ends = np.flatnonzero(tokens == corpus.END_OF_TEXT)
        assert len(ends) >= 2
        held = [tokenizer.decode(text.tolist()) for text in np.split(tokens, ends)]
        passages = [p for text in held for p in text.split("\n\n") if len(p) > 80]
        assert passages
        assert not [p for p in passages if p in learned]
    spent = sum(len(tokenizer.decode(t.tolist()).encode()) for t in built.validation.values())
    stated = sum(len(built.validation[d]) * r for d, r in built.bytes_per_token.items())
    assert spent == pytest.approx(stated, rel=0.01)


def test_both_tiers_share_tokens_and_the_larger_holds_out_the_same_files(toy):
    small, large = (corpus.build_corpus(tier, pin=True) for tier in corpus.TIERS)
    assert large.vocab_size == small.vocab_size
    assert len(large.train) > len(small.train)
    names = [corpus.read_manifest(tier)["tokenizer_sha256"] for tier in corpus.TIERS]
    assert names[0] == names[1]


def test_what_is_built_is_not_built_again(toy, monkeypatch):
    built = corpus.build_corpus("smoke", pin=True)
    monkeypatch.setattr(documents, "fetch", lambda *rest: pytest.fail("fetched again"))
    assert corpus.build_corpus("smoke").digest == built.digest
    assert corpus.load("smoke", build=True).digest == built.digest


# --- domains of the training documents -----------------------------------------------------


def index_path(tier="smoke"):
    return paths.CACHE / "corpus" / tier / domains.INDEX


def test_the_text_of_a_domain_is_the_text_of_its_files(toy):
    """Of the toy's sources each has a domain of its own, but for code, which holds prose too."""
    built = corpus.build_corpus("smoke", pin=True)
    tokenizer, manifest = corpus.load_tokenizer(), corpus.read_manifest("smoke")
    marks = {"code": "def f", "services": "Do: ", "data": " 20", "prose": ""}
    seen = 0
    for domain, mark in marks.items():
        text = built.text(domain)
        assert len(text) == manifest["domains"][domain]["tokens"]
        tokens = text[np.arange(len(text))]
        assert tokens.dtype == np.uint16
        ends = np.flatnonzero(tokens == corpus.END_OF_TEXT) + 1
        passages = [tokenizer.decode(part.tolist()) for part in np.split(tokens, ends)[:-1]]
        assert len(passages) == manifest["domains"][domain]["documents"]
        assert all(mark in passage for passage in passages)
        assert ("def f" in passages[0]) == (domain == "code")
        seen += len(text)
    assert seen == len(built.train)
    assert built.text() is built.train


def test_batches_of_a_domain_hold_its_windows_and_no_others(toy):
    text = corpus.build_corpus("smoke", pin=True).text("data")
    count = (len(text) - 1) // 16
    drawn = corpus.batch(text, seed=3, step=0, batch_sequences=count, sequence_length=16)
    whole = text[np.arange(len(text))]
    wanted = [whole[start : start + 17].tolist() for start in range(0, 16 * count, 16)]
    assert sorted(drawn.tolist()) == sorted(wanted)


def test_an_index_is_added_to_tokens_that_stay_as_they_are(toy, monkeypatch):
    """What an earlier version built has none: it loads, and one command adds the same index."""
    built = corpus.build_corpus("smoke", pin=True)
    written = index_path().read_bytes()
    index_path().unlink()
    stamps = {p.name: p.stat().st_mtime_ns for p in index_path().parent.iterdir()}
    old = corpus.load("smoke")
    assert old.digest == built.digest
    with pytest.raises(ValueError, match=r"domain = 'code': needs the index .* --tier smoke$"):
        old.text("code")
    monkeypatch.setattr(corpus, "_write", lambda *rest: pytest.fail("built again"))
    assert corpus.build_corpus("smoke").digest == built.digest
    assert index_path().read_bytes() == written
    assert (
        stamps.items()
        <= {p.name: p.stat().st_mtime_ns for p in index_path().parent.iterdir()}.items()
    )
    with pytest.raises(ValueError, match=r"domain = 'verse': must be one of code, prose, serv"):
        built.text("verse")


def test_an_index_that_differs_from_the_manifest_is_refused_and_written_again(toy):
    corpus.build_corpus("smoke", pin=True)
    good = index_path().read_bytes()
    index_path().write_bytes(good[:-8])
    with pytest.raises(
        ValueError, match=r"corpus = 'smoke': train.domains differs from manifest-s"
    ):
        corpus.load("smoke")
    corpus.build_corpus("smoke")
    assert index_path().read_bytes() == good


def test_the_corpus_of_every_recorded_run_is_the_one_of_the_manifest():
    """So that the index of domains, or whatever is added to a build, moves no recorded run."""
    digests = {tier: corpus.read_manifest(tier)["digest"] for tier in corpus.TIERS}
    seen = 0
    for path in ledger.DIRECTORY.glob("*.jsonl"):
        for record in ledger.records(path):
            assert record["corpus_digest"] == digests[record["config"]["corpus"]]
            seen += 1
    assert seen > 100


def test_bad_corpora_are_refused_by_name(toy):
    with pytest.raises(ValueError, match=r"corpus = 'smoke': not built; run moe-leverage corpus"):
        corpus.load("smoke")
    for call in (corpus.load, corpus.build_corpus, corpus.read_manifest):
        with pytest.raises(ValueError, match=r"tier = 'huge': must be one of smoke, full"):
            call("huge")
    with pytest.raises(ValueError, match=r"has no manifest manifest-smoke.json"):
        corpus.build_corpus("smoke")
    assert not (paths.CACHE / "corpus/smoke").exists()
    corpus.build_corpus("smoke", pin=True)
    train = paths.CACHE / "corpus/smoke/train.bin"
    train.write_bytes(train.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"train.bin is .*, manifest-smoke.json says"):
        corpus.load("smoke")
    train.unlink()
    with pytest.raises(ValueError, match=r"train.bin is missing"):
        corpus.load("smoke")


def test_a_source_that_gives_another_text_is_named(toy):
    corpus.build_corpus("smoke", pin=True)
    path = paths.DATA / "corpus/manifest-smoke.json"
    manifest = json.loads(path.read_text())
    manifest["sources"]["data==1.0"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    (paths.CACHE / "corpus/smoke/train.bin").unlink()
    with pytest.raises(ValueError, match=r"corpus source = 'data==1.0': gave another text"):
        corpus.build_corpus("smoke")
    assert not list((paths.CACHE / "corpus").glob(".*"))


def test_a_wheel_that_differs_from_its_hash_is_fetched_again_and_then_named(toy, monkeypatch):
    wheel = paths.CACHE / "corpus/wheels/data-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b"tampered")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ValueError, match=r"corpus source data==1.0: ERROR"):
        corpus.build_corpus("smoke", pin=True)
    assert not (paths.CACHE / "corpus/smoke").exists()
    assert not list((paths.CACHE / "corpus").rglob(".*"))


def test_an_interrupted_build_leaves_nothing_half_written(toy, monkeypatch):
    built = corpus.build_corpus("smoke", pin=True)
    with monkeypatch.context() as patched:
        patched.setattr(corpus, "_describe", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            corpus.build_corpus("smoke", pin=True)
    assert not list((paths.CACHE / "corpus").glob(".*"))
    assert corpus.load("smoke").digest == built.digest
    killed = paths.CACHE / "corpus/.smoke.partial"
    killed.mkdir()
    (killed / "train.bin").write_bytes(b"half")
    (paths.CACHE / "corpus/smoke/train.bin").unlink()
    assert corpus.build_corpus("smoke").digest == built.digest
    assert not killed.exists()


def test_batches_visit_every_window_once_an_epoch_and_depend_on_nothing_else():
    stream = np.arange(1_001, dtype=np.uint16)
    shape = {"batch_sequences": 3, "sequence_length": 10}
    steps = [corpus.batch(stream, seed=4, step=step, **shape) for step in range(67)]
    starts = np.concatenate(steps)[:, 0]
    assert sorted(starts[:100].tolist()) == list(range(0, 1_000, 10))
    assert sorted(starts[100:200].tolist()) == list(range(0, 1_000, 10))
    assert starts[:100].tolist() != starts[100:200].tolist()
    assert all((rows == rows[:, :1] + np.arange(11)).all() for rows in steps)
    again = corpus.batch(stream, seed=4, step=50, **shape)
    assert again.dtype == np.int64
    assert (again == steps[50]).all()
    assert (corpus.batch(stream, seed=5, step=50, **shape) != again).any()
    assert corpus.batch(stream, seed=0, step=0, **shape)[:, 0].tolist() == [110, 920, 30]
    with pytest.raises(ValueError, match=r"sequence_length = 2000: is longer than the 1001"):
        corpus.batch(stream, seed=0, step=0, batch_sequences=1, sequence_length=2_000)


def test_repetitions_go_and_what_differs_stays():
    def document(key, text):
        return Document(bytes([key]), "prose", "one==1.0", 0, text)

    first, second = prose(1, 600), prose(2, 600)
    near = first.replace("router", "route", 3)
    boilerplate = (
        "Permission is hereby granted, free of charge, to any person obtaining a copy. " * 2
    )
    given = [
        document(0, boilerplate + "\n\n" + first),
        document(1, boilerplate + "\n\n" + second),
        document(2, near),
        document(3, first),
    ]
    kept = list(documents.deduplicate(given))
    assert [document.key[0] for document in kept] == [0, 1]
    assert boilerplate in kept[0].text
    assert boilerplate not in kept[1].text
    assert kept[1].text.endswith(second[-200:])


def test_only_text_of_wanted_files_is_read(tmp_path):
    page = prose(3, 120)
    files = {
        "p/a.py": f'"""{page}"""\nx = 1\n',
        "p/b.rst": page.replace("expert", "Experte"),
        "p/c.png": "no",
        "p/d.py": "\0" + page,
        "p/e.json": json.dumps({"a": {"b": page}}),
        "p-1.0.dist-info/METADATA.txt": page,
    }
    wheel = wheel_of(tmp_path, "p", files)
    source = Source(name="p", version="1.0", wheel=wheel.name, sha256="", licence="MIT")
    found = [(document.domain, document.text[:12]) for document in documents.extract(source, wheel)]
    assert sorted(domain for domain, _ in found) == ["data", "prose", "prose"]
    assert ("data", 'a.b: "' + page[:6]) in found


def test_sources_are_pinned_and_the_smoke_tier_is_small():
    small, large = documents.recipe("smoke"), documents.recipe("full")
    assert sum(large.shares.values()) == pytest.approx(1)
    assert large.train_tokens >= 60_000_000
    assert large.validation_tokens >= 400_000
    labels = [source.label for source in large.sources]
    assert len(set(labels)) == len(labels)
    assert {source.label for source in small.sources} < set(labels)
    for source in large.sources:
        assert len(bytes.fromhex(source.sha256)) == 32
        assert source.wheel.endswith("none-any.whl")
        assert source.licence


def test_manifests_tell_what_the_recipe_asks_for():
    for tier in corpus.TIERS:
        recipe, manifest = documents.recipe(tier), corpus.read_manifest(tier)
        rows = manifest["domains"]
        assert set(rows) == set(recipe.shares)
        for domain, row in rows.items():
            assert row["share"] == pytest.approx(recipe.shares[domain], abs=0.01)
            assert row["validation_tokens"] >= recipe.validation_tokens / len(rows)
            assert row["validation_documents"] > 3
        assert sum(row["tokens"] for row in rows.values()) >= recipe.train_tokens
        assert set(manifest["sources"]) == {source.label for source in recipe.sources}


def test_the_verb_names_a_mistake_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "moe_leverage", "corpus", "info", "--tier", "huge"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "moe-leverage: tier = 'huge': must be one of smoke, full\n"
    info = [sys.executable, "-m", "moe_leverage", "corpus", "info", "--json"]
    shown = json.loads(subprocess.run(info, capture_output=True, check=True).stdout)
    assert shown["domains"]["prose"]["licences"]


@pytest.mark.parametrize("part", ["vocab", "merges", "added_tokens", "normalizer"])
def test_a_tokenizer_that_gives_other_tokens_is_refused_and_built_again(toy, part):
    built = corpus.build_corpus("smoke", pin=True)
    path = paths.CACHE / "corpus/smoke/tokenizer.json"
    good = path.read_text()
    found = json.loads(good)
    if part == "vocab":
        names = list(found["model"]["vocab"])
        found["model"]["vocab"] |= {names[-1]: names.index(names[-2]), names[-2]: len(names) - 1}
    elif part == "merges":
        found["model"]["merges"].reverse()
    elif part == "added_tokens":
        found["added_tokens"] = []
    else:
        found["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"corpus = 'smoke': tokenizer\.json is [0-9a-f]{12}, man"):
        corpus.load("smoke")
    assert corpus.build_corpus("smoke").digest == built.digest
    assert json.loads(path.read_text()) == json.loads(good)
    for text in ("", "{", "[]", "[" * 100_000, '{"model": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"tokenizer\.json is damaged, manifest"):
            corpus.load("smoke")
    path.unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing, manifest"):
        corpus.load("smoke")


def test_a_download_is_held_to_its_hash(tmp_path, monkeypatch):
    commands = []

    def download(command, **rest):
        listing = command[command.index("--requirement") + 1]
        commands.append((command, Path(listing).read_text()))
        return subprocess.CompletedProcess(command, 1, "", "ERROR: none")

    monkeypatch.setattr(subprocess, "run", download)
    source = Source(name="one", version="1.0", wheel="one.whl", sha256="0" * 64, licence="MIT")
    with pytest.raises(ValueError, match=r"corpus source one==1\.0: ERROR: none"):
        documents.fetch(source, tmp_path)
    ((command, listed),) = commands
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(command)
    assert listed == f"one==1.0 --hash=sha256:{'0' * 64}\n"


def test_a_member_larger_than_a_document_can_be_is_not_read(tmp_path, monkeypatch):
    wheel = wheel_of(tmp_path, "one", {"p/large.txt": prose(1, 400), "p/small.txt": prose(2, 60)})
    source = Source(name="one", version="1.0", wheel=wheel.name, sha256="", licence="MIT")
    assert len({document.key for document in documents.extract(source, wheel)}) == 2
    with zipfile.ZipFile(wheel) as archive:
        sizes = sorted(info.file_size for info in archive.infolist())
    monkeypatch.setattr(documents, "LARGEST_MEMBER_BYTES", sizes[1] - 1)
    assert len({document.key for document in documents.extract(source, wheel)}) == 1


def test_of_a_packed_member_no_more_is_unpacked_than_a_member_may_have(tmp_path, monkeypatch):
    path = tmp_path / "one-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p/packed.txt.gz", gzip.compress(prose(1, 4000).encode()))
    source = Source(name="one", version="1.0", wheel=path.name, sha256="", licence="MIT")
    monkeypatch.setattr(documents, "LARGEST_MEMBER_BYTES", path.stat().st_size)
    found = [document.text for document in documents.extract(source, path)]
    assert found
    assert sum(map(len, found)) <= path.stat().st_size

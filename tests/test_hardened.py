"""Whatever a reader types, the answer is one short line, at once, and no file is touched."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from toy import DENSE, MOE, run_of

from moe_leverage import cli, paths
from moe_leverage.corpus import tokens
from moe_leverage.instruments import router_trace
from moe_leverage.studies import rounds
from moe_leverage.training import loop

NUMBERS = (
    "nan", "inf", "-inf", "1e400", "-1", "0", "1e-320", "-9223372036854775808", "9" * 400, "1e20",
    "0x10", "1_0", "", " ", "½", "1,5", "true",
)  # fmt: skip
WORDS = (
    "[/x]", "$\\frac$", "<script>", "=1+1", "../..", "\x1b[2J", "\u202e", "a" * 5000, "\udcff",
    "-", "--", "%s", "{}", "nope\nnope",
)  # fmt: skip
PLACES = (
    ".", "/", "/dev/null", "/dev/full", "none/file", "link", "dangling", "folder", "input.json",
    "", "a" * 300,
)  # fmt: skip
NUMBER, WORD, PLACE = map(st.sampled_from, (NUMBERS, WORDS, PLACES))
ANY = st.one_of(NUMBER, WORD, PLACE)
TAKEN = [place for place in PLACES if place not in ("input.json", "a" * 300)]  # by no file
MAPS = {
    "number.toml": "columns = 3", "list.toml": "units = ['nats']", "text.toml": "columns = 'loss'",
    "cell.toml": "columns.loss = [1]", "deep.toml": f"columns = {'[' * 10**5}",
    "twice.toml": "columns = {loss = 'loss', num_tokens = 'loss'}",
}  # fmt: skip


def toml(value: object) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    text = repr(value) if isinstance(value, float) else json.dumps("" if value is None else value)
    return text.encode("utf-8", "replace").decode()


def as_toml(document: dict[str, object]) -> str:
    """A document as a TOML file."""
    return "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in document.items())


STUDY = tomllib.loads((paths.DATA / "studies" / "example.toml").read_text("utf-8"))
MODEL = json.loads((paths.DATA / "models" / "Mixtral-8x7B.json").read_text("utf-8"))
JAMBA = json.loads((paths.DATA / "models" / "Jamba-1.5-Mini.json").read_text("utf-8"))
MANY = [i / 1000 for i in range(900)]
HUGE = {  # small files of what no machine holds
    "line.csv": gzip.compress(b"loss,flops\n" + b"0" * (1 << 28), 1),
    "list.csv": gzip.compress(b"[" + b" " * (1 << 28), 1),
    "cut.csv": gzip.compress(b"loss,flops\n3,1e18\n")[:-9],
    "columns.csv": ",".join(f"c{i}" for i in range(200_000)).encode() + b"\n",
    "digits.json": b'[{"loss": 3, "flops": 1' + b"0" * 5000 + b"}]",
    "layers.json": json.dumps(JAMBA | {"num_hidden_layers": 10**7}).encode(),
    "deep.yaml": b"a: " + b"[" * 10**4,
    "deep-config.toml": b"a = " + b"[" * 10**4,
    "seeds.toml": as_toml(STUDY | {"seeds": list(range(10**5))}).encode(),
    "axes.toml": as_toml(STUDY | {"axes": {"adam_beta2": MANY, "weight_decay": MANY}}).encode(),
}  # fmt: skip
CONFIGS = ("input.json", "deep.json", "binary", "list.json", "empty", *PLACES)
CONFIG = st.sampled_from(CONFIGS)


POINT = ["--activation-ratio", "0.1", "--granularity", "4", "--compute", "1e21"]


def line(*parts: object) -> st.SearchStrategy[list[str]]:
    """A command line; what is no text is drawn."""
    drawn = [part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts]
    return st.tuples(*drawn).map(lambda words: [str(word) for word in words])


# every verb with something that cannot be right: nothing here may train, fit or build
LINES = st.one_of(
    line("predict", "--activation-ratio", NUMBER, "--granularity", "4", "--compute", "nan"),
    line("predict", "--activation-ratio", "0.1", "--granularity", NUMBER, "--compute", "-1"),
    line("design", "--compute", NUMBER, "--max-total-params", "nan"),
    line("design", "--compute", "1e22", "--hf", st.sampled_from(TAKEN)),
    line("explain", st.one_of(WORD, CONFIG)),
    line("explain", "Ling-mini-beta", "--tokens", st.sampled_from(NUMBERS[:5])),
    line("compare", st.one_of(WORD, CONFIG), st.one_of(WORD, CONFIG)),
    line("train", "--config", CONFIG, "--out", st.sampled_from(TAKEN)),
    line("train", "--config", st.sampled_from(CONFIGS[1:]), "--execution", CONFIG),
    line("train", "--run", ANY),
    line("fit", st.one_of(WORD, CONFIG), "--report", PLACE),
    line("fit", st.one_of(WORD, CONFIG), "--map", CONFIG),
    line("fit", "runs.csv", "--map", st.sampled_from(list(MAPS))),
    line("fit", st.sampled_from(["line.csv", "list.csv", "cut.csv", "columns.csv", "digits.json"])),
    line("predict", "layers.json"),
    line("study", "plan", st.sampled_from(["seeds.toml", "axes.toml"])),
    line("study", st.sampled_from(["plan", "report", "adopt"]), ANY),
    line("evidence", "check", st.one_of(WORD, st.just("marin")), st.one_of(WORD, CONFIG)),
    line("predict", "--from", CONFIG, *POINT),
    line("router-trace", "--out", st.sampled_from(TAKEN)),
    line("corpus", "info", "--tier", ANY),
    line("corpus", "build", "--tier", ANY),
    line("study", "plan", ANY),
    line("study", "run", WORD.filter(lambda word: word != "--")),  # which would name all of them
    line("study", "run"),
    line("study", "run", "tuning", "--workers", "0", "--threads", NUMBER),
    line("study", "run", "tuning", "--max-minutes", st.sampled_from(["nan", "-1", "x"])),
    line("study", "run", "tuning", "--backend", WORD),
    line("audit", "--verdict", WORD.filter(bool)),
    line(ANY.filter(lambda word: word not in ("", "-", "--")), ANY),
    line("study", WORD),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with files that are not what a verb wants."""
    folder = tmp_path_factory.mktemp("hardened")
    (folder / "input.json").write_text(json.dumps(run_of(DENSE).to_dict() | {"num_steps": -1}))
    (folder / "deep.json").write_text("[" * 10**5)
    (folder / "list.json").write_text("[1, 2]")
    (folder / "binary").write_bytes(bytes(range(256)) * 9)
    (folder / "empty").touch()
    (folder / "runs.csv").write_text("loss,flops,A,G\n3,1e18,0.1,2\n")
    for name, content in HUGE.items():
        (folder / name).write_bytes(content)
    for name, text in MAPS.items():
        (folder / name).write_text(text)
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("input.json")
    (folder / "dangling").symlink_to("nowhere")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for module, name in ((rounds, "run_rounds"), (loop, "train"), (tokens, "_write")):
            patched.setattr(module, name, lambda *rest, **more: pytest.fail("work had begun"))
        patched.setattr(router_trace, "record", lambda **rest: pytest.fail("work had begun"))
        yield folder


MOST_BYTES = 1 << 30  # that an answer may take beside what this process holds already
MOST_SECONDS = 20
PEAK = Path("/proc/self/clear_refs")  # of Linux: "5" begins the peak of memory anew

# The same five hundred calls every time; as many others as one asks for by hand.
IS_FIXED = "MOE_LEVERAGE_EXAMPLES" not in os.environ
EXAMPLES = int(os.environ.get("MOE_LEVERAGE_EXAMPLES", "250"))


def state(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((p.name, p.lstat()) for p in folder.iterdir())
    return {name: (seen.st_size, seen.st_mtime_ns) for name, seen in found}


def answer(arguments: list[str]) -> tuple[object, str]:
    """The exit code of the command and what it said on the error stream."""
    error, before = io.StringIO(), sys.argv
    sys.argv = ["moe-leverage", *arguments]
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            cli.main()
    except SystemExit as ended:
        return ended.code, error.getvalue()
    finally:
        sys.argv = before
    return None, error.getvalue()


def held(name: str) -> int:
    """Bytes of memory that Linux notes of this process: VmRSS now, VmHWM at its peak."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) << 10


def check(arguments: list[str], folder: Path, codes: tuple[object, ...] = (2,)) -> None:
    """One answer; of other `codes` than 2 only what it costs and what it leaves alone."""
    files, begun = state(folder), time.process_time()
    if PEAK.exists():
        PEAK.write_text("5")
        before = held("VmRSS")
    code, said = answer(arguments)
    if PEAK.exists():
        assert held("VmHWM") - before <= MOST_BYTES
    assert code in codes, said
    assert time.process_time() - begun < MOST_SECONDS
    assert state(folder) == files
    assert "Traceback" not in said
    if code != 2:
        return
    assert said.startswith("moe-leverage: ")
    assert said.count("\n") == 1
    assert len(said) <= 300
    assert said[:-1].isprintable()
    assert "Errno" not in said


@settings(
    max_examples=EXAMPLES,
    derandomize=IS_FIXED,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@example(arguments=["fit", "deep.json", "--map", "input.json"])
@example(arguments=["fit", "deep.json"])
@example(arguments=["predict", "--from", "deep.json"])
@example(arguments=["explain", "deep.json"])
@example(arguments=["explain", "deep.yaml"])
@example(arguments=["explain", "deep-config.toml"])
@given(arguments=LINES)
def test_a_mistake_is_answered_in_one_line_and_touches_nothing(
    place: Path, arguments: list[str]
) -> None:
    check(arguments, place)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*NUMBERS, *WORDS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=6,
)
RUN = run_of(MOE).to_dict()
FIELDS = [*((name,) for name in RUN), *(("model", name) for name in RUN["model"])]
FIELDS += [("model", "routing", name) for name in RUN["model"]["routing"]]


@settings(
    max_examples=EXAMPLES,
    derandomize=IS_FIXED,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(field=st.sampled_from(FIELDS), value=VALUES)
def test_no_value_of_a_config_ends_in_a_traceback(
    place: Path, field: tuple[str, ...], value: object
) -> None:
    values = json.loads(json.dumps(RUN)) | {"colour": 1}  # so that none is ever trained
    part = values
    for name in field[:-1]:
        part = part[name]
    part[field[-1]] = value
    text = json.dumps(values)
    (place / "drawn.json").write_text(text.encode("utf-8", "replace").decode())
    check(["train", "--config", "drawn.json", "--out", "new.jsonl"], place)


def cells(rows: object) -> str:
    """Rows as CSV, whatever they hold."""
    table = io.StringIO()
    writer = csv.writer(table)
    for row in rows if isinstance(rows, list) else [rows]:
        writer.writerow(row if isinstance(row, list) else [row])
    return table.getvalue()


TABLE = [
    {"loss": 3.0 - i / 50, "flops": 10 ** (18 + i / 10), "A": 0.1 if i % 2 else 1.0, "run": f"r{i}"}
    for i in range(12)
]
FIT = json.loads(next((paths.DATA / "fits").glob("joint*.json")).read_text("utf-8"))
RUNGS = [
    ["variant", "FLOPs", "Paloma loss"],
    ["dense", 1e17, 4],
    ["dense", 1e19, 3],
    ["moe", 1e18, 3],
]
DOCUMENTS = (  # what reads a file, a file that is right, and how it is written
    (["explain", "drawn.json"], MODEL, json.dumps),
    (["fit", "drawn.json"], TABLE, json.dumps),
    (
        ["predict", "--from", "drawn.json", *POINT],
        {"format": 1, "fits": {"joint": FIT}},
        json.dumps,
    ),
    (["evidence", "check", "marin", "drawn.csv"], RUNGS, cells),
    (["study", "plan", "drawn.toml"], STUDY, as_toml),
    (["fit", "runs.csv", "--map", "drawn.toml"], {"columns": {"loss": "loss"}}, as_toml),
)


def spots(value: Any, above: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The place of every value in a document; of a long list the first few."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value[:4])
    for name, part in pairs:
        yield (*above, name)
        if isinstance(part, dict | list):
            yield from spots(part, (*above, name))


PLACES_IN = [(i, spot) for i, (_, right, _) in enumerate(DOCUMENTS) for spot in spots(right)]


@settings(
    max_examples=EXAMPLES,
    derandomize=IS_FIXED,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(at=st.sampled_from(PLACES_IN), value=VALUES)
def test_no_value_in_a_file_ends_in_a_traceback(
    place: Path, at: tuple[int, tuple[Any, ...]], value: object
) -> None:
    arguments, right, write = DOCUMENTS[at[0]]
    document: Any = json.loads(json.dumps(right))
    part = document
    for name in at[1][:-1]:
        part = part[name]
    part[at[1][-1]] = value
    file = next(word for word in arguments if word.startswith("drawn."))
    (place / file).write_bytes(write(document).encode("utf-8", "replace"))
    check(arguments, place, codes=(0, 1, 2))

"""Whatever a reader types, the answer is one short line, at once, and no file is touched."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from toy import DENSE, MOE, run_of

from moe_leverage import cli
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
CONFIGS = ("input.json", "deep.json", "binary", "list.json", "empty", *PLACES)
CONFIG = st.sampled_from(CONFIGS)


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
    line("router-trace", "--out", st.sampled_from(TAKEN)),
    line("corpus", "info", "--tier", ANY),
    line("corpus", "build", "--tier", ANY),
    line("study", "plan", ANY),
    line("study", "run", WORD.filter(lambda word: word != "--")),  # which would name all of them
    line("study", "run"),
    line("study", "run", "hparams", "--workers", "0", "--threads", NUMBER),
    line("study", "run", "hparams", "--max-minutes", st.sampled_from(["nan", "-1", "x"])),
    line("study", "run", "hparams", "--backend", WORD),
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


def check(arguments: list[str], folder: Path) -> None:
    files, begun = state(folder), time.process_time()
    if PEAK.exists():
        PEAK.write_text("5")
        before = held("VmRSS")
    code, said = answer(arguments)
    if PEAK.exists():
        assert held("VmHWM") - before <= MOST_BYTES
    assert code == 2, said
    assert said.startswith("moe-leverage: ")
    assert said.count("\n") == 1
    assert len(said) <= 300
    assert said[:-1].isprintable()
    assert "Errno" not in said
    assert "Traceback" not in said
    assert time.process_time() - begun < MOST_SECONDS
    assert state(folder) == files


@settings(
    max_examples=EXAMPLES,
    derandomize=IS_FIXED,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@example(arguments=["fit", "deep.json", "--map", "input.json"])
@example(arguments=["fit", "deep.json"])
@example(arguments=["predict", "--from", "deep.json"])
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

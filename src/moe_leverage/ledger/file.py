"""The files of the ledger: one JSON line a run, appended safely, checked throughout.

Every measured number of the book comes from these lines (data/ledger/<study>.jsonl). Runs are never
deleted; one that is left out of an analysis carries its reason in `excluded`.
"""

from __future__ import annotations

import functools
import json
import math
import os
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import orjson
from filelock import lock_descriptor

from moe_leverage import paths, pruning, stages
from moe_leverage.accounting import (
    ForwardFlops,
    ParameterCount,
    count_forward_flops,
    count_parameters,
    count_training_flops,
)
from moe_leverage.config import RunConfig
from moe_leverage.rules import read_object, require, shown

SCHEMA = 1  # of a line; a reader refuses any other
FOREIGN = ("other", "state_updates")  # parts that models of other libraries have alone
DIRECTORY = paths.DATA / "ledger"
FIRST_LADDER = DIRECTORY / "first-ladder"  # an archive, which no law reads: see its README
PLANS = "plans.json"  # beside the studies' files: role and identities of the runs of each
ROLES = {  # what a study is for, which decides the analyses that read it
    "search": "learning rates and batches of one design at each budget (Section 2.2)",
    "sizes": "models of several sizes at each budget (Section 2.3)",
    "plain": "the baseline's recipe along A, G or C (Section 4.1)",
    "variant": "one further thing changed beside A, G and C",
    "held out": "kept from every fit, to test it",
    "check": "something about the runs themselves; feeds no law",
    "pilot": "chosen before there was a protocol; feeds no law",
}
STATUSES = ("ok", "diverged")
LINE_START = b'{"schema":'  # of every line that `append` writes
BLOCK = 1 << 16  # bytes read at once from the end of a file
LARGEST_LINE = 64 << 20  # bytes; a record has about 5,000
RESULTS = (  # None in the record of a diverged run
    "validation_loss_nats", "validation_standard_error_nats", "validation_bits_per_byte",
    "validation", "load", "unmerged_validation_loss_nats",
)  # fmt: skip


def describe(run: RunConfig) -> dict[str, Any]:
    """The part of a record that follows from the config alone: identity, axes, counts.

    N and N_a are `total_params` and `active_params`, M is `flops_per_token`, C `training_flops`. A
    run that prunes has N averaged over its steps and in the end beside, and C without its zeros. A
    run that begins from others has C with theirs, each counted once.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=1024, num_layers=4, d_model=64, num_heads=4,
    ...     num_kv_heads=2, d_ffn=192)
    >>> described = describe(RunConfig(model=model, corpus="smoke", sequence_length=256,
    ...     batch_sequences=8, num_steps=100, learning_rate=1e-3))
    >>> described["num_tokens"], described["axes"]["granularity"]
    (204800, 0.6666666666666666)
    """
    parameters = count_parameters(run.model)
    forward = count_forward_flops(run.model, run.sequence_length)
    return {
        "schema": SCHEMA,
        "run_id": run.identity(),
        "study": None,
        "excluded": None,
        "config": run.to_dict(),
        "axes": {
            "activation_ratio": run.model.activation_ratio,
            "granularity": run.model.granularity,
            "shared_ratio": run.model.shared_ratio,
            "total_params": parameters.non_vocabulary,
            "active_params": parameters.active_non_vocabulary,
            "flops_per_token": forward.non_embedding,
        },
        "num_tokens": run.num_tokens,
        "training_flops": count_training_flops(run),
        "parameters": _known_parts(parameters),
        "forward_flops": _known_parts(forward),
        **(_pruned(run) if run.prune_sparsity else {}),
        **(_chained(run) if run.parents else {}),
    }


def _pruned(run: RunConfig) -> dict[str, Any]:
    """N averaged over the steps, N in the end, and C of a machine that skips zeros."""
    return {
        "average_params": pruning.average_parameters(run),
        "final_params": pruning.parameters_after(run, run.num_steps),
        "sparse_training_flops": pruning.sparse_training_flops(run),
    }


def _chained(run: RunConfig) -> dict[str, Any]:
    """The runs it begins from, and C with all that lies behind it."""
    return {
        "parent_ids": [parent.identity() for parent in run.parents],
        "chain_training_flops": stages.chain_flops(run),
    }


def _known_parts(count: ParameterCount | ForwardFlops) -> dict[str, Any]:
    """The parts of a count that a model of ours can have."""
    return {name: value for name, value in asdict(count).items() if name not in FOREIGN}


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line to the ledger at `path`: locked against other writers, on the disk at return.

    What a killed writer left of a line is cut off first. A file whose last line is no record is
    no ledger, and stays as it is: ValueError; so it does if it holds the run already.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     append(Path(folder) / "toy.jsonl", {"schema": 1, "run_id": "c0ffee"})
    ...     [line["run_id"] for line in records(Path(folder) / "toy.jsonl")]
    ['c0ffee']
    """
    line = json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.require_output("ledger", path)
    with path.open("a+b") as file:
        lock_descriptor(file.fileno())
        end, start = _end_of_records(file, path)
        rule = f"stands in {path.name} already"
        require(record.get("run_id") not in statuses(path), "run", record.get("run_id"), rule)
        file.truncate(end)
        file.write(start + line)
        file.flush()
        os.fsync(file.fileno())


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of one file in order; a last line still being written is left out.

    Raises ValueError naming file and line where a line is no record of this schema.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path.name}:{number}"
            if line.endswith(b"\n") or _is_whole(line):
                yield _record(line, place)


def config_of(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The config in a record, with its model; ValueError naming the file where it has none.

    >>> config_of({"schema": 1}, "toy.jsonl")
    Traceback (most recent call last):
    ValueError: ledger = 'toy.jsonl': a record has no config of a run and its model
    """
    config = record.get("config")
    is_config = isinstance(config, dict) and isinstance(config.get("model"), dict)
    require(is_config, "ledger", place, "a record has no config of a run and its model")
    return dict(typing.cast(dict[str, Any], config))


def statuses(path: Path) -> dict[str, str]:
    """Status of every run in one file of the ledger, by identity; empty where there is no file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "toy.jsonl"
    ...     _ = path.write_text('{"schema": 1, "run_id": "c0ffee", "status": "ok"}\\n{"schema":')
    ...     statuses(path)
    {'c0ffee': 'ok'}
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return dict(_statuses(path, found.st_ino, found.st_size, found.st_mtime_ns))


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How many of a study's planned runs are recorded; `planned` is 0 until its plan is known."""

    study: str
    recorded: int
    planned: int

    @property
    def is_complete(self) -> bool:
        """Whether every planned run is recorded: only then may a study decide anything."""
        return 0 < self.planned == self.recorded

    @property
    def words(self) -> str:
        """A few words for the reader.

        >>> Standing(study="shared", recorded=4, planned=18).words
        'shared: 4 of 18 runs'
        """
        of = str(self.planned) if self.planned else "an unknown number of"
        return f"{self.study}: {self.recorded} of {of} runs"


def standing(study: str, directory: Path = DIRECTORY) -> Standing:
    """What is recorded of the runs that a study plans, diverged and excluded ones among them."""
    path = directory / f"{study}.jsonl"
    planned = set(plans(directory).get(study, {}).get("runs", ()))
    have = set(statuses(path))
    counted = have & planned if planned else have
    return Standing(study=study, recorded=len(counted), planned=len(planned))


def plans(directory: Path = DIRECTORY) -> dict[str, dict[str, Any]]:
    """The plan of every study as `write_plans` wrote it, in its order; empty before."""
    path = directory / PLANS
    found = read_object(path, "plans") if path.is_file() else {}
    for study, plan in found.items():
        rule = "has no role and runs; remove the file, then moe-leverage study pin"
        require(_is_plan(plan), f"{PLANS}.{study}", type(plan).__name__, rule)
    return found


def _is_plan(plan: object) -> bool:
    """Whether this is what `write_plans` writes of a study: its role and identities of runs."""
    if not isinstance(plan, dict) or not isinstance(plan.get("role"), str):
        return False
    runs = plan.get("runs")
    return isinstance(runs, list) and all(isinstance(run_id, str) for run_id in runs)


def write_plans(found: Mapping[str, Mapping[str, Any]], directory: Path = DIRECTORY) -> None:
    """Write what each study says of itself, `role`, and the identities of its `runs`, a line each.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_plans({"toy": {"role": "plain", "runs": ["c0ffee"]}}, Path(folder))
    ...     standing("toy", Path(folder)).words
    'toy: 0 of 1 runs'
    """
    lines = [f" {json.dumps(study)}: {json.dumps(dict(plan))}" for study, plan in found.items()]
    paths.write_atomically(directory / PLANS, "{\n" + ",\n".join(lines) + "\n}\n")


def require_ledger(path: Path) -> None:
    """Refuse a file to which `append` would refuse to add a line; one that is not there is new."""
    if path.exists():
        with path.open("rb") as file:
            _end_of_records(file, path)


def find(run_id: str, directory: Path = DIRECTORY) -> dict[str, Any]:
    """The record of one run, from whichever study's file holds it; ValueError if none does."""
    for path in sorted(directory.glob("*.jsonl")):
        if run_id in statuses(path):
            return find_in(path, run_id)
    raise ValueError(f"run = {shown(run_id)}: is not in {directory.name}/")


def find_in(path: Path, run_id: str) -> dict[str, Any]:
    """The record of one run in this file, which holds it."""
    return next(record for record in records(path) if record.get("run_id") == run_id)


def verify(directory: Path = DIRECTORY) -> list[str]:
    """What is wrong with the ledger, one sentence each; empty if every line holds.

    Identity and counts are computed again from each config, so that a change of code that would
    change their meaning is found.
    """
    problems = []
    for path in sorted(directory.glob("*.jsonl")):
        seen: Counter[str] = Counter()
        try:
            for number, record in enumerate(records(path), start=1):
                place = f"{path.name}:{number}"
                problems += [f"{place}: {problem}" for problem in _problems(record, path.stem)]
                seen[str(record.get("run_id"))] += 1
        except ValueError as error:
            problems.append(str(error))
        twice = [run_id for run_id, times in seen.items() if times > 1]
        problems += [f"{path.name}: run {run_id} stands more than once" for run_id in twice]
    return problems


def _problems(record: Mapping[str, Any], study: str) -> Iterator[str]:
    """What one record gets wrong."""
    try:
        run = RunConfig.from_dict(record["config"])
    except (KeyError, TypeError, ValueError) as error:
        yield f"config: {error}"
        return
    expected = describe(run) | {"study": study, "excluded": record.get("excluded")}
    del expected["config"]  # its fields were read above; an option added since is at its default
    for name, value in expected.items():
        if record.get(name) != value:
            yield f"{name} is {record.get(name)!r}, its config gives {value!r}"
    if record.get("status") not in STATUSES:
        yield f"status is {record.get('status')!r}, not one of {', '.join(STATUSES)}"
    loss, is_ok = record.get("validation_loss_nats"), record.get("status") == "ok"
    if is_ok and not (isinstance(loss, float) and math.isfinite(loss) and loss > 0):
        yield f"validation_loss_nats is {loss!r} in a run that is ok"
    if is_ok and record.get("steps_done") != run.num_steps:
        yield f"steps_done is {record.get('steps_done')!r} of {run.num_steps} in a run that is ok"
    if not is_ok and loss is not None:
        yield f"validation_loss_nats is {loss!r} in a run that is not ok"


def _is_whole(line: bytes) -> bool:
    """Whether a last line without its end is a record: some editors leave the end off."""
    try:
        return "schema" in orjson.loads(line)
    except (orjson.JSONDecodeError, TypeError):
        return False


@functools.lru_cache(maxsize=256)
def _statuses(path: Path, inode: int, size: int, changed: int) -> dict[str, str]:
    """What `statuses` says, parsed once for each state of a file."""
    return {str(r.get("run_id")): str(r.get("status")) for r in records(path)}


def _record(line: bytes, place: str) -> dict[str, Any]:
    """The record in a line: the one parser of the ledger."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"ledger = {shown(place)}: not JSON: {error}") from None
    is_record = isinstance(record, dict) and "schema" in record
    require(is_record, "ledger", place, "not the record of a run")
    rule = f"schema {shown(record['schema'])}, this version reads {SCHEMA}"
    require(record["schema"] == SCHEMA, "ledger", place, rule)
    return dict(record)


def _end_of_records(file: IO[bytes], path: Path) -> tuple[int, bytes]:
    """Where the next line belongs, and what has to stand before it.

    After the last record; a record that lacks its line end is given it, and what a killed writer
    left of one is no record. ValueError where the file is no ledger.
    """
    last, left, begin = _last_lines(file)
    if last:
        try:
            _record(last, path.name)
        except ValueError as error:
            rule = "its last line is no record, so it is no ledger; nothing was written"
            raise ValueError(f"ledger = {shown(str(path))}: {rule} ({error})") from None
    if _is_whole(left):
        return begin + len(left), b"\n"
    torn = left[: 2 * len(LINE_START)].replace(b": ", b":")[: len(LINE_START)]
    is_ours = left.startswith(b"{") if last else LINE_START.startswith(torn)
    rule = "its last line is not the beginning of a record, so it is no ledger"
    require(is_ours or not left, "ledger", str(path), f"{rule}; nothing was written")
    return begin, b""


def _last_lines(file: IO[bytes]) -> tuple[bytes, bytes, int]:
    """The last whole line of a file, what follows it, and where that begins."""
    size = file.seek(0, os.SEEK_END)
    place, tail = size, b""
    while place > 0 and tail.count(b"\n") < 2 and len(tail) < LARGEST_LINE:
        step = min(BLOCK, place)
        place -= step
        file.seek(place)
        tail = file.read(step) + tail
    whole, end, left = tail.rpartition(b"\n")
    return whole.rpartition(b"\n")[2] + end, left, size - len(left)

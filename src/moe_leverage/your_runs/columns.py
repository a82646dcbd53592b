"""Which column of a reader's CSV is which quantity, in which unit: from a map file or by name.

A guess is made from the names of columns alone and is always shown; where two columns could be the
same quantity there is no guess but an error.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moe_leverage.accounting import TRAINING_PASSES
from moe_leverage.config import require

SYNONYMS: dict[str, tuple[str, ...]] = {
    "loss": (
        "val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "final_loss",
        "validation_loss_nats", "loss_nats",
    ),
    "num_tokens": ("tokens", "d", "training_tokens", "train_tokens", "n_tokens", "tokens_seen"),
    "compute": ("flops", "c", "training_flops", "train_flops", "total_flops", "compute_flops"),
    "is_moe": ("moe", "sparse", "family", "kind"),
    "activation_ratio": ("a", "activation", "sparsity_ratio"),
    "granularity": ("g",),
    "shared_ratio": ("s", "shared_expert_ratio"),
    "num_experts": ("e", "experts", "n_experts", "n_routed_experts", "num_local_experts"),
    "num_active_experts": ("e_a", "top_k", "topk", "num_experts_per_tok", "active_experts", "k"),
    "num_shared_experts": ("e_s", "shared_experts", "n_shared_experts"),
    "d_model": ("hidden_size", "width", "dim"),
    "d_expert": ("moe_intermediate_size", "expert_width", "expert_dim"),
    "d_ffn": ("intermediate_size", "ffn_width", "d_ff"),
    "num_layers": ("layers", "n_layers", "num_hidden_layers", "depth"),
    "num_dense_layers": ("n_dense", "first_k_dense_replace", "dense_layers"),
    "num_heads": ("heads", "n_heads", "num_attention_heads"),
    "num_kv_heads": ("kv_heads", "n_kv_heads", "n_kv_head", "num_key_value_heads"),
    "vocab_size": ("vocab", "vocabulary"),
    "sequence_length": ("seq_len", "context_length", "sequence"),
    "flops_per_token": ("m",),
    "active_params": ("n_a", "activated_params", "params_active"),
    "total_params": ("n", "params", "num_params", "parameters"),
    "learning_rate": ("lr", "peak_lr", "eta", "max_lr"),
    "batch_tokens": ("tokens_per_batch", "batch_size_tokens"),
    "seed": ("random_seed",),
    "status": ("state",),
    "variant": (),
}  # fmt: skip
COUNTS = {"": 1.0, "thousands": 1e3, "millions": 1e6, "billions": 1e9, "trillions": 1e12}
UNITS: dict[str, dict[str, float]] = {
    "loss": {"nats": 1.0, "bits": float(np.log(2))},
    "activation_ratio": {"fraction": 1.0, "percent": 0.01},
    "shared_ratio": {"fraction": 1.0, "percent": 0.01},
    "num_tokens": {"tokens": 1.0} | COUNTS,
    "batch_tokens": {"tokens": 1.0} | COUNTS,
    "active_params": {"parameters": 1.0} | COUNTS,
    "total_params": {"parameters": 1.0} | COUNTS,
    "flops_per_token": {"flops": 1.0} | COUNTS,
    "compute": {"training": 1.0, "forward": float(TRAINING_PASSES), "six_n": 1.0},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnMap:
    """Which column of the file is which, in which unit."""

    columns: Mapping[str, str]
    units: Mapping[str, str]
    guessed: bool

    def to_toml(self) -> str:
        """The map as a file that `--map` reads."""
        lines = ["[columns]", *(f'{ours} = "{theirs}"' for ours, theirs in self.columns.items())]
        lines += ["", "[units]", *(f'{ours} = "{unit}"' for ours, unit in self.units.items())]
        return "\n".join(lines) + "\n"


def read_headers(path: Path) -> tuple[list[str], str]:
    """The column names of a CSV and the character between them; ValueError if it is no CSV."""
    require(path.is_file(), "RUNS", str(path), "is not a file")
    with path.open("rb") as file:
        start = file.read(1 << 16)
    require(bool(start.strip()), "RUNS", path.name, "is empty")
    is_text = b"\0" not in start and not start.startswith((b"PK", b"\x1f\x8b"))
    require(is_text, "RUNS", path.name, "is not a text file; save it as CSV in UTF-8")
    line = start.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").split(b"\n")[0]
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}, row 1: {encoding_rule(line, error)}") from None
    separator = max((",", ";", "\t"), key=text.count)
    headers = [cell.strip().strip('"') for cell in text.split(separator)]
    twice = {name for name in headers if headers.count(name) > 1}
    require(not twice, f"{path.name}, row 1", sorted(twice), "each column needs a name of its own")
    return headers, separator


def guess_map(headers: list[str]) -> ColumnMap:
    """The map that the column names suggest; ValueError where two could be the same column."""
    columns: dict[str, str] = {}
    units: dict[str, str] = {}
    plain = {header: re.sub(r"[^a-z0-9]+", "_", header.lower()).strip("_") for header in headers}
    for ours, names in SYNONYMS.items():
        exact = [header for header, name in plain.items() if name == ours]
        found = exact or [h for h, name in plain.items() if _split_unit(ours, name)[0] in names]
        found = found or [h for h, name in plain.items() if _split_unit(ours, name)[0] == ours]
        rule = "could all be it; say which in a --map file"
        require(len(found) <= 1, ours, found, rule)
        if found:
            columns[ours] = found[0]
            if ours in UNITS:
                units[ours] = _split_unit(ours, plain[found[0]])[1] or next(iter(UNITS[ours]))
    return _checked_map(ColumnMap(columns=columns, units=units, guessed=True), headers)


def load_map(path: Path, headers: list[str]) -> ColumnMap:
    """The map in a TOML file with tables [columns] and [units]."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--map {path.name}: {error}") from None
    for name in tables:
        require(name in ("columns", "units"), f"--map {path.name}", name, "is no known table")
    columns, given = tables.get("columns", {}), tables.get("units", {})
    units = {name: given.get(name, next(iter(UNITS[name]))) for name in columns if name in UNITS}
    for name in given:
        require(name in units, f"--map [units] {name}", given[name], "has no unit, or no column")
    return _checked_map(ColumnMap(columns=columns, units=units, guessed=False), headers)


def _checked_map(mapping: ColumnMap, headers: list[str]) -> ColumnMap:
    for ours, theirs in mapping.columns.items():
        rule = f"is not known; columns are {', '.join(SYNONYMS)}"
        require(ours in SYNONYMS, f"--map [columns] {ours}", theirs, rule)
        rule = f"is not in the file, which has {', '.join(headers)}"
        require(theirs in headers, f"column {ours}", theirs, rule)
    for ours, unit in mapping.units.items():
        rule = f"must be one of {', '.join(filter(None, UNITS[ours]))}"
        require(unit in UNITS[ours], f"--map [units] {ours}", unit, rule)
    advice = f"not found among {', '.join(headers)}; name it in a --map file"
    require("loss" in mapping.columns, "loss", None, advice)
    has_size = {"num_tokens", "compute"} & set(mapping.columns)
    require(bool(has_size), "num_tokens or compute", None, advice)
    return mapping


def _split_unit(ours: str, name: str) -> tuple[str, str]:
    """A column name without its unit, and the unit: (`tokens`, `billions`)."""
    endings = {unit: unit for unit in UNITS.get(ours, {}) if unit}
    if "billions" in endings:
        endings |= {"b": "billions", "bn": "billions", "m": "millions", "t": "trillions"}
    if ours == "compute":
        endings |= {"forward_flops": "forward", "6nd": "six_n"}
    for ending, unit in endings.items():
        if name.endswith(f"_{ending}"):
            return name.removesuffix(f"_{ending}"), unit
    return name, ""


def encoding_rule(line: bytes, error: UnicodeDecodeError) -> str:
    """What is wrong with a line that is not UTF-8."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "the file is UTF-16; save it as UTF-8"
    return f"byte {line[error.start]:#04x} is not UTF-8; save the file as UTF-8"

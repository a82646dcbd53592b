"""Which column of a reader's table is which quantity, in which unit: as told, or by its name.

A guess is made from names, confirmed by sizes where a name can mean two things, and always shown.
Where two columns could be the same quantity there is no guess but an error that names both.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from moe_leverage.accounting import TRAINING_PASSES
from moe_leverage.rules import require
from moe_leverage.your_runs.values import PF_DAY, numbers

# Names as `plain_name` writes them. The first tuple of a quantity is read before the second, whose
# names are weaker: they count where no column bears one of the first.
SYNONYMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "loss": (
        ("val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "final_loss",
         "validation_loss_nats", "loss_nats", "nll", "cross_entropy", "final_val_loss"),
        ("perplexity", "ppl", "val_ppl", "word_perplexity", "eval_ppl", "val_perplexity",
         "eval_perplexity", "test_perplexity"),
        ("bpb", "bits_per_byte", "val_bpb", "eval_bpb", "bits_per_token"),
    ),
    "num_tokens": (
        ("tokens", "d", "training_tokens", "train_tokens", "n_tokens", "tokens_seen",
         "total_tokens", "tokens_trained", "token_count"),
    ),
    "compute": (
        ("flops", "flop", "c", "training_flops", "train_flops", "total_flops", "compute_flops",
         "training_flop", "total_flop", "training_compute", "train_compute", "c_no_emb", "c_6nd",
         "c_6nd_no_emb"),
        ("budget", "budget_flops", "compute_budget", "flop_budget", "flops_budget"),
    ),
    "flops_per_step": (("flop_per_step", "flops_per_iteration", "flops_per_iter"),),
    "is_moe": (
        ("moe", "sparse", "kind", "is_sparse"),
        ("family", "variant", "type", "model_type", "arch", "architecture", "ffn_type"),
    ),
    "activation_ratio": (("a", "activation", "sparsity_ratio", "active_ratio"),),
    "granularity": (("g",),),
    "shared_ratio": (("s", "shared_expert_ratio"),),
    "num_experts": (
        ("e", "experts", "n_experts", "n_routed_experts", "num_local_experts", "nume",
         "num_routed_experts", "total_experts"),
    ),
    "num_active_experts": (
        ("e_a", "top_k", "topk", "num_experts_per_tok", "active_experts", "k", "moe_top_k",
         "experts_per_token", "num_experts_per_token", "moe_topk"),
    ),
    "num_shared_experts": (("e_s", "shared_experts", "n_shared_experts"),),
    "shared_width": (
        ("sed", "shared_expert_dim", "shared_expert_intermediate_size", "shared_expert_width",
         "moe_shared_expert_intermediate_size"),
    ),
    "d_model": (("hidden_size", "width", "dim", "h", "hidden_dim", "model_dim", "n_embd"),),
    "d_expert": (("moe_intermediate_size", "expert_width", "expert_dim", "moeh", "expert_ffn"),),
    "d_ffn": (("intermediate_size", "ffn_width", "d_ff", "ffnh", "ffn_dim", "dff"),),
    "num_layers": (
        ("layers", "n_layers", "num_hidden_layers", "depth", "numl", "num_blocks", "n_layer"),
    ),
    "num_dense_layers": (("n_dense", "first_k_dense_replace", "dense_layers", "numld"),),
    "num_heads": (("heads", "n_heads", "num_attention_heads", "numh", "n_head"),),
    "num_kv_heads": (("kv_heads", "n_kv_heads", "n_kv_head", "num_key_value_heads"),),
    "vocab_size": (("vocab", "vocabulary", "n_vocab"),),
    "sequence_length": (("seq_len", "context_length", "sequence", "seqlen", "seq_length"),),
    "flops_per_token": (("m", "flop_per_token"),),
    "active_params": (
        ("n_a", "na", "activated_params", "params_active", "active", "active_parameters",
         "params_active_precise", "activated_parameters", "num_active_params", "n_active"),
        ("dense_parameter_count",),
    ),
    "total_params": (
        ("n", "n_no_emb", "params", "num_params", "parameters", "total", "model_size",
         "total_parameters", "total_parameter_count", "parameter_count", "num_parameters",
         "n_params", "param_count"),
    ),
    "learning_rate": (("lr", "peak_lr", "eta", "max_lr", "peak_learning_rate"),),
    "batch_tokens": (("tokens_per_batch", "batch_size_tokens"),),
    "seed": (("random_seed", "torch_seed", "init_seed", "data_seed", "rng_seed"),),
    "status": (("state", "run_state"),),
    "run": (
        ("run_id", "run_name", "hyper_id", "exp_name", "experiment_id", "trial_id", "run_key"),
        ("name", "id"),
    ),
    "step": (("steps", "iteration", "iter", "global_step", "train_step", "num_steps"),),
    "outlier": (("is_outlier", "excluded", "exclude"),),
    "variant": ((), ("router_type", "routing", "router")),
}  # fmt: skip
ESSENTIAL = (  # a doubt about these is an error; about any other the column is left unread
    "loss", "num_tokens", "compute", "is_moe", "activation_ratio", "granularity", "num_experts",
    "num_active_experts", "d_expert", "flops_per_token", "active_params", "total_params",
)  # fmt: skip
WEAK_LABELS = ("is_moe",)  # whose weaker names count only where every value is a word for it
LOG10 = "log10"
COUNTS = {
    "": 1.0, "thousands": 1e3, "millions": 1e6, "billions": 1e9, "trillions": 1e12, LOG10: 1.0,
}  # fmt: skip
SIZES = {"gflops": 1e9, "tflops": 1e12, "pflops": 1e15, "eflops": 1e18, "zflops": 1e21}
PERPLEXITY, BITS_PER_BYTE = "perplexity", "bits per byte"
IN_LOG10 = re.compile(r"\s*log_?10\s*[ _([]\s*(?P<of>.*?)[)\]\s]*")  # log10(C), log10_flops
UNITS: dict[str, dict[str, float]] = {
    "loss": {
        "nats": 1.0, "bits": float(np.log(2)), BITS_PER_BYTE: float(np.log(2)), PERPLEXITY: 1.0,
    },
    "activation_ratio": {"fraction": 1.0, "percent": 0.01},
    "shared_ratio": {"fraction": 1.0, "percent": 0.01},
    "num_tokens": {"tokens": 1.0} | COUNTS,
    "batch_tokens": {"tokens": 1.0} | COUNTS,
    "active_params": {"parameters": 1.0} | COUNTS,
    "total_params": {"parameters": 1.0} | COUNTS,
    "flops_per_token": {"forward": 1.0, "training": 1 / TRAINING_PASSES} | COUNTS,
    "flops_per_step": {"training": 1.0} | SIZES,
    "compute": {
        "training": 1.0, "forward": float(TRAINING_PASSES), "six_n": 1.0, "pf_days": PF_DAY,
        LOG10: 1.0,
    } | SIZES,
}  # fmt: skip
MOE_WORDS = {
    "true": True, "1": True, "moe": True, "yes": True, "sparse": True, "1.0": True, "mixture": True,
    "0.0": False, "false": False, "0": False, "dense": False, "no": False, "": False,
    "✓": True, "✔": True, "✗": False, "✘": False,
}  # fmt: skip
NO_LOSS = re.compile(
    r"aux|balanc|router|z_loss|zloss|(^|_)(se|std|stderr|sem|var|err|error|ema|weight|coef|scale)$"
)
HELD_OUT = re.compile(r"(^|_)(val|valid|validation|eval|test|heldout|held_out)(_|$)")
LOSS = re.compile(r"(^|_)loss(_|$)")
SAME = 1e-9  # relative: two columns of the same numbers are one
CHOOSE = "choose with --column"


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnMap:
    """Which column of the file is which, in which unit."""

    columns: Mapping[str, str]
    units: Mapping[str, str]
    guessed: bool
    told: frozenset[str] = frozenset()  # units that the reader gave, which no size may overrule
    notes: tuple[str, ...] = ()

    def to_toml(self) -> str:
        """The map as a file that `--map` reads."""
        lines = ["[columns]", *(f'{ours} = "{theirs}"' for ours, theirs in self.columns.items())]
        lines += ["", "[units]", *(f'{ours} = "{unit}"' for ours, unit in self.units.items())]
        return "\n".join(lines) + "\n"


def plain_name(header: str) -> str:
    """A header in small letters with single underscores, without a unit in brackets.

    A filter of lm-eval's after a comma (`bits_per_byte,none`) is no part of a name.

    >>> plain_name("Training FLOP (1e18)"), plain_name("D/N")
    ('training_flop', 'd_per_n')
    """
    text = re.sub(r"\([^)]*\)|\[[^\]]*\]|,none$", " ", header.lower())
    if re.fullmatch(r"\s*\w{1,2}/\w{1,2}\s*", text):  # a ratio of two symbols, no path
        text = text.replace("/", " per ")
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_")


def guess_map(cells: pd.DataFrame, given: ColumnMap | None = None) -> ColumnMap:
    """The map that columns suggest by their names, but for what is given.

    Raises ValueError naming every quantity that two columns could be.

    >>> guess_map(pd.DataFrame(columns=["val_loss", "tokens (B)", "A"])).units["num_tokens"]
    'billions'
    """
    told = given or ColumnMap(columns={}, units={}, guessed=True)
    columns, units, notes, doubts = dict(told.columns), dict(told.units), list(told.notes), []
    taken = set(columns.values())
    for ours in SYNONYMS:
        if ours in columns:
            continue
        found = [name for name in _candidates(ours, cells) if name not in taken]
        if len(found) > 1 and _are_equal(cells, found):
            notes.append(f"columns {' and '.join(found)} hold the same numbers: {found[0]} is read")
            found = found[:1]
        if len(found) > 1 and ours in ESSENTIAL:
            one = next((name for name in found if HELD_OUT.search(plain_name(name))), found[0])
            doubts.append(f"{ours} = {found}: could all be it; {CHOOSE} {ours}='{one}'")
        elif len(found) > 1:
            notes.append(f"{' and '.join(found)} could both be {ours}: neither is read")
        elif found:
            columns[ours] = found[0]
            taken.add(found[0])
    if doubts:
        raise ValueError("; ".join(doubts))
    for ours, theirs in columns.items():
        if ours in UNITS and ours not in units:
            units[ours] = _unit_of(ours, theirs) or next(iter(UNITS[ours]))
    return checked(
        ColumnMap(columns=columns, units=units, guessed=True, told=told.told, notes=tuple(notes)),
        cells,
    )


def load_map(path: Path) -> ColumnMap:
    """The map in a TOML file with tables [columns] and [units]."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--map {path.name}: {error}") from None
    except RecursionError:
        raise ValueError(f"--map {path.name}: is nested deeper than any map") from None
    for name, table in tables.items():
        require(name in ("columns", "units"), f"--map {path.name}", name, "is no known table")
        rule = "must be a table of names"
        require(isinstance(table, dict), f"--map [{name}]", table, rule)
        for ours, theirs in table.items():
            rule = "must be text"
            require(isinstance(theirs, str), f"--map [{name}] {ours}", theirs, rule)
    columns, given = tables.get("columns", {}), tables.get("units", {})
    units = {name: given.get(name, next(iter(UNITS[name]))) for name in columns if name in UNITS}
    for name in given:
        require(name in units, f"--map [units] {name}", given[name], "has no unit, or no column")
    return ColumnMap(columns=columns, units=units, guessed=False, told=frozenset(given))


def told_map(columns: Iterable[str], units: Iterable[str]) -> ColumnMap:
    """The map of the options --column ours=theirs and --unit ours=unit.

    >>> told_map(["loss=smooth loss"], ["loss=bits"]).columns
    {'loss': 'smooth loss'}
    """
    pairs: list[dict[str, str]] = []
    for option, values in (("--column", columns), ("--unit", units)):
        split = [value.partition("=") for value in values]
        for (ours, mark, theirs), value in zip(split, values, strict=True):
            known = bool(mark and theirs) and ours.strip() in SYNONYMS
            require(known, option, value, f"must be OURS=THEIRS; ours are {', '.join(SYNONYMS)}")
        named = [ours.strip() for ours, _, _ in split]
        for ours in named:
            require(named.count(ours) == 1, option, ours, "is given twice")
        pairs.append({ours.strip(): theirs.strip() for ours, _, theirs in split})
    for ours, unit in pairs[1].items():
        rule = f"must be one of {', '.join(filter(None, UNITS.get(ours, {})))}"
        require(unit in UNITS.get(ours, {}), f"--unit {ours}", unit, rule)
    return ColumnMap(columns=pairs[0], units=pairs[1], guessed=True, told=frozenset(pairs[1]))


def checked(mapping: ColumnMap, cells: pd.DataFrame) -> ColumnMap:
    """The map; ValueError where it names what is not there, or leaves out what is needed."""
    headers = [str(name) for name in cells.columns]
    for ours, theirs in mapping.columns.items():
        rule = f"is not known; columns are {', '.join(SYNONYMS)}"
        require(ours in SYNONYMS, f"--map [columns] {ours}", theirs, rule)
        rule = f"is not in the file, which has {', '.join(headers)}"
        require(theirs in headers, f"column {ours}", theirs, rule)
        others = [name for name, column in mapping.columns.items() if column == theirs]
        rule = f"is {' and '.join(others)} at once; name a column of its own for each"
        require(len(others) == 1, f"column {ours}", theirs, rule)
    for ours, unit in mapping.units.items():
        rule = f"must be one of {', '.join(filter(None, UNITS[ours]))}"
        require(unit in UNITS[ours], f"--map [units] {ours}", unit, rule)
    advice = f"not found among {', '.join(headers)}; name it with --column or in a --map file"
    require("loss" in mapping.columns, "loss", None, advice)
    has_size = {"num_tokens", "compute"} & set(mapping.columns)
    has_size |= {"step"} if {"flops_per_step", "step"} <= set(mapping.columns) else set()
    require(bool(has_size), "num_tokens or compute", None, advice)
    units = {name: unit for name, unit in mapping.units.items() if name in mapping.columns}
    return replace(mapping, units=units)


def is_outcome(header: str) -> bool:
    """Whether a column by its name is a result or a label of a run, and no setting of it.

    >>> is_outcome("train/loss"), is_outcome("weight_decay")
    (True, False)
    """
    words = set(plain_name(header).split("_"))
    told = {
        "loss", "ppl", "perplexity", "bpb", "accuracy", "acc", "time", "runtime", "seconds",
        "second", "created", "updated", "tags", "notes", "note", "reason", "mfu", "throughput",
        "mfa", "color", "hex", "hash", "url", "date", "timestamp", "memory", "x", "y", "comment",
        "bits", "wall", "error", "stderr", "hours", "duration", "speed", "norm", "elapsed", "index",
        "unnamed",
    }  # fmt: skip
    return bool(words & told)


def _candidates(ours: str, cells: pd.DataFrame) -> list[str]:
    """Columns that could be a quantity, by the strongest names that any column bears."""
    headers = [str(name) for name in cells.columns]
    for tier, names in enumerate(SYNONYMS[ours]):
        own = (ours, *names) if tier == 0 else names
        found = [header for header in headers if _bears(ours, header, own, tier)]
        if tier > 0 and ours in WEAK_LABELS:
            found = [header for header in found if _says_moe(cells[header])][:1]
        if found:
            return found
    return []


def _bears(ours: str, header: str, names: tuple[str, ...], tier: int) -> bool:
    """Whether a header is one of these names: whole, without its path, or without its unit."""
    logarithm = IN_LOG10.fullmatch(header.lower())
    if logarithm is not None and LOG10 in UNITS.get(ours, {}):
        return _bears(ours, logarithm["of"], names, tier)
    whole = plain_name(header)
    if ours == "loss" and tier == 0 and LOSS.search(whole):
        return not NO_LOSS.search(whole)
    last = plain_name(re.split(r"[./]", header)[-1])
    forms = {whole} if len(last) < 3 and last != whole else {whole, last}
    forms |= {
        form.split("_", 1)[1] for form in tuple(forms) if form.startswith(("config_", "hparams_"))
    }
    return any(form in names or _without_unit(ours, form)[0] in names for form in forms)


def _without_unit(ours: str, name: str) -> tuple[str, str]:
    """A name without its unit, and the unit: (`tokens`, `billions`)."""
    endings = {unit.replace(" ", "_"): unit for unit in UNITS.get(ours, {}) if unit}
    if "billions" in endings:
        endings |= {"b": "billions", "bn": "billions", "m": "millions", "t": "trillions"}
        endings |= {"million": "millions", "billion": "billions", "trillion": "trillions"}
        endings.pop("tokens", None)  # `n_tokens` is a name, whole
    if ours in ("activation_ratio", "shared_ratio"):
        endings |= {"pct": "percent"}
    if ours == "compute":
        endings |= {"forward_flops": "forward", "6nd": "six_n", "exaflops": "eflops"}
        for unit in (*SIZES, "pf_days"):  # `total_gflops` is no `total`, but flops all the same
            if name in (unit, f"total_{unit}", f"train_{unit}", f"training_{unit}"):
                return ("flops", unit) if (name, unit) != ("tflops", "tflops") else (name, "")
    for ending, unit in endings.items():
        if name.endswith(f"_{ending}"):
            return name.removesuffix(f"_{ending}"), unit
    return name, ""


def _unit_of(ours: str, header: str) -> str:
    """The unit that a header names: in brackets, by its ending, or by what it is."""
    if IN_LOG10.fullmatch(header.lower()):
        return LOG10
    whole, last = plain_name(header), plain_name(re.split(r"[./]", header)[-1])
    for bracket in re.findall(r"\(([^)]*)\)|\[([^\]]*)\]", header):
        unit = _bracketed(ours, "".join(bracket).strip())
        if unit:
            return unit
    if ours == "loss":
        if whole in SYNONYMS["loss"][1] or last in SYNONYMS["loss"][1]:
            return PERPLEXITY
        if whole.endswith(("bits_per_token", "bits")):
            return "bits"
        if whole in SYNONYMS["loss"][2] or last in SYNONYMS["loss"][2] or "bpb" in whole.split("_"):
            return BITS_PER_BYTE
    if ours == "compute" and "6nd" in whole.split("_"):
        return "six_n"
    return next((unit for form in (whole, last) if (unit := _without_unit(ours, form)[1])), "")


def _bracketed(ours: str, text: str) -> str:
    plain = re.sub(r"[^a-z0-9%]+", "_", text.lower()).strip("_")
    letters = {"k": "thousands", "m": "millions", "b": "billions", "bn": "billions"}
    letters |= {"t": "trillions", "million": "millions", "billion": "billions", "%": "percent"}
    letters |= {"efl": "eflops", "exaflops": "eflops", "petaflops": "pflops", "flops": "training"}
    letters |= {"pf_day": "pf_days", "pfdays": "pf_days", "petaflop_s_days": "pf_days"}
    letters |= {"1e9": "gflops", "1e12": "tflops", "1e15": "pflops", "1e18": "eflops"}
    letters |= {"1e21": "zflops", "eflop": "eflops", "gflop": "gflops", "zflop": "zflops"}
    unit = letters.get(plain, plain.replace("_", " ") if ours == "loss" else plain)
    return unit if unit in UNITS.get(ours, {}) else ""


def _says_moe(column: pd.Series) -> bool:
    words = column.dropna().astype(str).str.lower().unique()
    return len(words) > 0 and set(words) <= {"moe", "dense", "sparse", "mixture"}


def _are_equal(cells: pd.DataFrame, names: list[str]) -> bool:
    """Whether columns hold the same numbers in every row; with no rows, none do."""
    if not len(cells):
        return False
    columns = [numbers(cells[name]).value.to_numpy() for name in names]
    return all(
        np.allclose(columns[0], column, rtol=SAME, atol=0, equal_nan=True) for column in columns
    )

"""A page is drawn without the library that trains: what draws never loads torch."""

import pkgutil
import subprocess
import sys

import pytest

from moe_leverage import figures, instruments

TRAINS = {"moe_leverage.instruments.router_trace"}  # it records what the microscope plays
MODULES = [
    module.name
    for room in (figures, instruments)
    for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")
    if module.name not in TRAINS
]


QUICK = ("audit", "studies.protocol", "studies.status", "studies.adoption", "studies.yours")


@pytest.mark.parametrize("module", [f"moe_leverage.{room}" for room in QUICK])
def test_it_loads_without_torch(module):
    assert loaded([module]) == []


def test_no_figure_and_no_instrument_loads_torch():
    assert len(MODULES) > 20
    assert loaded(MODULES) == []


def test_the_ledger_and_the_claims_load_where_there_is_no_fcntl():
    program = "import sys; sys.modules['fcntl'] = None; from moe_leverage import ledger, locks"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_who_draws_nothing_waits_for_no_seaborn():
    rooms = ("", ".cli", ".audit", ".page.theme", ".instruments.explorer")
    assert loaded([f"moe_leverage{room}" for room in rooms], {"seaborn"}) == []


def loaded(modules, heavy=frozenset({"torch"})):
    """Those of the heavy libraries that importing these modules loads."""
    program = f"import sys, {', '.join(modules)}; print(*({set(heavy)} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


# mistakes, and questions that train and draw nothing, by the libraries that they may wait for
ANSWERS = {
    "": (
        "predict --activation-ratio 2",
        "design --compute nan",
        "explain nope",
        "train --config nope.json",
        "study run nope",
        "study run tuning --max-minutes nan",
    ),
    "pandas": (
        "fit nope.csv",
        "audit --verdict nope",
        "evidence check nope nope.csv",
    ),
    "tokenizers": (
        "corpus info --tier nope",
        "study plan nope",
        "study plan tuning",
        "study status",
    ),
    "pandas tokenizers": (
        "study adopt nope",
        "study report nope.toml",
    ),
}
HEAVY = {
    "torch",
    "transformers",
    "matplotlib",
    "seaborn",
    "scipy",
    "pandas",
    "joblib",
    "tokenizers",
}
PROGRAM = f"""
import contextlib, io, sys
from moe_leverage import cli
for line in sys.argv[1:]:
    sys.argv = ["moe-leverage", *line.split()]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        cli.main()
print(*({HEAVY} & set(sys.modules)))
"""


@pytest.mark.parametrize("libraries", ANSWERS)
def test_an_answer_waits_for_no_library_that_it_does_not_need(libraries):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *ANSWERS[libraries]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) <= set(libraries.split())


def test_a_fit_waits_for_no_scipy(tmp_path):
    path, computes = tmp_path / "runs.csv", [10.0**power for power in range(17, 23)]
    rows = [
        f"{kind},{compute},{1.5 + 300 * (gain * compute) ** -0.13}"
        for kind, gain in (("dense", 1.0), ("moe", 2.0)) for compute in computes
    ]  # fmt: skip
    path.write_text("\n".join(["kind,flops,loss", *rows]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"fit {path} --json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) <= {"pandas"}

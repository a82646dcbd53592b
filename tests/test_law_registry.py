"""Laws are found: a new one is known from its module alone, and mistakes in it have rules."""

import sys
from dataclasses import dataclass
from textwrap import dedent

import numpy as np
import pytest
from synthetic_runs import all_runs
from test_optimise import THETAS, draw_inputs

from moe_leverage import theory
from moe_leverage.analysis.findings import leverage_laws
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import fit
from moe_leverage.analysis.held_out import compare
from moe_leverage.theory import law as base
from moe_leverage.theory.law import UNSOURCED, Law, LogLinearLaw, Source
from moe_leverage.theory.registry import find, laws, rivals

NEW_MODULE = '''
    """A loss of size, tokens and granularity (Krajewski et al., arXiv 2402.07871, Equation 9)."""

    from dataclasses import dataclass

    import numpy as np

    from moe_leverage.theory.law import UNSOURCED, Law, Source, columns


    @dataclass(frozen=True, slots=True)
    class FineGrainedLaw(Law):
        """L(N, D, G) = floor + (g / G^gamma + a) / N^alpha + b / D^beta."""

        floor: float
        g: float
        a: float
        b: float
        gamma: float
        alpha: float
        beta: float
        source: Source = UNSOURCED
        rival_for = "loss"
        inputs = ("num_params", "num_tokens", "granularity")
        positive = frozenset({"floor", "g", "a", "b"})
        min_values = {"num_params": 3, "num_tokens": 3, "granularity": 3}

        @classmethod
        def terms(cls, theta, inputs):
            floor, g, a, b, gamma, alpha, beta = (theta[..., i, None] for i in range(7))
            size = alpha * np.log(inputs["num_params"])
            fine = g - gamma * np.log(inputs["granularity"]) - size
            tokens = b - beta * np.log(inputs["num_tokens"])
            return np.exp(floor), np.exp(fine), np.exp(a - size), np.exp(tokens)

        @classmethod
        def log_value(cls, theta, inputs):
            return np.log(sum(cls.terms(theta, inputs)))

        @classmethod
        def log_gradient(cls, theta, inputs):
            terms = cls.terms(theta, inputs)
            floor, fine, size, tokens = (term / sum(terms) for term in terms)
            n, d, g = (np.log(inputs[name]) for name in cls.inputs)
            slopes = -fine * g, -(fine + size) * n, -tokens * d
            return columns(theta, floor, fine, size, tokens, *slopes)

        @classmethod
        def starts(cls, inputs, log_target, count, generator):
            exponents = generator.uniform(0.05, 0.6, (3, count))
            rest = np.log(np.exp(log_target).mean() / 4)
            n, d, g = (np.log(inputs[name]).mean() for name in cls.inputs)
            gamma, alpha, beta = exponents
            scales = rest + gamma * g + alpha * n, rest + alpha * n, rest + beta * d
            return np.stack([np.full(count, rest), *scales, *exponents], axis=-1)
'''


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    laws()
    monkeypatch.setattr(base, "LAWS", dict(base.LAWS))


@pytest.mark.parametrize("name", laws())
def test_every_law_that_is_saved_can_be_loaded(name, tmp_path):
    law, theta = find(name), np.array(THETAS[name])
    table = draw_inputs(law)
    noise = 0.01 * np.random.default_rng(2).standard_normal(60)
    table |= {"value": np.exp(law.log_value(theta, table) + noise)}
    fitted = fit(law, table, "value", resamples=20)
    fitted.save(tmp_path / "one.json")
    again = Fit.load(tmp_path / "one.json")
    assert again.law == fitted.law
    np.testing.assert_allclose(again.samples, fitted.samples, rtol=1e-4)


def test_a_law_of_a_new_module_rivals_the_others_with_no_list_touched(tmp_path, monkeypatch):
    """The module of the law is the one file touched; a claim about it would be the second."""
    (tmp_path / "fine_grained.py").write_text(dedent(NEW_MODULE))
    monkeypatch.setattr(theory, "__path__", [*theory.__path__, str(tmp_path)])
    generator = np.random.default_rng(0)
    table = {
        "num_params": np.exp(generator.uniform(np.log(1e6), np.log(1e9), 240)),
        "num_tokens": np.exp(generator.uniform(np.log(1e9), np.log(1e11), 240)),
        "granularity": 2.0 ** generator.integers(0, 5, 240),
    }
    table["compute"] = 6 * table["num_params"] * table["num_tokens"]
    truth = find("FineGrainedLaw")(0.47, 2.1, 18.1, 30.8, 0.58, 0.115, 0.147)
    inputs = {name: table[name] for name in truth.inputs}
    table["loss"] = truth.evaluate(**inputs) * np.exp(0.001 * generator.standard_normal(240))

    forms = rivals("loss", table)
    assert {"FineGrainedLaw", "ChinchillaLaw"} <= {form.__name__ for form in forms}
    scores = compare(forms, table, "loss")
    assert scores[0].law == "FineGrainedLaw"
    assert scores[0].held_out_error < 0.5 * scores[1].held_out_error

    fitted = fit(find("FineGrainedLaw"), table, "loss", resamples=20)
    np.testing.assert_allclose(fitted.law.evaluate(**inputs), truth.evaluate(**inputs), rtol=2e-3)
    fitted.save(tmp_path / "own.json")
    base.LAWS.pop("FineGrainedLaw")  # as in another process, which has not read the module
    monkeypatch.delitem(sys.modules, "moe_leverage.theory.fine_grained")
    again = Fit.load(tmp_path / "own.json")
    assert type(again.law).__name__ == "FineGrainedLaw"
    np.testing.assert_allclose(again.residuals, fitted.residuals)


def test_a_law_of_leverage_is_scored_beside_equation_13():
    @dataclass(frozen=True, slots=True)
    class ComputeAlone(LogLinearLaw):
        level: float
        slope: float
        source: Source = UNSOURCED
        rival_for = "efficiency_leverage"
        inputs = ("compute",)
        min_values = {"compute": 2}  # noqa: RUF012

        @classmethod
        def features(cls, inputs):
            return np.ones_like(inputs["compute"]), np.log(inputs["compute"])

    found = leverage_laws(all_runs(), resamples=20)
    for test in ("ten folds", "held out"):
        names = [score.law for score in found.scores[test]]
        assert {"JointLaw", "ComputeAlone"} <= set(names)
        assert names.index("JointLaw") < names.index("ComputeAlone")


def test_a_law_is_a_rival_only_where_the_table_has_its_inputs():
    names = [form.__name__ for form in rivals("loss", {"num_params", "num_tokens", "loss"})]
    assert names == ["ChinchillaLaw"]
    assert rivals("learning_rate", {"compute"}) == ()
    with pytest.raises(ValueError, match=r"num_params = None: is not a column of the table \(loss"):
        compare([find("ChinchillaLaw")], {"loss": np.ones(9)}, "loss")


def form(name="Newcomer", **changes):
    """A sound law, or one with a mistake: an attribute changed, or left out where it is None."""
    parts = {
        "__module__": __name__,
        "__qualname__": name,
        "__annotations__": {"level": "float", "source": "Source"},
        "source": UNSOURCED,
        "inputs": ("compute",),
        "min_values": {},
        "log_value": classmethod(lambda cls, theta, inputs: theta),
        "log_gradient": classmethod(lambda cls, theta, inputs: theta),
    } | changes
    return type(name, (Law,), {key: value for key, value in parts.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"inputs": None}, r"Newcomer\.inputs = None: must name the quantities"),
        ({"inputs": "compute"}, r"Newcomer\.inputs = 'compute': must name"),
        ({"log_gradient": None}, r"Newcomer\.log_gradient = None: must be defined"),
        ({"log_value": None}, r"Newcomer\.log_value = None: must be defined"),
        ({"min_values": None}, r"Newcomer\.min_values = None: must map inputs"),
        ({"min_values": {"width": 2}}, r"Newcomer\.min_values = {'width': 2}: must map inputs"),
        ({"positive": frozenset({"slope"})}, r"Newcomer\.positive = \['slope'\]: must be among"),
        ({"start_box": {"a": (0, 1), "b": (0, 1)}}, r"Newcomer\.start_box = \['a', 'b'\]: must be"),
        ({"__annotations__": {"source": "Source"}}, r"Newcomer\.coefficients = \(\): a law has a"),
        ({"__annotations__": {"level": "float"}}, r"Newcomer\.source = None: must be a field"),
        ({"name": "JointLaw"}, r"law = 'JointLaw': is already the name of a law in moe_leverage"),
    ],
)
def test_a_mistake_in_a_law_is_answered_where_it_is_defined(changes, rule):
    assert form().coefficient_names == ("level",)
    base.LAWS.pop("Newcomer")
    with pytest.raises(ValueError, match=rule):
        form(**changes)
    assert "Newcomer" not in base.LAWS
    assert find("JointLaw").inputs == ("activation_ratio", "granularity", "compute")


def test_a_class_that_is_no_dataclass_or_lacks_its_features_is_refused():
    with pytest.raises(ValueError, match=r"law = 'Newcomer': must be a frozen dataclass"):
        form().from_coefficients([1.0])
    with pytest.raises(ValueError, match=r"Straight\.features = None: must be defined"):

        @dataclass(frozen=True, slots=True)
        class Straight(LogLinearLaw):
            level: float
            source: Source = UNSOURCED
            inputs = ("compute",)
            min_values = {}  # noqa: RUF012


def test_a_law_defined_twice_in_one_place_is_the_same_law():
    """As a cell of a notebook that runs again; the last one counts."""
    first, second = form(), form()
    assert find("Newcomer") is second
    assert find("Newcomer") is not first


def test_an_unknown_law_is_named():
    with pytest.raises(
        ValueError, match=r"law = 'Nobody': must be one of ActivationPowerLaw, ChinchillaLaw"
    ):
        find("Nobody")

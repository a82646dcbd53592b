"""What every law shares: its source, the range it was fitted in, and its coefficients as `theta`.

A law is a frozen dataclass whose numeric fields are its coefficients (`laws` for the paper's forms,
`rivals` for the others); this base calls it, checks inputs and warns outside the fitted range. A
class that derives from it is registered by its name, and a mistake in its form is answered where it
is defined (`registry` finds all there are).

    theta   coefficients as a fit sees them, shape (..., P): those named in `positive` as natural
            logarithms, the others as they are
    n       rows of inputs
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_leverage.rules import refuse, require

Array = NDArray[np.float64]
Inputs = Mapping[str, Array]

LAWS: dict[str, type[Law]] = {}  # defined so far; `registry.laws` has all there are
UNITS = {"compute": " FLOPs", "num_params": " parameters", "num_tokens": " tokens"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a law's coefficients come from and where they may be trusted."""

    equation: str = ""
    locator: str = ""
    output: str = ""
    unit: str = ""
    convention: str = ""  # how compute was counted: "paper", "exact" or "six_n"
    note: str = ""
    logarithm_bases: Mapping[str, float] = field(default_factory=dict)
    domain: Mapping[str, tuple[float, float]] = field(default_factory=dict)


UNSOURCED = Source()


class Law:
    """What all laws share: calling, the range they were fitted in, and coefficients as `theta`."""

    __slots__ = ()
    coefficient_names: ClassVar[tuple[str, ...]]  # the fields, but for `source`
    inputs: ClassVar[tuple[str, ...]]
    positive: ClassVar[frozenset[str]] = frozenset()
    theta_names: ClassVar[tuple[str, ...]] = ()  # where theta holds others than the coefficients
    min_values: ClassVar[Mapping[str, int]]  # different values an input needs to be fitted
    start_box: ClassVar[Mapping[str, tuple[float, float]]] = {}  # of theta; empty: a convex fit
    num_linear: ClassVar[int] = 0  # leading coefficients in which the logarithm is linear
    rival_for: ClassVar[str] = ""  # the quantity in whose comparison of laws it takes part
    source: Source

    def __init_subclass__(cls, *, is_form: bool = True) -> None:
        """Check and register a law; with `is_form` false it is a base that several share."""
        if is_form:
            _register(cls)

    @classmethod
    @abstractmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Natural logarithm of the law: theta (..., P) and inputs (n,) give (..., n)."""
        raise NotImplementedError

    @classmethod
    @abstractmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """Derivatives of `log_value` by theta, shape (..., n, P)."""
        raise NotImplementedError

    @classmethod
    def log_value_and_gradient(cls, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Both at once, for laws that share work between them."""
        return cls.log_value(theta, inputs), cls.log_gradient(theta, inputs)

    @classmethod
    def starts(
        cls, inputs: Inputs, log_target: Array, count: int, generator: np.random.Generator
    ) -> Array:
        """Starting points (count, P) of a fit; a convex law needs a single one.

        The other coefficients are drawn from `start_box`, the linear ones are those of least
        squares given them.
        """
        if not cls.start_box:
            return np.zeros((1, len(cls.coefficient_names)))
        low, high = np.array([cls.start_box[name] for name in cls.start_box]).T
        drawn = generator.uniform(low, high, (count, len(low)))
        theta = np.concatenate([np.ones((count, cls.num_linear)), drawn], axis=-1)
        slopes = cls.log_gradient(theta, inputs)[..., : cls.num_linear]  # (count, n, linear)
        transposed = np.swapaxes(slopes, -1, -2)
        squares = transposed @ slopes
        squares += (
            1e-9 * np.trace(squares, axis1=-2, axis2=-1)[:, None, None] * np.eye(len(squares[0]))
        )
        theta[:, : cls.num_linear] = np.linalg.solve(squares, (transposed @ log_target)[..., None])[
            ..., 0
        ]
        return theta

    @classmethod
    def followed(cls, starts: Array, inputs: Inputs, log_target: Array) -> Array:
        """Those of the starting points that a fit follows: all, unless a law tells them apart."""
        return starts

    @classmethod
    def to_theta(cls, coefficients: ArrayLike) -> Array:
        """Coefficients (..., P) with the logarithm taken of the positive ones."""
        return _transform(cls, coefficients, np.log)

    @classmethod
    def from_theta(cls, theta: ArrayLike) -> Array:
        """The inverse of `to_theta`."""
        with np.errstate(over="ignore"):
            return _transform(cls, theta, np.exp)

    @classmethod
    def from_coefficients(cls, values: ArrayLike, source: Source | None = None) -> Self:
        """The law with these coefficients, in the order of `coefficient_names`."""
        require(is_dataclass(cls), "law", cls.__name__, "must be a frozen dataclass with slots")
        named = zip(cls.coefficient_names, np.asarray(values, dtype=float), strict=True)
        return cls(**{name: float(v) for name, v in named}, source=source or UNSOURCED)  # type: ignore[call-arg]

    @property
    def coefficients(self) -> Array:
        """The coefficients in the order of `coefficient_names`."""
        return np.array([getattr(self, name) for name in self.coefficient_names])

    @property
    def domain(self) -> Mapping[str, tuple[float, float]]:
        """Smallest and largest value of each quantity among the runs behind the law."""
        return self.source.domain

    def evaluate(self, **inputs: ArrayLike) -> Any:
        """The law at inputs that broadcast together; a float when all of them are scalars."""
        arrays = self._checked(inputs)
        flat = {name: values.ravel() for name, values in arrays.items()}
        shape = next(iter(arrays.values())).shape
        return plain(np.exp(self.log_value(self.to_theta(self.coefficients), flat)).reshape(shape))

    def outside(self, **inputs: ArrayLike) -> list[str]:
        """One warning for each quantity that leaves the fitted range, the output included."""
        arrays: dict[str, Array] = dict(self._checked(inputs))
        if "efficiency_leverage" in self.domain:
            arrays["efficiency_leverage"] = np.asarray(self.evaluate(**inputs))
        warnings = []
        for name, (low, high) in self.domain.items():
            values = arrays.get(name, np.empty(0))
            warnings += [_warning(name, values.min(), low, high)] if np.any(values < low) else []
            warnings += [_warning(name, values.max(), low, high)] if np.any(values > high) else []
        return warnings

    def _checked(self, inputs: Mapping[str, ArrayLike]) -> dict[str, Array]:
        for name in set(self.inputs).symmetric_difference(inputs):
            refuse(name, inputs.get(name), f"the law takes {', '.join(self.inputs)}")
        arrays = [np.asarray(inputs[name], dtype=float) for name in self.inputs]
        for name, values in zip(self.inputs, arrays, strict=True):
            bad = ~((values > 0) & (values < np.inf))
            if bad.any():
                refuse(name, float(values[bad].flat[0]), "must be positive and finite")
            if name == "activation_ratio" and (values > 1).any():
                refuse(name, float(values.max()), "must not exceed 1")
        return dict(zip(self.inputs, np.broadcast_arrays(*arrays), strict=True))


class LogLinearLaw(Law, is_form=False):
    """A law whose logarithm is linear in its coefficients, so that its fit is convex."""

    __slots__ = ()

    @classmethod
    @abstractmethod
    def features(cls, inputs: Inputs) -> tuple[Array, ...]:
        """What each coefficient multiplies, (n,) arrays."""
        raise NotImplementedError

    @classmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Sum of coefficient x feature."""
        value: Array = (theta[..., None, :] @ np.stack(cls.features(inputs)))[..., 0, :]
        return value

    @classmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """The features, one array that stands for every row of theta."""
        features = np.stack(cls.features(inputs))
        shared = np.broadcast_to(features, (*theta.shape[:-1], *features.shape))
        return np.swapaxes(shared, -1, -2)


def columns(theta: Array, *values: float | Array | tuple[Array, Array]) -> Array:
    """Derivatives stacked along a last axis, broadcast to the shape (..., n, P) of theta.

    A pair stands for its product, which is then written in place.
    """
    size = 1
    for value in values:  # a fit comes here a thousand times a second
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, np.ndarray) and part.ndim:
                size = max(size, part.shape[-1])
    gradient = np.empty((*theta.shape[:-1], len(values), size))  # rows are what the fit multiplies
    for i, value in enumerate(values):
        if isinstance(value, tuple):
            np.multiply(value[0], value[1], out=gradient[..., i, :])
        else:
            gradient[..., i, :] = value
    return np.swapaxes(gradient, -1, -2)


def plain(values: ArrayLike) -> Any:
    """A Python float for a scalar, the array otherwise."""
    return float(values) if np.ndim(values) == 0 else values  # type: ignore[arg-type]


def _register(form: type[Law]) -> None:
    """Check the form of a law, name its coefficients, and make it known."""
    name = form.__name__
    annotated = inspect.get_annotations(form)
    names = tuple(field for field in annotated if field != "source")
    require(bool(names), f"{name}.coefficients", names, "a law has a field for each coefficient")
    require("source" in annotated, f"{name}.source", None, "must be a field: UNSOURCED by default")
    inputs = getattr(form, "inputs", None)
    is_named = isinstance(inputs, tuple) and bool(inputs)
    require(is_named, f"{name}.inputs", inputs, "must name the quantities that the law takes")
    for method in dir(form):
        is_missing = getattr(getattr(form, method, None), "__isabstractmethod__", False)
        require(not is_missing, f"{name}.{method}", None, "must be defined: a fit needs it")
    counts = getattr(form, "min_values", None)
    rule = "must map inputs to how many different values tell the coefficients"
    is_counted = isinstance(counts, Mapping) and set(counts) <= set(inputs or ())
    require(is_counted, f"{name}.min_values", counts, rule)
    rule = f"must be among the coefficients, {', '.join(names)}"
    require(form.positive <= set(names), f"{name}.positive", sorted(form.positive), rule)
    num_drawn, rule = len(form.start_box), "must be a range for each coefficient that is not linear"
    is_whole = num_drawn in (0, len(names) - form.num_linear)
    require(is_whole, f"{name}.start_box", sorted(form.start_box), rule)
    old = LAWS.get(name, form)
    rule = f"is already the name of a law in {old.__module__}"
    require(_is_again(form, old), "law", name, rule)
    form.coefficient_names = names
    LAWS[name] = form


def _is_again(form: type[Law], old: type[Law]) -> bool:
    """Whether this is the old law: its twin with slots, or its definition, run once more."""
    own = vars(form).get("__dataclass_fields__")  # which a class and its twin have in common
    is_twin = own is not None and own is vars(old).get("__dataclass_fields__")
    return is_twin or (form.__module__, form.__qualname__) == (old.__module__, old.__qualname__)


def _transform(law: Any, values: ArrayLike, function: np.ufunc) -> Array:
    values = np.array(values, dtype=float)
    columns = [i for i, name in enumerate(law.coefficient_names) if name in law.positive]
    values[..., columns] = function(values[..., columns])
    return values


def _warning(name: str, value: float, low: float, high: float) -> str:
    value = float(value)  # whose division overflows without a word, unlike numpy's
    factor = max(low / value if value else math.inf, value / high)
    return (
        f"{name} = {value:.4g}{UNITS.get(name, '')} is {factor:.3g} times beyond the range "
        f"{low:.4g} to {high:.4g} of the runs behind this law: an extrapolation"
    )

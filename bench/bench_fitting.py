"""Speed of the fits beside the same fits looped over scipy's BFGS, in one run on one machine.

`cpu_ratio` compares processor seconds, ours summed over threads: the figure to read on a machine
that is busy with other work.

python bench/bench_fitting.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import minimize

from moe_leverage.analysis.fitting import fit
from moe_leverage.analysis.optimise import Problem, minimise
from moe_leverage.theory.law import Array, Law
from moe_leverage.theory.laws import PUBLISHED, JointLaw
from moe_leverage.theory.rivals import ChinchillaLaw

JOINT_SECONDS, JOINT_RATIO, CHINCHILLA_SECONDS = 3.0, 50.0, 20.0
PEER_RESAMPLES = 100  # of 1,000 with numerical gradients: the loop is timed on these and scaled
SLACK = 1e-8  # relative: an objective this close counts as equal


def run() -> list[dict[str, Any]]:
    """One row a figure: name, shape, value, unit, peer, ratio, target, met."""
    return [*joint_law(), chinchilla_law()]


def joint_law() -> list[dict[str, Any]]:
    """Equation 13 on 300 points, 64 starts and 1,000 resamples."""
    table, _ = joint_table(300)
    shape = "300 points, 64 starts, 1,000 resamples"
    seconds, fitted = timed(lambda: fit(JointLaw, table, "efficiency_leverage"))
    problem, generator = fitted.problem, np.random.default_rng(0)
    begin = JointLaw.starts(problem.inputs, problem.log_target, 64, generator)
    weights = generator.exponential(size=(1000, 300))
    again = np.repeat(fitted.theta[None], 1000, axis=0)

    def ours() -> Array:
        starts = minimise(problem, begin).objective.min(keepdims=True)
        return np.concatenate([starts, minimise(problem, again, weights=weights).objective])

    own_seconds = min(timed(ours)[0] for _ in range(5))
    cpu = time.process_time()
    own = ours()
    own_cpu_seconds = time.process_time() - cpu
    rows = [row("joint law with intervals", shape, seconds, "one fit", None, JOINT_SECONDS)]
    for peer, analytic, count in [
        ("scipy BFGS, numerical gradient (its default)", False, PEER_RESAMPLES),
        ("scipy BFGS, our analytic gradient", True, 1000),
    ]:
        cpu = time.process_time()
        first, at_starts = timed(partial(looped, problem, begin, None, analytic))
        cpu_first = time.process_time() - cpu
        second, at_resamples = timed(
            partial(looped, problem, again[:count], weights[:count], analytic)
        )
        cpu_second = time.process_time() - cpu - cpu_first
        theirs = np.concatenate([[at_starts.min()], at_resamples])
        equal = bool(np.all(own[: count + 1] <= theirs * (1 + SLACK)))
        ratio = (first + second * 1000 / count) / own_seconds
        name = "joint law, batched against looped"
        result = row(name, shape, own_seconds, peer, ratio, None)
        result |= {"target": f">= {JOINT_RATIO:g} x", "met": equal and ratio >= JOINT_RATIO}
        cpu_ratio = (cpu_first + cpu_second * 1000 / count) / own_cpu_seconds
        rows.append(result | {"objective_equal_or_better": equal, "cpu_ratio": cpu_ratio})
    return rows


def chinchilla_law() -> dict[str, Any]:
    """L(N, D) on 245 points, 500 starts and 4,000 resamples, at the delta of Hoffmann et al."""
    generator = np.random.default_rng(0)
    params = np.exp(generator.uniform(np.log(5e7), np.log(1.6e10), 245))
    tokens = np.exp(generator.uniform(np.log(2e8), np.log(5e11), 245))
    table = {"num_params": params, "num_tokens": tokens}
    truth = ChinchillaLaw(1.82, 482.0, 2085.0, 0.3478, 0.3658)  # Besiroglu et al. (2024), Table 1
    table["loss"] = truth.evaluate(**table) * np.exp(0.006 * generator.standard_t(3, 245))
    seconds, _ = timed(
        lambda: fit(ChinchillaLaw, table, "loss", delta=1e-3, starts=500, resamples=4000)
    )
    shape = "245 points, 500 starts, 4,000 resamples"
    return row("Chinchilla law with intervals", shape, seconds, "one fit", None, CHINCHILLA_SECONDS)


def joint_table(count: int) -> tuple[dict[str, Array], Law]:
    """Points of the published law over its fitted range, with 5 % heavy-tailed noise."""
    generator = np.random.default_rng(1)
    table = {
        "activation_ratio": np.exp(generator.uniform(np.log(0.0117), 0.0, count)),
        "granularity": 2 ** generator.uniform(1, 4, count),
        "compute": 10 ** generator.uniform(18, 20.5, count),
    }
    noise = np.exp(0.05 * generator.standard_t(4, count))
    return table | {"efficiency_leverage": PUBLISHED.joint(**table) * noise}, PUBLISHED.joint


def looped(problem: Problem, begin: Array, weights: Array | None, analytic: bool) -> Array:
    """The objectives that one call of scipy a problem ends with."""
    ones = np.ones_like(problem.log_target)

    def objective(theta: Array, weight: Array) -> float:
        return float((weight * problem.huber(problem.residuals(theta))).sum())

    def gradient(theta: Array, weight: Array) -> Array:
        pull = weight * np.clip(problem.residuals(theta), -problem.delta, problem.delta)
        return pull @ problem.law.log_gradient(theta, problem.inputs)

    return np.array([
        minimize(
            objective,
            theta,
            args=(ones if weights is None else weights[number],),
            jac=gradient if analytic else None,
            method="BFGS",
        ).fun
        for number, theta in enumerate(begin)
    ])  # fmt: skip


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def row(
    name: str, shape: str, seconds: float, peer: str, ratio: float | None, limit: float | None
) -> dict[str, Any]:
    return {
        "name": name,
        "shape": shape,
        "value": seconds,
        "unit": "s",
        "peer": peer,
        "ratio": ratio,
        "target": None if limit is None else f"<= {limit:g} s",
        "met": None if limit is None else seconds <= limit,
    }


if __name__ == "__main__":
    for result in run():
        print(result)

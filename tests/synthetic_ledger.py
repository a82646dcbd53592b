"""A ledger as the studies would fill it if losses followed known laws."""

import math

import numpy as np

from moe_leverage import ledger
from moe_leverage.studies.catalogue import STUDIES, plan
from moe_leverage.studies.protocol import Laws
from moe_leverage.theory.laws import JointLaw, PowerLaw
from moe_leverage.theory.rivals import FlooredPowerLaw

DENSE = FlooredPowerLaw(1.6, 330.0, -0.19)
JOINT = JointLaw(1.05, -0.11, 0.02, -0.13, 0.03, 4.0)
RATE = PowerLaw(0.9, -0.19)
BATCH = PowerLaw(0.0004, 0.54)
BODY = PowerLaw(0.16, 0.5)
RATES = {
    f"{family}_{name}": law
    for family in ("dense", "moe")
    for name, law in (("learning_rate", RATE), ("batch_tokens", BATCH))
}
ADOPTED = Laws(
    tuning=RATES,
    isoflop={"dense_model": BODY, "moe_model": BODY},
    leverage=JOINT,
)
SIGMA = 0.002


def loss_of(planned, axes, generator):
    """The loss of a run: the law of its family, raised by what its study varies."""
    compute, model = planned.point.budget_flops, planned.run.model
    reached = compute
    if model.is_moe:
        reached *= JOINT(
            activation_ratio=axes["activation_ratio"],
            granularity=axes["granularity"],
            compute=compute,
        )
    excess = 0.0
    if planned.study == "tuning":
        excess += 0.01 * math.log(planned.run.learning_rate / RATE(compute)) ** 2
        excess += 0.01 * math.log(planned.run.batch_tokens / BATCH(compute)) ** 2
    if planned.study == "isoflop":
        excess += 0.02 * math.log(axes["flops_per_token"] / BODY(compute)) ** 2
    return DENSE.evaluate(compute=reached) * math.exp(excess + SIGMA * generator.standard_normal())


def fill(directory, studies=tuple(STUDIES)):
    """Write the ledger of these studies."""
    generator = np.random.default_rng(0)
    plans = {}
    for study in studies:
        about, runs = STUDIES[study], plan(study, ADOPTED)
        plans[study] = {"role": about.role, "varies": list(about.varies)}
        plans[study]["runs"] = [planned.run_id for planned in runs]
        for planned in runs:
            described = ledger.describe(planned.run)
            loss = loss_of(planned, described["axes"], generator)
            outcome = {"study": study, "protocol": about.protocol, "status": "ok"}
            outcome["validation_loss_nats"] = loss
            ledger.append(directory / f"{study}.jsonl", described | outcome)
    ledger.write_plans(plans, directory)

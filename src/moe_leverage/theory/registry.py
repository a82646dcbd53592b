"""Which laws there are: those of the modules of this room, found and not listed.

A law is known once its class exists. One written into a new module here, or into a notebook, is
saved, loaded and compared like those of the paper.
"""

from __future__ import annotations

from collections.abc import Container

from moe_leverage.modules import import_modules
from moe_leverage.rules import require
from moe_leverage.theory import law
from moe_leverage.theory.law import Law


def laws() -> dict[str, type[Law]]:
    """Every law by its name.

    >>> "JointLaw" in laws()
    True
    """
    import_modules("moe_leverage.theory")
    return dict(law.LAWS)


def find(name: str, field: str = "law") -> type[Law]:
    """The law of this name; ValueError, which says where the name stood, lists those there are.

    >>> find("PowerLaw").inputs
    ('compute',)
    """
    known = law.LAWS if name in law.LAWS else laws()
    require(name in known, field, name, f"must be one of {', '.join(sorted(known))}")
    return known[name]


def rivals(quantity: str, columns: Container[str]) -> tuple[type[Law], ...]:
    """The laws that declare themselves rivals for a quantity and whose inputs a table has.

    >>> [found.__name__ for found in rivals("efficiency_leverage", {"activation_ratio"})]
    ['ConstantLeverage', 'ActivationPowerLaw']
    """
    return tuple(
        found
        for found in laws().values()
        if found.rival_for == quantity and all(name in columns for name in found.inputs)
    )

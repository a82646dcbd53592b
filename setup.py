"""Which packages a wheel holds: every room of src that there is, and the data beside it.

All else stands in pyproject.toml, which can find packages in one folder alone.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages("src"), "moe_leverage.data"])

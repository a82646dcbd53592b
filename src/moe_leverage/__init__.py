"""Companion code to *Towards Greater Leverage* (arXiv 2507.17702): count, predict, train, fit."""

__version__ = "0.1.0"

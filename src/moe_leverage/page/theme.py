"""One look for every figure: colours with a fixed meaning, and their dark variants.

A figure is drawn once, in the light colours. In the page each colour becomes a CSS variable with
the light value as fallback, so the reader's theme recolours the same SVG.

    published  the paper's law or number          dense  dense models
    measured   our runs, or a law fitted to them  moe    mixture-of-experts models
    activation_colour(A)  sequential, dark = sparse; the only scale for A
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.colors import ListedColormap, to_rgba

# role: (light, dark); light values are the Okabe-Ito hues darkened to 4.5:1 on white
COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1b1f24", "#e8eaed"),
    "muted": ("#5b636d", "#a9b1ba"),
    "grid": ("#d8dce1", "#3d444d"),
    "surface": ("#fefefe", "#14181e"),
    "published": ("#0369a8", "#5ab4f0"),
    "measured": ("#b84a00", "#ff9a4d"),
    "dense": ("#5c5470", "#b9afd3"),
    "moe": ("#00795a", "#3ecfa3"),
    "accent": ("#a6316f", "#f08cc0"),
}
ACTIVATION_SCALE: tuple[tuple[str, str], ...] = (  # from sparse (A small) to dense (A = 1)
    ("#3b0f6f", "#d9b8ff"),
    ("#57238a", "#c99cfb"),
    ("#763795", "#b981ee"),
    ("#94478f", "#c877c9"),
    ("#ad5581", "#da78a8"),
    ("#bf6770", "#ea8490"),
    ("#c97b5d", "#f0987a"),
    ("#cb914b", "#efb069"),
)
MARKERS = {"published": "", "measured": "o", "dense": "s", "moe": "o"}
LINES = {"published": "-", "measured": "--", "dense": ":", "moe": "-"}
ACTIVATION_RANGE = (0.0078, 1.0)  # the smallest and largest A that the paper trains (Section 4.1.1)
WIDTH_INCHES = 6.4
HEIGHT_INCHES = 4.0
FULL_TINT, TINTS = 0.5, 21  # of `fading`: letters stay legible on the fullest
FONT_SCALE = 1.15  # of seaborn's sizes for paper: letters of 11 points


def colour(role: str) -> str:
    """The light colour of a role; the page swaps in the dark one.

    >>> colour("published")
    '#0369a8'
    """
    return COLOURS[role][0]


def activation_colour(activation_ratio: float) -> str:
    """The colour of an activation ratio A, one of eight steps even in log A.

    >>> activation_colour(0.0078) == ACTIVATION_SCALE[0][0]
    True
    """
    return ACTIVATION_SCALE[activation_step(activation_ratio)][0]


def activation_step(activation_ratio: float) -> int:
    """The place of an activation ratio A on ACTIVATION_SCALE.

    >>> activation_step(1.0)
    7
    """
    low, high = (math.log(a) for a in ACTIVATION_RANGE)
    share = (math.log(activation_ratio) - low) / (high - low)
    step = round(share * (len(ACTIVATION_SCALE) - 1))
    return min(max(step, 0), len(ACTIVATION_SCALE) - 1)


def sequential_colours(count: int) -> list[str]:
    """`count` colours spread over the sequential scale, for an ordered variable other than A."""
    last = len(ACTIVATION_SCALE) - 1
    return [ACTIVATION_SCALE[round(i * last / max(count - 1, 1))][0] for i in range(count)]


def fading(role: str) -> ListedColormap:
    """The colour of a role, fading as a value grows: tints that follow the reader's theme too."""
    steps = [FULL_TINT * (1 - place / (TINTS - 1)) for place in range(TINTS)]
    return ListedColormap([to_rgba(colour(role), opacity) for opacity in steps])


def variables() -> dict[str, tuple[str, str]]:
    """CSS variable name: (light, dark) for every colour of the theme."""
    named = {f"--fig-{role}": pair for role, pair in COLOURS.items()}
    return named | {f"--fig-a{i}": pair for i, pair in enumerate(ACTIVATION_SCALE)}


def stylesheet() -> str:
    """The style sheet that gives figures their dark variant; the site's build writes it out."""
    light = "".join(f"{name}:{pair[0]};" for name, pair in variables().items())
    dark = "".join(f"{name}:{pair[1]};" for name, pair in variables().items())
    return f'html{{{light}}}\nhtml[data-theme="dark"]{{{dark}}}\n'


def as_variables(svg: str) -> str:
    """The same SVG with every theme colour replaced by its CSS variable.

    >>> as_variables("fill: #0369a8")
    'fill: var(--fig-published, #0369a8)'
    """
    for name, (light, _) in variables().items():
        svg = svg.replace(light, f"var({name}, {light})")
    return svg


@contextmanager
def themed(salt: str) -> Iterator[None]:
    """Seaborn's settings for paper at the size of the page, in the house colours, for one figure.

    `salt` makes its SVG reproducible.
    """
    import seaborn as sns  # a second to load, which who asks for a colour alone need not wait

    settings: dict[Any, Any] = {
        "figure.figsize": (WIDTH_INCHES, HEIGHT_INCHES),
        "figure.constrained_layout.use": True,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "savefig.dpi": 200,
        "font.sans-serif": ["DejaVu Sans"],
        "legend.fontsize": 9.5,
        "axes.facecolor": "none",
        "axes.edgecolor": colour("muted"),
        "axes.labelcolor": colour("ink"),
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": colour("grid"),
        "patch.edgecolor": colour("surface"),
        "text.color": colour("ink"),
        "xtick.color": colour("muted"),
        "ytick.color": colour("muted"),
        "xtick.labelcolor": colour("ink"),
        "ytick.labelcolor": colour("ink"),
        "legend.facecolor": colour("surface"),
        "legend.edgecolor": "none",
        "legend.framealpha": 0.85,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.5,
        "errorbar.capsize": 2.5,
        "svg.fonttype": "path",  # glyphs as outlines: the same picture on every device
        "svg.hashsalt": salt,
    }
    sizes = sns.plotting_context("paper", font_scale=FONT_SCALE)
    with mpl.rc_context(sns.axes_style("ticks") | sizes | settings):
        yield

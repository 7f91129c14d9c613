"""Rounding to fewer bits: an update that is small against a quantisation step is largely undone (arXiv 2410.16454).

The matrices of the blocks are rounded to nearest on a uniform grid between the smallest and the largest of every 32
weights of a row (asymmetric): at 4 and 3 bits, and 8 in the full version, which adds int8, symmetric with one scale for
each row, and NF4 with one scale for every 64 weights. Embedding, head, norms and biases stay as they are, as in
bitsandbytes, GPTQ and AWQ; GGUF rounds the embedding too. The metric ``code_flips`` lists the share of codes that
differ between base and unlearned, for each of the three uniform grids.

Weights that are read from fewer than 16 bits (GGUF) are rounded for a second time. Where the base's lie on the very
grid, as those of Q4_1 do on that of 4 bits, the base is not changed and an update below half a step is undone exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

from audit.attacks import AttackedModel, AttackInput
from audit.attacks._matrices import Edit, edited
from audit.weights.grids import INT8, NF4, UNIFORM, Grid

TITLE = "rounding to fewer bits"
COST = "passes"
INPUT = "rounding"
LEVEL = "quick"
RECOVERS = True
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

QUICK = (UNIFORM[4], UNIFORM[3])
FULL = (UNIFORM[8], *QUICK, INT8, NF4)


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each grid."""
    grids = FULL if given.level == "full" else QUICK
    yield from edited(given, "rounding", {grid.name: _edit(grid) for grid in grids})


def _edit(grid: Grid) -> Edit:
    return lambda matrix, number: grid.rounded(matrix)

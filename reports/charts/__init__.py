"""Charts of the page as inline SVG.

Equal input gives equal bytes. No chart relies on color alone: series differ in dash and marker, cells carry the number
of their step, and the page puts the table of the data behind each chart.

Why not matplotlib, which draws ``reports.paper_figures``: a chart here is a few kB (a heat map of 32 x 50 cells is
251 kB as matplotlib's SVG), has a tooltip on every mark, a title and a description for screen readers, takes its colors
from the page's style sheet (dark mode, print), and is drawn without loading a plotting library, so that ``audit view``
starts at once. A paper wants the opposite: one file on its own, with axes that an author can restyle.
"""

from reports.charts.attacks import AttackRow, attack_rows
from reports.charts.doses import Dose, dose_curve
from reports.charts.facts import FactCell, FactRow, Panel, fact_grid, fact_key
from reports.charts.grid import grid, grid_key
from reports.charts.layers import groups_by_size, lines, strip
from reports.charts.recovery import READABLE, SAYS, Curve, Estimate, Outcome, recovery
from reports.charts.residual import ShareRow, share_line
from reports.charts.rows import DotRow, dots
from reports.charts.scatter import Point, scatter
from reports.charts.series import STYLES, WIDTH, Series, styles_of

__all__ = [
    "READABLE",
    "SAYS",
    "STYLES",
    "WIDTH",
    "AttackRow",
    "Curve",
    "Dose",
    "DotRow",
    "Estimate",
    "FactCell",
    "FactRow",
    "Outcome",
    "Panel",
    "Point",
    "Series",
    "ShareRow",
    "attack_rows",
    "dose_curve",
    "dots",
    "fact_grid",
    "fact_key",
    "grid",
    "grid_key",
    "groups_by_size",
    "lines",
    "recovery",
    "scatter",
    "share_line",
    "strip",
    "styles_of",
]

"""Reports of a comparison or a sweep: tables, pictures and an HTML page."""

from .comparison import draw, draw_reconstructions, write_reconstructions, write_report
from .files import write_sweep_report
from .html import page
from .summary import Summary, summarize
from .terminal import terminal_tables

__all__ = [
    "Summary",
    "draw",
    "draw_reconstructions",
    "page",
    "summarize",
    "terminal_tables",
    "write_reconstructions",
    "write_report",
    "write_sweep_report",
]

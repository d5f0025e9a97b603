"""Many runs: methods on tasks, options chosen on a validation split, nothing trained twice."""

from .definition import Part, Row, Sweep
from .results import Cell, Measured, Outcome, Results, Run
from .spec import RunSpec, Settings

__all__ = ["Cell", "Measured", "Outcome", "Part", "Results", "Row", "Run", "RunSpec", "Settings", "Sweep"]

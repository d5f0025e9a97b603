"""Sweeps: train methods on tasks, choose their options on the validation split, resume after interruptions."""

from .change import known, narrowed, on_models, trained_for
from .counts import known_specs, parameters, sizes
from .definition import RELEASED, Sweep, SweepPart, SweepRow
from .engines import ENGINES, Engine, in_process, pool, ray_cluster
from .execute import Runner
from .means import group_means, overall_mean, task_group
from .presets import PRESETS, PROTOCOLS, preset
from .results import Cell, Measured, Outcome, Results, Run
from .run import read_results, run_sweep
from .spec import RunSpec, Settings

__all__ = [
    "ENGINES",
    "PRESETS",
    "PROTOCOLS",
    "RELEASED",
    "Cell",
    "Engine",
    "Measured",
    "Outcome",
    "Results",
    "Run",
    "RunSpec",
    "Runner",
    "Settings",
    "Sweep",
    "SweepPart",
    "SweepRow",
    "group_means",
    "in_process",
    "known",
    "known_specs",
    "narrowed",
    "on_models",
    "overall_mean",
    "parameters",
    "pool",
    "preset",
    "ray_cluster",
    "read_results",
    "run_sweep",
    "sizes",
    "task_group",
    "trained_for",
]

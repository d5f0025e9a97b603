"""Tensor-network adapters and decompositions for neural networks."""

from importlib import import_module
from typing import TYPE_CHECKING

from . import errors, formats, network, recipes
from .adapters import Adapter, Alpha, adapt, load_adapter
from .algebra import combine, convert, extract, round_ranks
from .formats import (
    CP,
    Format,
    MatrixBatch,
    TensorTrain,
    Tucker,
    available_formats,
    get_format,
    register_format,
)
from .lora import from_lora, to_lora
from .plan import Group, Rule, TensorizationPlan, plan_by_shape, plan_for
from .storage import AdapterState

if TYPE_CHECKING:
    from . import drawing as drawing
    from . import lab as lab
    from . import testing as testing
    from .lab import compare as compare
    from .lab import fit as fit
    from .lab import load as load

__version__ = "0.1.0"

__all__ = [
    "CP",
    "Adapter",
    "AdapterState",
    "Alpha",
    "Format",
    "Group",
    "MatrixBatch",
    "Rule",
    "TensorTrain",
    "TensorizationPlan",
    "Tucker",
    "adapt",
    "available_formats",
    "combine",
    "convert",
    "errors",
    "extract",
    "formats",
    "from_lora",
    "get_format",
    "load_adapter",
    "network",
    "plan_by_shape",
    "plan_for",
    "recipes",
    "register_format",
    "round_ranks",
    "to_lora",
]

_LATER = {"compare": "lab", "fit": "lab", "lab": "lab", "load": "lab", "testing": "testing", "drawing": "drawing"}
"""Names imported on first use, and their subpackage: `lab` imports timm and `testing` imports hypothesis."""

if not TYPE_CHECKING:  # a type checker would accept any attribute of a module with __getattr__

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            room = import_module(f".{_LATER[name]}", __name__)
        except ImportError as error:  # help() and completion expect an AttributeError
            fix = "pip install 'tensorfact[testing]'" if name == "testing" else "pip install --upgrade tensorfact"
            raise AttributeError(f"{__name__}.{name} cannot be imported: {error}. Fix: {fix}.") from error
        return room if name == _LATER[name] else getattr(room, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_LATER})

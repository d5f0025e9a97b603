"""Tensor-network adapters and decompositions for neural networks."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import drawing as drawing
    from . import errors as errors
    from . import formats as formats
    from . import lab as lab
    from . import network as network
    from . import optim as optim
    from . import recipes as recipes
    from . import testing as testing
    from .adapters import Adapter as Adapter
    from .adapters import Alpha as Alpha
    from .adapters import Bank as Bank
    from .adapters import Tasks as Tasks
    from .adapters import adapt as adapt
    from .adapters import bank as bank
    from .adapters import load_adapter as load_adapter
    from .adapters import open_bank as open_bank
    from .algebra import combine as combine
    from .algebra import convert as convert
    from .algebra import extract as extract
    from .algebra import round_ranks as round_ranks
    from .formats import CP as CP
    from .formats import Format as Format
    from .formats import MatrixBatch as MatrixBatch
    from .formats import TensorTrain as TensorTrain
    from .formats import Tucker as Tucker
    from .formats import available_formats as available_formats
    from .formats import get_format as get_format
    from .formats import register_format as register_format
    from .lab import compare as compare
    from .lab import doctor as doctor
    from .lab import fit as fit
    from .lab import load as load
    from .lora import from_lora as from_lora
    from .lora import to_lora as to_lora
    from .plan import Group as Group
    from .plan import Rule as Rule
    from .plan import TensorizationPlan as TensorizationPlan
    from .plan import plan_by_shape as plan_by_shape
    from .plan import plan_for as plan_for
    from .storage import AdapterState as AdapterState

__version__ = "0.1.0"

_ROOMS = ("drawing", "errors", "formats", "lab", "network", "optim", "recipes", "testing")
_NAMES = {
    "adapters": ("Adapter", "Alpha", "Bank", "Tasks", "adapt", "bank", "load_adapter", "open_bank"),
    "algebra": ("combine", "convert", "extract", "round_ranks"),
    "formats": (
        *("CP", "Format", "MatrixBatch", "TensorTrain", "Tucker"),
        *("available_formats", "get_format", "register_format"),
    ),
    "lab": ("compare", "doctor", "fit", "load"),
    "lora": ("from_lora", "to_lora"),
    "plan": ("Group", "Rule", "TensorizationPlan", "plan_by_shape", "plan_for"),
    "storage": ("AdapterState",),
}
_HOMES = {name: room for room, names in _NAMES.items() for name in names} | {room: room for room in _ROOMS}
"""The subpackage of every public name. It is imported on first use: `tensorfact --help` answers without torch."""

__all__ = sorted(name for name, room in _HOMES.items() if room not in ("drawing", "lab", "optim", "testing"))

if not TYPE_CHECKING:  # a type checker would accept any attribute of a module with __getattr__

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            room = import_module(f".{_HOMES[name]}", __name__)
        except ImportError as error:  # help() and completion expect an AttributeError
            fix = "pip install 'tensorfact[testing]'" if name == "testing" else "pip install --upgrade tensorfact"
            raise AttributeError(f"{__name__}.{name} cannot be imported: {error}. Fix: {fix}.") from error
        return room if name in _ROOMS else getattr(room, name)


def __dir__() -> list[str]:
    return sorted(_HOMES)

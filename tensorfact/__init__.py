"""Tensor-network adapters and decompositions for neural networks."""

from . import recipes as recipes
from .adapt.adapter import Adapter
from .adapt.build import adapt, load_adapter
from .adapt.scale import Alpha
from .compare import Comparison, compare
from .data import (
    Splits,
    arrays,
    digits,
    fashion_mnist,
    few_shot,
    hugging_face,
    image_folder,
    open_task,
    sprites,
    timm_dataset,
    vtab,
)
from .extract import Extraction, extract
from .formats import (
    CP,
    BlockTerm,
    Decomposition,
    Diagonals,
    Each,
    Format,
    Gates,
    Hadamard,
    KhatriRao,
    Kronecker,
    MatrixBatch,
    Monarch,
    Nested,
    PartialTucker,
    PerSlice,
    Started,
    TensorRing,
    TensorTrain,
    TTMatrix,
    Tucker,
    available_formats,
    get_format,
    register_format,
)
from .lora import LoraFolder, from_lora, to_lora
from .nano import nano
from .network import Core, Mode, Network, calibrate
from .plan import Group, ResolvedPlan, Rule, TensorizationPlan, plan_by_shape, plan_for
from .reconstruct import Reconstructions, reconstruct
from .rework import combine, convert, round_ranks
from .state import AdapterState, Recompression
from .training import History, evaluate, fit

__version__ = "0.1.0"

__all__ = [
    "CP",
    "Adapter",
    "AdapterState",
    "Alpha",
    "BlockTerm",
    "Comparison",
    "Core",
    "Decomposition",
    "Diagonals",
    "Each",
    "Extraction",
    "Format",
    "Gates",
    "Group",
    "Hadamard",
    "History",
    "KhatriRao",
    "Kronecker",
    "LoraFolder",
    "MatrixBatch",
    "Mode",
    "Monarch",
    "Nested",
    "Network",
    "PartialTucker",
    "PerSlice",
    "Recompression",
    "Reconstructions",
    "ResolvedPlan",
    "Rule",
    "Splits",
    "Started",
    "TTMatrix",
    "TensorRing",
    "TensorTrain",
    "TensorizationPlan",
    "Tucker",
    "adapt",
    "arrays",
    "available_formats",
    "calibrate",
    "combine",
    "compare",
    "convert",
    "digits",
    "evaluate",
    "extract",
    "fashion_mnist",
    "few_shot",
    "fit",
    "from_lora",
    "get_format",
    "hugging_face",
    "image_folder",
    "load_adapter",
    "nano",
    "open_task",
    "plan_by_shape",
    "plan_for",
    "reconstruct",
    "register_format",
    "round_ranks",
    "sprites",
    "timm_dataset",
    "to_lora",
    "vtab",
]

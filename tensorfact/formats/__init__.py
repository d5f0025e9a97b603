"""Tensor formats: their options and the networks they imply, one file per format."""

from .base import Decomposition, Format
from .block_term import BlockTerm
from .cp import CP
from .diagonals import Diagonals
from .gates import Gates
from .hadamard import Hadamard
from .khatri_rao import KhatriRao
from .kronecker import Kronecker
from .matrix_batch import MatrixBatch
from .monarch import Monarch
from .nested import Nested
from .partial_tucker import PartialTucker
from .per_slice import Each, PerSlice
from .registry import (
    FormatLike,
    available_formats,
    format_from_dict,
    format_label,
    format_to_dict,
    get_format,
    parse_format,
    register_format,
)
from .reshaped_tucker import ReshapedTucker
from .started import Started
from .tensor_ring import TensorRing
from .tensor_train import TensorTrain
from .tt_matrix import TTMatrix
from .tucker import Tucker
from .wrapper import Wrapper

__all__ = [
    "CP",
    "BlockTerm",
    "Decomposition",
    "Diagonals",
    "Each",
    "Format",
    "FormatLike",
    "Gates",
    "Hadamard",
    "KhatriRao",
    "Kronecker",
    "MatrixBatch",
    "Monarch",
    "Nested",
    "PartialTucker",
    "PerSlice",
    "ReshapedTucker",
    "Started",
    "TTMatrix",
    "TensorRing",
    "TensorTrain",
    "Tucker",
    "Wrapper",
    "available_formats",
    "format_from_dict",
    "format_label",
    "format_to_dict",
    "get_format",
    "parse_format",
    "register_format",
]

"""Formats: rank choices and the networks they imply, one file a format."""

from .base import Format
from .cp import CP
from .decomposition import Decomposition
from .matrix_batch import MatrixBatch
from .registry import (
    available_formats,
    format_from_dict,
    format_label,
    format_to_dict,
    get_format,
    parse_format,
    register_format,
)
from .tensor_ring import TensorRing
from .tensor_train import TensorTrain
from .tucker import Tucker

__all__ = [
    "CP",
    "Decomposition",
    "Format",
    "MatrixBatch",
    "TensorRing",
    "TensorTrain",
    "Tucker",
    "available_formats",
    "format_from_dict",
    "format_label",
    "format_to_dict",
    "get_format",
    "parse_format",
    "register_format",
]

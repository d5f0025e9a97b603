"""Which dimension of a parameter is the output, which modules store it second, and where it is not known."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def is_conv1d(module: nn.Module) -> bool:
    """Return whether this is transformers' `Conv1D`, a linear layer that stores its weight as (in, out)."""
    classes = [(cls.__module__, cls.__name__) for cls in type(module).__mro__]
    return ("transformers.pytorch_utils", "Conv1D") in classes


def is_transposed(module: nn.Module, attribute: str) -> bool:
    """Return whether a parameter's outputs are its second dimension.

    True for transposed convolutions, embeddings, and transformers' `Conv1D`.
    """
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding, nn.EmbeddingBag)
    return attribute == "weight" and (isinstance(module, kinds) or is_conv1d(module))


def is_depthwise(module: nn.Module, parameter: Tensor) -> bool:
    """Return whether a parameter is the kernel of a depthwise convolution."""
    return getattr(module, "groups", 1) > 1 and parameter.dim() > 2 and parameter.shape[1] == 1


def is_stack(module: nn.Module, parameter: Tensor) -> bool:
    """Return whether a parameter has more than two dimensions without being the kernel of a convolution.

    It is a stack of matrices, such as a mixture's experts, or a table. Models store the matrices of such a stack as
    (outputs, inputs) or as (inputs, outputs), and nothing in the module tells which.
    """
    return parameter.dim() > 2 and not isinstance(module, _ConvNd)

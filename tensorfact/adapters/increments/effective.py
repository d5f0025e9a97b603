"""The effective weights of a kind: formed once in a pass for all its parameters, and not recorded by autograd."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .cache import PLAIN, Formed, without_autocast
from .planned import Kind

Owners = Mapping[str, tuple[nn.Module, str]]
"""A module that holds a parameter, and its name there, by the parameter's name in the model."""


@dataclasses.dataclass(frozen=True)
class Sums:
    """Effective weights that were formed in one pass.

    Args:
        bases: The stored weights, with their versions and places in memory; empty if they cannot be formed.
        effective: The effective weights.
    """

    bases: tuple[tuple[Tensor, int, int], ...]
    effective: tuple[Tensor, ...]

    def of(self, at: int, weight: Tensor) -> Tensor | None:
        """Return the effective weight of a layer; None if the layer holds another weight than it was formed with."""
        if not self.bases:
            return None
        base, version, place = self.bases[at]
        same = base is weight and version == weight._version and place == weight.data_ptr()  # as after `.data = `
        return self.effective[at] if same else None


class EffectiveWeights:
    """Forms W + s dW for all parameters of a kind, in at least fp32, and rounds each once.

    Layers multiply their input by it, and their gradients are those of the two narrow matrices. From the forward pass
    to the end of the backward pass, the effective weights take as much memory as the parameters.

    Args:
        kind: The kind.
        which: Its position among those of the tensor.
        matrices: Cache of the down and up matrices.
        owners: The modules that hold the parameters; without them, no effective weight is formed.
    """

    def __init__(self, kind: Kind, which: int, matrices: Formed, owners: Owners) -> None:
        self.kind, self.which, self.matrices = kind, which, matrices
        self.owners = [owners[view.parameter] for view in kind.views if view.parameter in owners]

    def __call__(
        self, at: int, weight: Tensor, cores: Sequence[Tensor], dtypes: tuple[torch.dtype, torch.dtype], scale: float
    ) -> Tensor | None:
        """Return the effective weight of one parameter.

        Args:
            at: Position of the parameter in the kind.
            weight: The weight that its layer holds.
            cores: The cores of the tensor.
            dtypes: Dtype in which it is formed, and that of the layer's product.
            scale: Scale s of the update: W + s dW.

        Returns:
            The effective weight, without a gradient. None if a layer of the kind holds no plain weight of the first
            dtype, as under FSDP, or if this one holds another weight than when they were formed.
        """
        forms, (wide, dtype) = self.matrices.passes.forms, dtypes
        if forms is None:  # a layer that is called alone, or that checkpointing runs again
            bases = self._bases(wide)
            return self._sums(bases[at : at + 1], at, cores, dtypes, scale).of(0, weight)
        key = (self, dtype, scale)
        if key not in forms:
            forms[key] = self._sums(self._bases(wide), None, cores, dtypes, scale)
        sums = forms[key]
        assert isinstance(sums, Sums)
        return sums.of(at, weight)

    def _bases(self, wide: torch.dtype) -> list[Tensor]:
        """Return the stored weights of all parameters, or nothing if one of them is no plain weight of a dtype."""
        plain: list[Tensor] = []
        for module, name in self.owners:
            base = module._parameters.get(name)
            alike = base is not None and type(base) in PLAIN and base.dtype == wide and not base.is_inference()
            if base is None or not alike or (plain and base.device != plain[0].device):
                return []
            plain.append(base)
        return plain if len(plain) == len(self.kind.views) else []

    def _sums(
        self,
        bases: Sequence[Tensor],
        alone: int | None,
        cores: Sequence[Tensor],
        dtypes: tuple[torch.dtype, torch.dtype],
        scale: float,
    ) -> Sums:
        """Form effective weights: those of all parameters, or of one alone."""
        if not bases:
            return Sums((), ())
        assert self.kind.halves is not None
        wide, dtype = dtypes
        with torch.inference_mode(False), torch.no_grad(), without_autocast(bases[0].device):
            if alone is None:
                down, up = self.matrices.whole(self.which, cores, wide, scale)
            else:
                down, up = self.matrices(self.which, alone, cores, wide, scale)
            sums = self.kind.halves.product(len(bases), down, up, transposed=self.kind.view.transposed)
            sums = sums.view(len(bases), *bases[0].shape)
            torch._foreach_add_(sums.unbind(), list(bases))
            return Sums(tuple((base, base._version, base.data_ptr()) for base in bases), sums.to(dtype).unbind())

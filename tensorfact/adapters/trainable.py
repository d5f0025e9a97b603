"""What an optimizer needs of an adapter: its trained cores, their learning rates, and a scale that suits them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from ..common.checks import one_of, quoted
from ..errors import AdaptError
from ..model.parameters import base_parameters
from .attached import Attached
from .factors import Factors, named
from .groups import ParameterGroup, parameter_groups


class ScaleState(nn.Module):
    """The scales of an adapter in a `state_dict`: the cores mean nothing without them.

    Args:
        adapter: The adapter.
    """

    scales: Tensor
    """The scales (tensor,) in fp32, which holds their few digits."""

    def __init__(self, adapter: Trainable) -> None:
        super().__init__()
        self.__dict__["_adapter"] = adapter  # not as a submodule: this is a submodule of the adapter
        self.register_buffer("scales", self._present())

    def _present(self) -> Tensor:
        return torch.tensor(list(self.__dict__["_adapter"].scales.values()), dtype=torch.float32, device="cpu")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to other devices, but not to other dtypes."""
        self.scales = self.scales.to(fn(self.scales).device)
        return self

    def _save_to_state_dict(self, *arguments: Any) -> None:
        self.scales = self._present().to(self.scales.device)
        super()._save_to_state_dict(*arguments)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        errors = arguments[-1]
        if not self.scales.is_meta and not bool(self.scales.isfinite().all()):
            errors.append("the scales of the adapter are not finite")
        if errors:  # such as factors of other ranks, which these scales belong to
            self.scales = self._present().to(self.scales.device)
            return
        if not self.scales.is_meta and not torch.equal(self.scales.cpu(), self._present()):
            links = self.__dict__["_adapter"]._links
            found = (float(f"{scale:.7g}") for scale in self.scales.tolist())  # the digits of fp32
            links.rescale(dict(zip(links.scales, found, strict=True)))


class Trainable(Attached):
    """The part of an adapter that an optimizer deals with."""

    @property
    def scales(self) -> Mapping[str, float]:
        """Scales s of the update W + s dW by tensor name, as given to `adapt` or derived."""
        return MappingProxyType(self._links.scales)

    @property
    def num_parameters(self) -> int:
        """Number of trained parameters in the factors, without the head."""
        return sum(cast("Factors", factors).num_parameters for factors in self.factors.values())

    def print_trainable_parameters(self) -> None:
        """Print how many parameters of the model train, as peft does.

        Examples:
            >>> from tensorfact import adapt
            >>> from tensorfact.lab import nano
            >>> adapt(nano()).print_trainable_parameters()
            trainable params: 7,114 || all params: 684,874 || trainable%: 1.0387
        """
        every = list(self.model.parameters())
        trained, total = sum(p.numel() for p in every if p.requires_grad), sum(p.numel() for p in every)
        text = (
            f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / max(total, 1):.4f}"
        )
        print(text)  # noqa: T201  # what the method is for

    def parameter_groups(self, lr: float, factors: Mapping[str, float] | None = None) -> list[ParameterGroup]:
        """Group the trained parameters by learning rate, for a torch optimizer.

        Args:
            lr: The learning rate.
            factors: Multiples of `lr` by core (`V`), by tensor and core (`encoder.V`), or for the `head`; all else gets
                `lr`. Default: for every core the multiple of `balance`, which suits any scale; after `scale="auto"` all
                are 1.

        Returns:
            One group for each multiple, with `params` and `lr`.

        Raises:
            AdaptError: A name is unknown, a multiple is not a positive number, or the adapter is merged and there are
                no `factors`.

        Source: S. Hayou et al., LoRA+, ICML 2024, which trains B faster than A; here the ratio is derived.

        Examples:
            >>> from tensorfact import MatrixBatch, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), MatrixBatch(rank=4))
            >>> [group["lr"] for group in adapter.parameter_groups(1e-3, {"B": 16})]
            [0.001, 0.016]
        """
        cores = self.named_cores()
        if factors is None:  # the sizes of the base weights are needed
            self._require(merged=False)
        multiples = self._links.rates() if factors is None else factors
        return parameter_groups(self.model, cores, self._head_parameters(), lr, multiples)

    def _head_parameters(self) -> list[Tensor]:
        parameters = base_parameters(self.model)
        return [parameters[name] for name in self.head if name in parameters]

    def balance(self, tensors: Iterable[str] | None = None) -> None:
        """Change the sizes of the cores and the scale so that one learning rate suits all cores; increments stay.

        Afterwards a step of Adam of learning rate lr on the core that starts at zero changes the weights by
        16 lr (S / r)^(1/4) of their root mean square, where r is its rank and S the number of slices that share it. It
        changes the entries of every other core by lr / 0.04 of theirs. `adapt` does this for `scale="auto"`; adapters
        of other origin train better after it. The parameters stay the same objects, but the moments of an optimizer no
        longer suit them: create a new one.

        Args:
            tensors: Names of tensors; default: all.

        Raises:
            AdaptError: The adapter is merged, or a name is unknown.

        Source: for Adam, learning rates, initial values and scales are exchangeable: G. Yang et al., Tensor Programs V,
            2022, and S. Hayou et al., LoRA+, ICML 2024.

        Examples:
            >>> from tensorfact import MatrixBatch, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), MatrixBatch(rank=4), scale=1.0)
            >>> adapter.balance()
            >>> [group["lr"] for group in adapter.parameter_groups(1e-3)]
            [0.001]
        """
        known = list(self.factors)
        if tensors is not None and (isinstance(tensors, str) or not isinstance(tensors, Iterable)):
            raise AdaptError(
                "balance: tensors", expected="a list of names", got=quoted(tensors), fix=f"tensors={known}"
            )
        names = known if tensors is None else list(tensors)
        for name in names:
            one_of(name, known, "balance: tensors", AdaptError, fix=f"tensors={known}")
        with self._turns.changing("balance()"):
            self._require(merged=False, changing=True)
            self._links.balance(names)

    def named_cores(self) -> dict[str, Tensor]:
        """Return every core, named `TENSOR.CORE`."""
        return named(self.factors)

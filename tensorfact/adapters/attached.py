"""Factors attached to one model: what an adapter and a bank of tasks have in common."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import cast

import torch
from torch import nn

from ..formats import Format
from ..model.parameters import base_tensors
from ..plan import ResolvedPlan, TensorizationPlan
from .beside import Beside
from .disabling import Disabling
from .explain import Explanation, explain
from .increments import NOMINAL_TOKENS
from .links import Links
from .liveness import Watch
from .place import Originals, Place, require_attached
from .slots import Switch
from .turns import Turns


class Attached(nn.Module):
    """The factors of all tensors, attached to one model; registered on its root as `model.tensorfact`.

    Args:
        model: The base model.
        plan: The weights to adapt, and how they fold into tensors.
        resolved: The plan, resolved on the model.
        head: Names of the trained head's parameters.
        recompute: Whether outputs of cheap modules are recomputed in the backward pass.
    """

    _trains = True
    """Whether anything may train, so that the base model's values have to be known."""

    def __init__(
        self,
        model: nn.Module,
        plan: TensorizationPlan,
        resolved: ResolvedPlan,
        head: tuple[str, ...],
        *,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # not as a submodule: the adapter is a submodule of the model
        self.plan, self.resolved, self.head = plan, resolved, head
        self._switch, self._attached = Switch(), False
        self._originals, self._place = Originals(model), Place(model, recompute=recompute)
        self._beside, self._turns = Beside(model, head, self._originals), Turns(model)
        self._disabling = Disabling(self._switch, self._beside)
        self.register_state_dict_pre_hook(self._switch.refuse_copying)  # type: ignore[no-untyped-call]  # torch's

    def _link(self, links: Links) -> None:
        self._links, self._slots = links, links.slots
        self.factors, self.starts = nn.ModuleDict(links.factors), nn.ModuleDict(links.starts)
        self.watch = Watch(self.model, self._slots, (self.resolved, self._beside.loading, links.loading))

    @property
    def model(self) -> nn.Module:
        """The model that the adapter was created for."""
        return cast("nn.Module", self.__dict__["_model"])

    @property
    def formats(self) -> Mapping[str, Format]:
        """Formats by tensor name; `convert` and `round` change them."""
        return MappingProxyType(self._links.formats)

    @property
    def dropout(self) -> float | dict[str, float]:
        """Dropout of the factors or of the increment, as given to `adapt`."""
        return self._links.options.dropout.plain

    @property
    def merged(self) -> bool:
        """Whether the increments are merged into the base weights."""
        return bool(self._originals.values)

    @abstractmethod
    def merge(self) -> None:
        """Write the effective weights into the base parameters; the originals are kept for `unmerge`."""

    def unmerge(self) -> None:
        """Restore the original base parameters, bit for bit.

        Raises:
            AdaptError: The adapter is not merged, disabled or removed.
        """
        with self._turns.changing("unmerge()"):
            self._require(merged=True, changing=True)
            self._originals.restore()
            self._switch.on = True

    def remove(self) -> None:
        """Remove the adapter from the model, which becomes the base model again, with its head.

        If the adapter is merged, the merged weights stay, and so does the trained head. The `requires_grad` flags are
        restored in both cases.

        Raises:
            AdaptError: The adapter is disabled or already removed, a layer was changed after it was adapted, or a large
                tensor other than the head was trained beside the factors.
        """
        with self._turns.changing("remove()"):
            self._require(changing=True)
            self._links.check_intact()
            if not (merged := self.merged):
                self._beside.require_kept()
            self._originals.values.clear()
            self._detach()
            if not merged:
                self._beside.restore()

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Context manager in which the model runs as the base model, with its own head, even if merged.

        A merged adapter is merged again on exit, with its factors at that time. Meanwhile other threads wait.

        Raises:
            AdaptError: The adapter is removed, or a large tensor other than the head trains beside the factors.

        Examples:
            >>> import torch
            >>> from tensorfact import TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model, x = nano(), torch.zeros(1, 1, 28, 28)
            >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
            >>> with adapter.disabled():
            ...     base = model(x)
            >>> torch.equal(model(x), base)
            True
        """
        with self._turns.changing("disabled()"):
            self._require()
            with self._disabling.opened(self):
                yield

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Context manager that removes it from the model, and on an error attaches it again; used by `load_adapter`."""
        self._require(merged=False, changing=True)
        beside = {name: tensor.detach().clone() for name, tensor in self._beside.stored().items()}
        trained = {name: p.requires_grad for name, p in self.named_parameters()}
        self.remove()
        try:
            yield
        except BaseException:
            self.attach()
            tensors = base_tensors(self.model)
            with torch.no_grad():
                for name, value in beside.items():
                    tensors[name].copy_(value)
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(trained[name])
            raise

    def forward(self, input: object) -> object:
        """Return the input unchanged; the increments are added in the adapted layers."""
        return input

    def attach(self) -> None:
        """Attach the adapter to its model; used by `adapt`. On an error the model is left unchanged."""
        try:
            self._attached = True
            if self._trains:
                self._beside.start(self._slots)
            self._place.take(self, self.head, self._links.passes, self._turns)
            self._links.attach()
            self.train(self.model.training)
        except BaseException:
            self._detach()
            raise

    def _detach(self) -> None:
        self._links.detach()
        self.watch.stop()
        self._place.leave()
        self._beside.stop()
        self._attached = False

    def _require(self, merged: bool | None = None, *, changing: bool = False) -> None:
        require_attached(self._attached, disabled=changing and self._switch.disabled > 0)
        if merged is not None:
            self._originals.require(merged)

    def explain(self, tokens: int = NOMINAL_TOKENS, *, measure: bool = False) -> Explanation:
        """Show the route, contraction order, cost and time of each kind of adapted parameter.

        Args:
            tokens: Tokens in one forward pass (batch times positions); rounded up to a power of two, as in training.
            measure: Also measure the time that a training step takes longer than with the base layers.

        Returns:
            For each kind: route, order, FLOPs, and the cost and predicted time of a training step.

        Raises:
            AdaptError: `tokens` is not a positive int, or too large; `measure=True` on the meta device.

        Examples:
            >>> from tensorfact import TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
            >>> adapter.explain(tokens=100).choices[0].route
            'activation'
        """
        return explain(self._links.planned(), tokens, measure=measure)

    def extra_repr(self) -> str:
        """Return the formats, for `print(model)`."""
        formats = ", ".join(dict.fromkeys(map(str, self.formats.values())))
        return f"{formats}, {self.num_parameters:,} parameters on {len(self._slots)} weights"

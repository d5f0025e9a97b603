"""Factors on a model: put there, merged, disabled, removed. What is asked of them is the adapter's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import AdaptError
from ..formats import Format
from ..model.parameters import ATTRIBUTE, base_parameters
from ..network import Dropout
from ..plan import ResolvedPlan, TensorizationPlan
from .increments import note_sources
from .layers import Slot, Switch
from .links import Links, Route
from .liveness import Watch


class Attached(nn.Module):
    """Factors that are linked to one model, as a module on its root, where `.to()`, `deepcopy` and the like find them.

    Args:
        model: The model.
        plan: The plan.
        resolved: The plan, resolved on the model.
        formats: Formats by tensor name.
        scales: Scales by tensor name.
        dropout: As in `adapt`.
        route: As in `adapt`.
        head: The names of the head's parameters.
        generator: What draws the random cores.
        optimize: As in `adapt`.
        recompute: As in `adapt`.
        seed: The generator's seed; None where the random cores are overwritten.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: TensorizationPlan,
        resolved: ResolvedPlan,
        formats: Mapping[str, Format],
        scales: Mapping[str, float],
        *,
        dropout: Dropout,
        route: Route,
        head: tuple[str, ...],
        generator: torch.Generator | None,
        optimize: Any,
        recompute: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # not as a child: the model holds the adapter
        self.plan, self.resolved, self.head = plan, resolved, head
        self.formats, self.scales, self.dropout, self.seed = dict(formats), dict(scales), dropout.plain, seed
        self._switch, self._attached, self._disabled = Switch(), False, False
        self._originals: dict[str, Tensor] = {}
        self._flags: dict[str, bool] = {}
        self._building = {"dropout": dropout, "route": route, "optimize": optimize}
        self._link(self._links_of(self.formats, generator))
        self.watch = Watch(model, self._slots, resolved)
        self._recompute = recompute
        self._hooks: list[RemovableHandle] = []

    def _links_of(self, formats: Mapping[str, Format], generator: torch.Generator | None) -> Links:
        return Links(
            self.model, self.resolved, formats, self.scales, self._switch, generator=generator, **self._building
        )

    def _link(self, links: Links) -> None:
        self._links, self.factors, self.starts = links, nn.ModuleDict(links.factors), nn.ModuleDict(links.starts)

    def subtract_start(self) -> None:
        """Subtract from the increments what they are now, before it is attached; `adapt` does."""
        self._links.subtract_start(self.resolved)
        self._link(self._links)

    @property
    def _slots(self) -> dict[str, Slot]:
        return self._links.slots

    @property
    def model(self) -> nn.Module:
        """The model that the adapter is linked to."""
        model: nn.Module = self.__dict__["_model"]
        return model

    @property
    def merged(self) -> bool:
        """Whether the base weights hold the increments."""
        return bool(self._originals)

    def merge(self) -> None:
        """Write the effective weights into the base parameters; the originals are kept for `unmerge`.

        Raises:
            AdaptError: It is merged already, or removed.
        """
        self._require(merged=False, changing=True)
        parameters = base_parameters(self.model)
        try:
            with torch.no_grad():
                for name, slot in self._slots.items():
                    parameter = parameters[name]
                    self._originals[name] = parameter.detach().clone()
                    slot.increment.add_into(parameter, slot.scale)
        except BaseException:
            self._restore()
            raise
        self._switch.on = False

    def unmerge(self) -> None:
        """Write the original base parameters back, bit for bit.

        Raises:
            AdaptError: It is not merged, or removed.
        """
        self._require(merged=True, changing=True)
        self._restore()
        self._switch.on = True

    def remove(self) -> None:
        """Take the adapter off the model. Merged weights stay merged; else the model is the base model again.

        The head keeps its trained values, and every parameter requires gradients as it did before.

        Raises:
            AdaptError: It is removed already.
        """
        self._require(changing=True)
        self._links.check_intact()
        self._originals.clear()
        self._detach()

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the base model while the context lasts, also if merged. The head stays as trained.

        A merged adapter is merged anew at the end, with its factors as they are then.

        Raises:
            AdaptError: It is removed.

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
        self._require()
        if self._disabled:  # within another disabled() of the same adapter
            yield
            return
        merged = self.merged
        if merged:
            self.unmerge()
        self._switch.on, self._disabled = False, True
        try:
            yield
        finally:
            self._switch.on, self._disabled = True, False
            if merged:
                self.merge()

    def forward(self, input: Any) -> Any:
        """Return the input: what the adapter adds, the adapted layers add."""
        return input

    def train(self, mode: bool = True) -> Self:
        """Set the mode, and form anew what is formed of the factors: they may have changed uncounted, by `.data`."""
        self._links.forget()
        return super().train(mode)

    def attach(self) -> None:
        """Put the adapter on its model; `adapt` does. An error leaves the model as it was."""
        model = self.model
        self._flags = {name: p.requires_grad for name, p in base_parameters(model).items()}
        self._attached = True
        try:
            head = {id(parameter) for name, parameter in base_parameters(model).items() if name in self.head}
            for parameter in base_parameters(model).values():
                parameter.requires_grad_(id(parameter) in head)
            self._links.attach()
            if self._recompute:
                self._hooks = note_sources(model)
            model.add_module(ATTRIBUTE, self)
            self.train(model.training)
        except BaseException:
            self._detach()
            raise

    def _detach(self) -> None:
        self._links.detach()
        for hook in self._hooks:
            hook.remove()
        self.watch.stop()
        self.model._modules.pop(ATTRIBUTE, None)
        for name, parameter in base_parameters(self.model).items():
            parameter.requires_grad_(self._flags.get(name, parameter.requires_grad))
        self._attached = False

    def _restore(self) -> None:
        parameters = base_parameters(self.model)
        with torch.no_grad():
            for name, original in self._originals.items():
                parameters[name].copy_(original)
        self._originals.clear()

    def _require(self, merged: bool | None = None, *, changing: bool = False) -> None:
        if not self._attached:
            raise AdaptError(
                "the adapter was removed from its model", fix="adapt the model again, or load a saved file"
            )
        if changing and self._disabled:
            raise AdaptError("the adapter is disabled", fix="leave `with adapter.disabled()` first")
        if merged is not None and merged != self.merged:
            state = "merged already" if self.merged else "not merged"
            raise AdaptError(f"the adapter is {state}", fix=f"call {'' if merged else 'un'}merge() first")

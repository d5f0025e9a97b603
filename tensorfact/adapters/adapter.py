"""The adapter: the factors of all tensors, attached to one model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from torch import Tensor, nn

from ..algebra import Recompression, convert, resize_ranks, round_ranks
from ..algebra.allocation import Spread
from ..common.progress import Progress, silent
from ..formats import Format, FormatLike
from ..formats.rank import Rank
from ..model.example import required_example
from ..plan import ResolvedPlan, TensorizationPlan
from .beside import Beside
from .disabling import Disabling
from .explain import Explanation, explain
from .increments import NOMINAL_TOKENS
from .links import Links
from .liveness import Liveness, Watch, measure
from .options import AdaptOptions
from .place import Originals, Place, require_attached, require_finite, slot_of
from .slots import Switch
from .trainable import ScaleState, Trainable
from .turns import Turns


class Adapter(Trainable):
    """The factors of all tensors, attached to one model. Created by `adapt` and `load_adapter`.

    It is registered on the model's root as `model.tensorfact`, so the factors follow `.to()`, `deepcopy` and
    `state_dict`, each once. Called as a module it returns its input, so that a `Sequential` root still works.

    Args:
        model: The base model.
        plan: The weights to adapt, and how they fold into tensors.
        resolved: The plan, resolved on the model.
        formats: Formats by tensor name.
        scales: Scales by tensor name.
        head: Names of the trained head's parameters.
        options: The other options of `adapt`.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: TensorizationPlan,
        resolved: ResolvedPlan,
        formats: Mapping[str, Format],
        scales: Mapping[str, float],
        head: tuple[str, ...],
        options: AdaptOptions,
    ) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # not as a submodule: the adapter is a submodule of the model
        self.plan, self.resolved, self.head = plan, resolved, head
        self._switch, self._attached = Switch(), False
        self._originals, self._place = Originals(model), Place(model, recompute=options.recompute)
        self._beside, self._turns = Beside(model, head, self._originals), Turns(model)
        self._disabling = Disabling(self._switch, self._beside)
        self.register_state_dict_pre_hook(self._switch.refuse_copying)  # type: ignore[no-untyped-call]  # torch's
        self._link(Links(model, resolved, formats, scales, self._switch, options))
        self.scale_state = ScaleState(self)

    def _link(self, links: Links) -> None:
        self._links, self._slots = links, links.slots
        self.factors, self.starts = nn.ModuleDict(links.factors), nn.ModuleDict(links.starts)
        self.watch = Watch(self.model, self._slots, self.resolved)

    def subtract_start(self) -> None:
        """Subtract the increments' present values, so that training starts from the base model; used by `adapt`."""
        self._links.subtract_start()
        self._link(self._links)

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

    def merge(self) -> None:
        """Write the effective weights into the base parameters; the originals are kept for `unmerge`.

        Raises:
            AdaptError: It is merged, disabled or removed, a layer or base weight was exchanged, or a core is NaN.
        """
        with self._turns.changing("merge()"):
            self._require(merged=False, changing=True)
            self._links.check_base()
            require_finite(self.named_cores())
            self._originals.replace(self._slots)
            self._switch.on = False

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

    def forward(self, input: object) -> object:
        """Return the input unchanged; the increments are added in the adapted layers."""
        return input

    def attach(self) -> None:
        """Attach the adapter to its model; used by `adapt`. On an error the model is left unchanged."""
        try:
            self._attached = True
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

    def delta(self, parameter_name: str) -> Tensor:
        """Return the dense increment of one parameter, scale included, in its shape and in at least fp32.

        Args:
            parameter_name: The parameter's name in the model.

        Raises:
            AdaptError: The parameter is not adapted.

        Examples:
            >>> from tensorfact import TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
            >>> adapter.delta("blocks.0.attn.qkv.weight").shape
            torch.Size([288, 96])
        """
        with self._turns.reading():
            return (slot := slot_of(parameter_name, self._slots)).increment.dense() * slot.scale

    def check(self, example_input: object = None) -> Liveness:
        """Check that each adapted parameter affects the output, and that adapted and merged model agree.

        Runs the model at least twice per parameter, in evaluation mode. The model is restored bit for bit.

        Args:
            example_input: A tensor, a tuple of arguments, or a mapping of keyword arguments; default: an input derived
                from timm's `pretrained_cfg`, or transformers' `config` or `dummy_inputs`.

        Returns:
            For each parameter, the change of the output and the difference between adapted and merged model.

        Raises:
            AdaptError: A parameter has no effect, adapted and merged model differ, or an example input is needed.

        Examples:
            >>> from tensorfact import TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model, blocks="attention"), TensorTrain(rank=4))
            >>> len(adapter.check().effects)
            12
        """
        with self._turns.changing("check()"):
            self._require(merged=False, changing=True)
            return measure(self.model, self._slots, required_example(self.model, example_input)).verified()

    def explain(self, tokens: int = NOMINAL_TOKENS, *, measure: bool = False) -> Explanation:
        """Show the route, contraction order, cost and time of each kind of adapted parameter.

        Args:
            tokens: Tokens in one forward pass (batch times positions); rounded up to a power of two, as in training.
            measure: Also measure the time that a training step takes longer than with the base layers.

        Returns:
            For each kind: route, order, FLOPs, and the cost and predicted time of a training step.

        Raises:
            AdaptError: `tokens` is not a positive int, or `measure=True` on the meta device.

        Examples:
            >>> from tensorfact import TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
            >>> adapter.explain(tokens=100).choices[0].route
            'activation'
        """
        return explain(self._links.planned(), tokens, measure=measure)

    def convert(
        self,
        format: FormatLike | Mapping[str, FormatLike],
        *,
        tolerance: float | None = None,
        progress: Progress = silent,
    ) -> Recompression:
        """Convert the factors to another format in place; arguments and result are those of `tensorfact.convert`.

        The factors become new parameters: create a new optimizer.

        Raises:
            AdaptError: The adapter is merged, disabled or removed.

        Examples:
            >>> from tensorfact import MatrixBatch, TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
            >>> print(adapter.convert(MatrixBatch(rank=4)).changes[0].format, adapter.num_parameters)
            MatrixBatch(rank=4) 55296
        """
        self._require(merged=False, changing=True)
        return self._take(convert(self, format, tolerance=tolerance, progress=progress))

    def round(
        self,
        *,
        rank: Rank | None = None,
        tolerance: float | None = None,
        budget: int | None = None,
        spread: Spread = "even",
        progress: Progress = silent,
    ) -> Recompression:
        """Lower the ranks in place; arguments and result are those of `tensorfact.round_ranks`, errors of `convert`.

        The factors become new parameters: create a new optimizer.
        """
        self._require(merged=False, changing=True)
        found = round_ranks(self, rank=rank, tolerance=tolerance, budget=budget, spread=spread, progress=progress)
        return self._take(found)

    def resize(self, formats: FormatLike | Mapping[str, FormatLike], *, seed: int = 0) -> Recompression:
        """Give the tensors other ranks in place; arguments, result and errors are those of `algebra.resize_ranks`.

        The factors become new parameters: create a new optimizer.

        Raises:
            AdaptError: The adapter is merged, disabled or removed.

        Examples:
            >>> from tensorfact import TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
            >>> print(adapter.resize(TensorTrain(rank=6)).changes[0].format, adapter.num_parameters)
            TensorTrain(rank=6) 3744
        """
        self._require(merged=False, changing=True)
        return self._take(resize_ranks(self, formats, seed=seed))

    def _take(self, found: Recompression) -> Recompression:
        """Replace the factors by those of a conversion; on an error the model is left unchanged."""
        with self._turns.changing("convert()"):
            self._links.check_intact()
            links = self._links.with_cores(found.state)
            self._links.detach()
            self.watch.stop()
            self._link(links)
            links.attach()
            self.train(self.training)
            return found

    def extra_repr(self) -> str:
        """Return the formats, for `print(model)`."""
        formats = ", ".join(dict.fromkeys(map(str, self.formats.values())))
        return f"{formats}, {self.num_parameters:,} parameters on {len(self._slots)} weights"

"""The adapter: factors of all tensors, attached to one model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

from ..algebra import Recompression, convert, round_ranks
from ..common.checks import AnyPath
from ..common.progress import Progress, silent
from ..errors import AdaptError, nearest
from ..formats import Format
from ..formats.rank import Rank
from ..lora import LoraFolder, to_lora
from ..model.example import required_example
from ..model.parameters import base_parameters
from ..plan import ResolvedPlan, TensorizationPlan
from ..storage import AdapterState
from ..storage.description import FACTORS, HEAD, START, AdapterDescription, fingerprint
from .explain import Explanation, explain
from .factors import Factors, named
from .groups import parameter_groups
from .increments import NOMINAL_TOKENS
from .links import Links
from .liveness import Liveness, Watch, measure
from .options import AdaptOptions
from .place import Originals, Place, head_state, require_attached
from .slots import Switch
from .stored import refuse_merged


class Adapter(nn.Module):
    """The factors of all tensors, attached to one model. Made by `adapt` and `load_adapter`.

    It is registered on the model's root as `model.tensorfact`, so the factors follow `.to()`, `deepcopy` and
    `state_dict`, each once. Called as a module it returns its input, so that a `Sequential` root goes on working.

    Args:
        model: The model.
        plan: The plan.
        resolved: The plan, resolved on the model.
        formats: Formats by tensor name.
        scales: Scales by tensor name.
        head: The names of the head's parameters.
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
        self.__dict__["_model"] = model  # not as a child: the model holds the adapter
        self.plan, self.resolved, self.head = plan, resolved, head
        self.formats, self.scales = dict(formats), dict(scales)
        self.dropout, self.seed, self._options = options.dropout.plain, options.seed, options
        self._switch, self._attached, self._disabled = Switch(), False, False
        self._originals, self._place = Originals(model), Place(model, recompute=options.recompute)
        self._link(Links(model, resolved, self.formats, self.scales, self._switch, options))

    def _link(self, links: Links) -> None:
        self._links, self._slots = links, links.slots
        self.factors, self.starts = nn.ModuleDict(links.factors), nn.ModuleDict(links.starts)
        self.watch = Watch(self.model, self._slots, self.resolved)

    def subtract_start(self) -> None:
        """Subtract from the increments what they are now, before it is attached; `adapt` does."""
        self._links.subtract_start()
        self._link(self._links)

    @property
    def model(self) -> nn.Module:
        """The model that the adapter is linked to."""
        return cast("nn.Module", self.__dict__["_model"])

    @property
    def merged(self) -> bool:
        """Whether the base weights hold the increments."""
        return bool(self._originals.values)

    def merge(self) -> None:
        """Write the effective weights into the base parameters; the originals are kept for `unmerge`.

        Raises:
            AdaptError: It is merged already, or removed.
        """
        self._require(merged=False, changing=True)
        self._links.check_base()
        self._originals.replace(self._slots)
        self._switch.on = False

    def unmerge(self) -> None:
        """Write the original base parameters back, bit for bit.

        Raises:
            AdaptError: It is not merged, or removed.
        """
        self._require(merged=True, changing=True)
        self._originals.restore()
        self._switch.on = True

    def remove(self) -> None:
        """Take the adapter off the model. Merged weights stay merged; else the model is the base model again.

        The head keeps its trained values, and every parameter requires gradients as it did before.

        Raises:
            AdaptError: It is removed already.
        """
        self._require(changing=True)
        self._links.check_intact()
        self._originals.values.clear()
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
        if merged := self.merged:
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

    def attach(self) -> None:
        """Put the adapter on its model; `adapt` does. An error leaves the model as it was."""
        try:
            self._attached = True
            self._place.take(self, self.head, self._links.passes, self._before_loading)
            self._links.attach()
            self.train(self.model.training)
        except BaseException:
            self._detach()
            raise

    def _detach(self) -> None:
        self._links.detach()
        self.watch.stop()
        self._place.leave()
        self._attached = False

    def _before_loading(self, model: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
        if not self.merged:
            refuse_merged(self._slots, self.factors, state, prefix)

    def _require(self, merged: bool | None = None, *, changing: bool = False) -> None:
        require_attached(self._attached, disabled=changing and self._disabled)
        if merged is not None:
            self._originals.require(merged)

    @property
    def num_parameters(self) -> int:
        """How many numbers the trained factors hold, the head apart."""
        return sum(cast("Factors", factors).num_parameters for factors in self.factors.values())

    def parameter_groups(self, lr: float, factors: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
        """Return what trains in groups of one learning rate, for a torch optimizer.

        Args:
            lr: The learning rate.
            factors: Multiples of it: by a core's name (`V`), by tensor and core (`encoder.V`), or for the `head`.

        Returns:
            One group for each multiple, with `params` and `lr`.

        Raises:
            AdaptError: A name is none of these, or a multiple no positive number.

        Source: LoRA+: S. Hayou et al., ICML 2024, trains B faster than A.

        Examples:
            >>> from tensorfact import MatrixBatch, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), MatrixBatch(rank=4))
            >>> [group["lr"] for group in adapter.parameter_groups(1e-3, {"B": 16})]
            [0.001, 0.016]
        """
        return parameter_groups(self.model, self.named_cores(), self.head, lr, factors)

    def delta(self, parameter_name: str) -> Tensor:
        """Return the dense increment of one parameter, scale included, in its shape and in at least fp32.

        Args:
            parameter_name: The parameter's name in the model.

        Raises:
            AdaptError: The adapter does not change this parameter.

        Examples:
            >>> from tensorfact import TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
            >>> adapter.delta("blocks.0.attn.qkv.weight").shape
            torch.Size([288, 96])
        """
        if parameter_name not in self._slots:
            raise AdaptError(
                f"the adapter does not change {parameter_name!r}",
                expected=f"one of {len(self._slots)} parameters",
                got=f"{parameter_name!r}{nearest(parameter_name, self._slots)}",
                fix="see adapter.resolved.parameters",
            )
        slot = self._slots[parameter_name]
        return slot.increment.dense() * slot.scale

    def check(self, example_input: object = None) -> Liveness:
        """Perturb every adapted parameter by itself: does the output move, and is adapted the same as merged?

        Runs the model twice for each parameter, in evaluation mode. The model is left as it was, bit for bit.

        Args:
            example_input: A tensor, a tuple of arguments, or a mapping of keywords; by default, an input that timm's
                `pretrained_cfg`, transformers' `config` or its `dummy_inputs` describes.

        Returns:
            How far every parameter moves the output, and the difference between adapted and merged model.

        Raises:
            AdaptError: A parameter is dead, adapted differs from merged, or there is no example input.

        Examples:
            >>> from tensorfact import TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model, blocks="attention"), TensorTrain(rank=4))
            >>> len(adapter.check().effects)
            12
        """
        self._require(merged=False, changing=True)
        return measure(self.model, self._slots, required_example(self.model, example_input)).verified()

    def explain(self, tokens: int = NOMINAL_TOKENS, *, measure: bool = False) -> Explanation:
        """Say what the contraction planner chose, what that costs, and on request how long it takes.

        Args:
            tokens: Tokens of one forward pass (batch times positions); rounded up to a power of two, as in use.
            measure: Time a training step of one layer of each kind, beside the base layer's.

        Returns:
            For every kind of parameter its route, order, FLOPs, and the cost and predicted time of a training step.

        Raises:
            AdaptError: `tokens` is no positive int.

        Examples:
            >>> from tensorfact import TensorTrain, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
            >>> adapter.explain(tokens=100).choices[0].route
            'activation'
        """
        return explain(self._links.planned(), tokens, measure=measure)

    def save(self, path: AnyPath) -> None:
        """Write the factors and the trained head to one safetensors file, atomically.

        Args:
            path: The file; its folder must exist.

        Raises:
            AdaptError: The adapter, or the head it trained, is no longer on the model.
            CheckpointError: It cannot be written; a file that was there is unchanged.
            FormatError: A format has no registered name.
        """
        self.state.save(path)

    @property
    def state(self) -> AdapterState:
        """The adapter without its model, as it is now: what `save` writes.

        Raises:
            AdaptError: The adapter, or the head it trained, is no longer on the model.
        """
        self._require()
        self._links.check_base()
        head = head_state(self.model, self.head)
        description = AdapterDescription(
            self.plan,
            self.formats,
            self.scales,
            self.dropout,
            self.fingerprint,
            {tensor.name: tensor.modes for tensor in self.resolved.tensors},
            {name: tuple(tensor.shape) for name, tensor in head.items()},
            extents={tensor.name: tensor.extents for tensor in self.resolved.tensors},
            seed=self.seed,
            subtracts_start=bool(self.starts),
        )
        parts = {FACTORS: named(self.factors), START: named(self.starts), HEAD: head}
        tensors = {f"{prefix}{name}": t.detach().clone() for prefix, each in parts.items() for name, t in each.items()}
        return AdapterState(description, tensors)

    def convert(
        self, format: Format | Mapping[str, Format], *, tolerance: float | None = None, progress: Progress = silent
    ) -> Recompression:
        """Convert the factors to another format, in place, with the arguments and the result of `tensorfact.convert`.

        The factors are new parameters: create the optimizer again.

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
        progress: Progress = silent,
    ) -> Recompression:
        """Lower the ranks, in place, with the arguments and the result of `tensorfact.round_ranks`.

        The factors are new parameters: create the optimizer again.

        Raises:
            AdaptError: The adapter is merged, disabled or removed.
        """
        self._require(merged=False, changing=True)
        return self._take(round_ranks(self, rank=rank, tolerance=tolerance, budget=budget, progress=progress))

    def to_lora(
        self, folder: AnyPath, *, rank: int | None = None, head: bool = True, example_input: object = None
    ) -> LoraFolder:
        """Write the adapter as a LoRA folder that peft loads, with the arguments of `tensorfact.to_lora`."""
        return to_lora(self, self.model, folder, rank=rank, head=head, example_input=example_input)

    def _take(self, found: Recompression) -> Recompression:
        """Put other factors in the place of these; an error leaves the model as it was."""
        self._links.check_intact()
        links = self._links.with_cores(found.state)
        self._links.detach()
        self.watch.stop()
        self._link(links)
        links.attach()
        self.formats, self.seed = dict(found.state.description.formats), None
        self.train(self.training)
        return found

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the base weights that the adapter belongs to."""
        return fingerprint({**base_parameters(self.model), **self._originals.values}, tuple(self._slots))

    def extra_repr(self) -> str:
        """Return the formats, for `print(model)`."""
        formats = ", ".join(dict.fromkeys(map(str, self.formats.values())))
        return f"{formats}, {self.num_parameters:,} parameters on {len(self._slots)} weights"

    def named_cores(self) -> dict[str, Tensor]:
        """Return every core, named `TENSOR.CORE`."""
        return named(self.factors)

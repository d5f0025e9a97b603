"""The adapter: the factors of all groups, linked to one model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..algebra import Recompression, convert, round_ranks
from ..common.checks import finite_number
from ..common.progress import Progress, silent
from ..errors import AdaptError, nearest
from ..formats import Format
from ..formats.rank import Rank
from ..lora import LoraFolder, to_lora
from ..model.example import required_example
from ..model.head import head_buffers
from ..model.parameters import base_parameters
from ..storage import AdapterState
from ..storage.description import FACTORS, HEAD, START, AdapterDescription, fingerprint
from .attached import Attached
from .explain import Explanation, Planned, explain
from .factors import Factors
from .increments import NOMINAL_TOKENS
from .liveness import Liveness, Watch, measure


class Adapter(Attached):
    """The factors of all groups, linked to one model. Made by `adapt` and `load_adapter`.

    It is registered on the model's root as `model.tensorfact`, so the factors follow `.to()`, `deepcopy` and
    `state_dict`, each once. Called as a module it returns its input, so that a `Sequential` root goes on working.
    """

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
            >>> import torch
            >>> from tensorfact import MatrixBatch, adapt, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> adapter = adapt(model, plan_for(model), MatrixBatch(rank=4))
            >>> optimizer = torch.optim.AdamW(adapter.parameter_groups(1e-3, {"B": 16}))
            >>> [group["lr"] for group in optimizer.param_groups]
            [0.001, 0.016]
        """
        factors = dict(factors or {})
        words = {id(core): [name.rpartition(".")[2], name] for name, core in self.named_cores().items()}
        parameters = base_parameters(self.model)
        words |= {id(parameters[name]): ["head"] for name in self.head if name in parameters}
        known = {word for each in words.values() for word in each}
        for name, factor in factors.items():
            if name not in known:
                raise AdaptError(
                    f"parameter_groups: {name!r}",
                    expected=f"one of {sorted(known)}",
                    got=f"{name!r}{nearest(name, known)}",
                )
            factors[name] = finite_number(
                factor,
                f"parameter_groups: factor of {name!r}",
                AdaptError,
                fits=lambda multiple: multiple > 0,
                expected="a multiple above 0",
            )
        groups: dict[float, list[Tensor]] = {}
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                found = [factors[word] for word in words.get(id(parameter), ()) if word in factors]
                groups.setdefault(float((found or [1.0])[-1]), []).append(parameter)
        return [{"params": params, "lr": lr * factor} for factor, params in groups.items()]

    def delta(self, parameter_name: str) -> Tensor:
        """Return the dense increment of one parameter: effective weight minus base weight, scale included.

        Args:
            parameter_name: The parameter's name in the model.

        Returns:
            A tensor of the parameter's shape, in at least fp32.

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
            example_input: A tensor, a tuple of arguments, or a mapping of keywords; by default, an image of the size
                that timm's `pretrained_cfg` or transformers' `config` names, or transformers' `dummy_inputs`.

        Returns:
            How far every parameter moves the output, and how far adapted and merged model lie apart; printed, a table.

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
            For every kind of parameter its route, its order, FLOPs against the better naive order, and the cost and
            predicted time of a training step; printed, a table.

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
        parameters = base_parameters(self.model)
        if measure and any(parameters[name].is_meta for name in self._slots):
            raise AdaptError(
                "explain: measure=True on a model without numbers", fix="make it on another device than 'meta'"
            )
        planned = (
            Planned(slot.increment, name in self._links.activation, slot.scale, parameters[name])
            for name, slot in self._slots.items()
        )
        return explain(planned, tokens, measure=measure)

    def save(self, path: str | Path) -> None:
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
        tensors = {f"{FACTORS}{name}": core for name, core in named(self.factors).items()}
        tensors |= {f"{START}{name}": core for name, core in named(self.starts).items()}
        parameters = base_parameters(self.model)
        if missing := [name for name in self.head if name not in parameters]:
            raise AdaptError(
                f"the model's head has no {missing[0]!r} any more",
                cause="the head was replaced or taken off after adapt()",
                fix="put the head back, or adapt with train_head=False",
            )
        head = {**{name: parameters[name] for name in self.head}, **head_buffers(self.model, self.head)}
        tensors |= {f"{HEAD}{name}": tensor for name, tensor in head.items()}
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
        return AdapterState(description, {name: tensor.detach().clone() for name, tensor in tensors.items()})

    def convert(
        self, format: Format | Mapping[str, Format], *, tolerance: float | None = None, progress: Progress = silent
    ) -> Recompression:
        """Bring the factors into another format, in place; see `tensorfact.convert`.

        The factors are new parameters: an optimizer must be made anew.

        Args:
            format: One format, or one for each group's name.
            tolerance: The relative error allowed for each tensor.
            progress: Called after each tensor.

        Returns:
            What became of every tensor, and the true relative error.

        Raises:
            RankError: A rank that a tensor does not allow, or a tolerance that is not reached.
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
        """Lower the ranks, in place; see `tensorfact.round_ranks`.

        The factors are new parameters: an optimizer must be made anew.

        Args:
            rank: The new rank: one for all bonds, one each, or a fraction of the dense size.
            tolerance: The relative error allowed for each tensor.
            budget: How many numbers the factors may hold.
            progress: Called after each tensor.

        Returns:
            What became of every tensor, and the true relative error.

        Raises:
            RankError: Not exactly one argument was given, or it cannot be met.
            AdaptError: The adapter is merged, disabled or removed.
        """
        self._require(merged=False, changing=True)
        return self._take(round_ranks(self, rank=rank, tolerance=tolerance, budget=budget, progress=progress))

    def to_lora(
        self, folder: str | Path, *, rank: int | None = None, head: bool = True, example_input: object = None
    ) -> LoraFolder:
        """Write the adapter as a LoRA folder of peft's; see `tensorfact.to_lora`.

        Args:
            folder: Where to write; made if it does not exist.
            rank: The highest rank of a layer; by default every layer gets the lowest that is exact.
            head: Store the trained head too.
            example_input: What to run the model on to see which layers it calls.

        Returns:
            The layers' ranks and errors.

        Raises:
            AdaptError: A parameter is not the weight of a linear layer that the model calls.
            CheckpointError: The folder cannot be written.
        """
        return to_lora(self, self.model, folder, rank=rank, head=head, example_input=example_input)

    def _take(self, found: Recompression) -> Recompression:
        """Put other factors in the place of these; an error leaves the model as it was."""
        self._links.check_intact()
        links = self._links_of(found.state.description.formats, torch.Generator())
        for name, factors in links.factors.items():
            factors.assign(found.state.cores(name))
            before = cast("Factors", self.factors[name]).named_cores()
            everything = not any(core.requires_grad for core in before.values())
            for core, value in factors.named_cores().items():  # what the user froze stays frozen
                if everything or (core in before and not before[core].requires_grad):
                    value.requires_grad_(False)
        self._links.detach()
        self.watch.stop()
        self._link(links)
        links.attach()
        self.formats, self.seed = dict(found.state.description.formats), None
        self.watch = Watch(self.model, self._slots, self.resolved)
        self.train(self.training)
        return found

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the base weights that the adapter belongs to."""
        return fingerprint({**base_parameters(self.model), **self._originals}, tuple(self._slots))

    def extra_repr(self) -> str:
        """Return the formats, for `print(model)`."""
        shown = ", ".join(dict.fromkeys(map(str, self.formats.values())))
        return f"{shown}, {self.num_parameters:,} parameters on {len(self._slots)} weights"

    def named_cores(self) -> dict[str, Tensor]:
        """Return every core, named `TENSOR.CORE`."""
        return named(self.factors)


def named(factors: nn.ModuleDict) -> dict[str, Tensor]:
    """Return the cores of several tensors, named `TENSOR.CORE`.

    Args:
        factors: Factors by tensor name.
    """
    return {f"{t}.{c}": core for t, f in factors.items() for c, core in cast("Factors", f).named_cores().items()}

"""The adapter: the factors of all tensors, attached to one model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..algebra import Recompression, convert, resize_ranks, round_ranks
from ..algebra.allocation import Spread
from ..common.progress import Progress, silent
from ..formats import Format, FormatLike
from ..formats.rank import Rank
from ..model.example import required_example
from ..plan import ResolvedPlan, TensorizationPlan
from .exporting import Exportable
from .links import Links
from .liveness import Liveness, measure
from .options import AdaptOptions
from .place import require_finite, slot_of
from .trainable import ScaleState


class Adapter(Exportable):
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
        super().__init__(model, plan, resolved, head, recompute=options.recompute)
        self._link(Links(model, resolved, formats, scales, self._switch, options))
        self.scale_state = ScaleState(self)

    def subtract_start(self) -> None:
        """Subtract the increments' present values, so that training starts from the base model; used by `adapt`."""
        self._links.subtract_start()
        self._link(self._links)

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
        return self._take(convert(self, format, tolerance=tolerance, progress=progress), "convert()")

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
        return self._take(found, "round()")

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
        return self._take(resize_ranks(self, formats, seed=seed), "resize()")

    def _take(self, found: Recompression, task: str) -> Recompression:
        """Replace the factors by those of a conversion; on an error the model is left unchanged."""
        with self._turns.changing(task):
            self._links.check_intact()
            self._exchange(self._links.with_cores(found.state))
            return found

    def _exchange(self, links: Links) -> None:
        """Attach other links to the same model in the place of the present ones."""
        waits = self.watch.waits
        self._links.detach()
        self.watch.stop()
        self._link(links)
        links.attach()
        if waits:
            self.watch.wait()
        self.train(self.training)

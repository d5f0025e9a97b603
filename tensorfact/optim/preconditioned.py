"""AdamW whose steps on the cores of an adapter are measured in the weights that they change."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from ..adapters import Adapter
from ..adapters.rates import ENTRIES, first_change, inputs_of, weights_rms
from ..common.checks import quoted
from ..errors import AdaptError
from ..formats.common import zero_core
from ..network.starts import ZERO
from .preconditioner import (
    TrainedCore,
    checked_adapter,
    checked_damping,
    damped_inverse,
    inverse,
    rounding,
    trained_cores,
    wide,
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """A core and the length of its steps.

    Args:
        core: The core.
        tensor: The name of its tensor.
        length: The Frobenius norm of the change of the weights by a step of learning rate 1.
        bounded: Whether the change is also bounded by a multiple of the tensor's own norm.
    """

    core: TrainedCore
    tensor: str
    length: float
    bounded: bool


def _measured(adapter: Adapter) -> Iterator[_Measured]:
    lengths, names = {}, {}
    for tensor in adapter.resolved.tensors:
        network = tensor.network(adapter.formats[tensor.name])
        change = first_change(network, weights_rms(adapter.model, tensor), inputs_of(tensor))
        factors = id(adapter.factors[tensor.name])
        names[factors] = tensor.name
        lengths[factors] = change * math.sqrt(math.prod(network.shape(network.output)))
    for core in trained_cores(adapter):
        zero, factors = zero_core(core.factors.network), id(core.factors)
        bounded = core.name != zero.name or zero.start != ZERO
        yield _Measured(core, names[factors], lengths[factors], bounded)


class PreconditionedAdamW(torch.optim.AdamW):
    """AdamW that trains the cores of an adapter by steps that do not depend on how the increment is factored.

    A step on a core is its averaged gradient, multiplied by the inverse of the Gram matrix of the other cores, as in
    natural gradient descent. The second moment is kept for each open index of the core, such as an output, and measures
    the gradient in the same metric, so that a change of the basis of a bond changes nothing. A step of learning rate lr
    changes the weights by the same fraction as the first step of AdamW on an adapter of `scale="auto"`, at any scale,
    and those of a core other than the one that starts at zero by at most lr / 0.04 of the increment. All other
    parameters are trained by AdamW.

    It suits networks whose cores are joined by bonds. The factors of an elementwise product, as in `Hadamard`, can also
    be exchanged elementwise, which no Gram matrix at a bond sees: train them with `torch.optim.AdamW`.

    Args:
        adapter: The adapter, attached to its model and not merged. Make a new optimizer when its factors change, as by
            `adapter.round` or `adapter.convert`.
        params: Parameters or groups to train, as for any torch optimizer; default: all parameters of the model that
            require gradients.
        lr: The learning rate; schedulers may change it.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the root of the second moment of parameters other than cores.
        weight_decay: Weight decay, relative to the learning rate.
        damping: What is added to the squared singular values of the increment at each bond, as a multiple of their
            mean, before they are inverted. The core that starts at zero, where there are none, gets a tenth of it as a
            multiple of the mean eigenvalue of its Gram matrix, which is not quite independent of the basis.

    Raises:
        AdaptError: `adapter` is neither an adapter nor an adapted model, is merged or removed, or a number is not one.

    Source: for pairs of matrices, F. Zhang & M. Pilanci, Riemannian Preconditioned LoRA, ICML 2024; for second
        moments that are invariant, J.-N. Yen et al., LoRA Done RITE, ICLR 2025.

    Examples:
        >>> import torch
        >>> from tensorfact import adapt
        >>> from tensorfact.lab import nano
        >>> from tensorfact.optim import PreconditionedAdamW
        >>> model = nano()
        >>> optimizer = PreconditionedAdamW(adapt(model), lr=3e-3)
        >>> model(torch.zeros(1, 1, 28, 28)).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        adapter: Adapter,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | None = None,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        damping: float = 0.1,
    ) -> None:
        owner = checked_adapter(adapter, "PreconditionedAdamW")
        owner._require(merged=False)
        self._damping = checked_damping(damping, "PreconditionedAdamW")
        if params is None:
            params = [parameter for parameter in owner.model.parameters() if parameter.requires_grad]
        if not isinstance(params, Iterable):
            raise AdaptError(
                "PreconditionedAdamW: params",
                expected="parameters, or groups of them",
                got=quoted(params),
                fix="PreconditionedAdamW(adapter, lr=1e-3)",
            )
        super().__init__(cast("Any", params), lr, betas, eps, weight_decay)
        self._adapter, self._cores = owner, list(_measured(owner))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Perform one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = {id(parameter): group for group in self.param_groups for parameter in group["params"]}
        given = [each for each in self._cores if each.core.parameter.grad is not None]
        ours = [each for each in given if id(each.core.parameter) in groups]
        gradients = [cast("Tensor", each.core.parameter.grad) for each in ours]
        for each in ours:
            each.core.parameter.grad = None  # so that AdamW leaves the cores to us
        _adamw(self)
        for each, gradient in zip(ours, gradients, strict=True):
            each.core.parameter.grad = gradient
        norms: dict[str, Tensor] = {}
        steps = [self._direction(each, groups[id(each.core.parameter)], norms) for each in ours]
        for each, change in zip(ours, steps, strict=True):
            parameter, group = each.core.parameter, groups[id(each.core.parameter)]
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change.to(parameter.dtype), alpha=-group["lr"])
        return loss

    def _direction(self, each: _Measured, group: dict[str, Any], norms: dict[str, Tensor]) -> Tensor:
        """Update the averages of a core, and return its step of learning rate 1.

        The norm of a tensor is computed from the first of its cores, and kept in `norms` for the others.
        """
        core, parameter = each.core, each.core.parameter
        gradient, (fade, fade_square) = wide(cast("Tensor", parameter.grad)), group["betas"]
        grams = core.grams()
        inverses = self._inverses(each, grams)
        bonds = [core.environment.core.legs.index(leg) for branch in core.environment.branches for leg in branch.bonds]
        square = gradient * core.multiply(inverses, gradient)
        square = (square.mean(bonds, keepdim=True) if bonds else square).clamp_min(0)
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(square)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - fade)
        state["exp_avg_sq"].lerp_(square, 1 - fade_square)
        count = float(state["step"])
        root = (state["exp_avg_sq"] / (1 - fade_square**count)).sqrt()
        mean = core.multiply(inverses, state["exp_avg"] / (1 - fade**count))
        step = torch.where(root == 0, 0.0, mean / root) / math.sqrt(parameter.numel())
        scale = abs(self._adapter.scales[each.tensor])
        length = each.length / scale if scale else 0.0
        if not each.bounded:
            return step * length
        if each.tensor not in norms:
            norms[each.tensor] = (parameter * core.multiply(grams, parameter)).sum().clamp_min(0).sqrt()
        return step * (norms[each.tensor] / ENTRIES).clamp_max(length)

    def _inverses(self, each: _Measured, grams: list[Tensor]) -> list[Tensor]:
        if not each.bounded:
            return [inverse(gram, self._damping / 10 + rounding(gram.dtype), relative=True) for gram in grams]
        owns = each.core.own_grams(grams)
        return [damped_inverse(gram, own, self._damping) for gram, own in zip(grams, owns, strict=True)]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; the averages of cores stay in fp32, also for cores of a narrower dtype.

        Args:
            state_dict: What `state_dict` returned.
        """
        super().load_state_dict(state_dict)
        own = {id(each.core.parameter) for each in self._cores}
        stored = [key for group in state_dict["param_groups"] for key in group["params"]]
        present = [parameter for group in self.param_groups for parameter in group["params"]]
        for key, parameter in zip(stored, present, strict=True):
            if id(parameter) in own and parameter in self.state:  # torch has cast them to the parameter's dtype
                for name, value in state_dict["state"][key].items():
                    self.state[parameter][name] = value.to(self.state[parameter][name].device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: vars(self)[name] for name in ("_adapter", "_cores", "_damping")}}


def _adamw(optimizer: torch.optim.AdamW) -> None:
    """Perform a step of AdamW without the hooks of the optimizer, which run around its own step."""
    inspect.unwrap(torch.optim.AdamW.step)(optimizer)

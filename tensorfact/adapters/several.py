"""Several adapters of one model by name: those in use add their increments, the others keep their factors.

An `Adapter` is the only one of its model. Here the factors belong to a module of the caller's, who also stores and
freezes them: `integrations.peft` puts them where peft expects them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from ..errors import AdaptError, naming
from ..formats import FormatLike
from ..model.parameters import refuse_adapted
from ..plan import TensorizationPlan
from .build import fitted
from .factors import Factors, named
from .increments import Passes
from .links import Links, attach_together
from .options import AdaptOptions
from .place import Originals, Place, require_finite
from .scale import Scale
from .slots import Switch
from .turns import Turns


class Several:
    """Adapters by name on one model.

    Merged increments are in the base weights, and no increment is added until `unmerge`.

    Args:
        model: The base model. Its parameters are frozen.
        holder: The module that holds the factors; it is registered on the model as `model.tensorfact`.

    Raises:
        AdaptError: The model is adapted already.
    """

    def __init__(self, model: nn.Module, holder: nn.Module) -> None:
        refuse_adapted(model)
        self.model = model
        self._passes, self._turns = Passes(), Turns(model)
        self._place = Place(model, recompute=False)
        self._links: dict[str, Links] = {}
        self._merged: dict[str, Originals] = {}
        self._attached: tuple[str, ...] = ()
        self._place.take(holder, (), self._passes, self._turns)

    def add(
        self,
        name: str,
        plan: TensorizationPlan,
        format: FormatLike | Mapping[str, FormatLike],
        scale: Scale,
        options: AdaptOptions,
    ) -> dict[str, Factors]:
        """Create an adapter that is not in use yet.

        Args:
            name: The adapter's name.
            plan: As in `adapt`.
            format: As in `adapt`.
            scale: As in `adapt`.
            options: The other options of `adapt`.

        Returns:
            Its factors by tensor name, for the module that holds them.

        Raises:
            TensorfactError: As `adapt`. The model and the other adapters are left unchanged.
        """
        resolved, formats, scales = fitted(self.model, plan, format, scale)
        self._links[name] = Links(self.model, resolved, formats, scales, Switch(), options, self._passes)
        return self._links[name].factors

    def discard(self, name: str) -> None:
        """Forget an adapter, which must not be merged; the caller deletes its factors."""
        self.use([other for other in self._attached if other != name])
        del self._links[name]

    def parameters(self, name: str) -> tuple[str, ...]:
        """Return the names of the base parameters that an adapter changes."""
        return self._links[name].resolved.parameters

    @property
    def merged(self) -> tuple[str, ...]:
        """Names of the merged adapters, in the order in which they were merged."""
        return tuple(self._merged)

    def use(self, names: Sequence[str]) -> None:
        """Add the increments of some adapters in every forward pass, and no others.

        Args:
            names: Names of adapters; none for the base model.

        Raises:
            AdaptError: A layer was changed after it was adapted.
        """
        if tuple(names) == self._attached:
            return
        with self._turns.changing("changing the adapters in use"):
            self._detach()
            attach_together([self._links[name] for name in names])
            self._attached = tuple(names)

    def merge(self, names: Iterable[str]) -> None:
        """Write the increments of some adapters into the base parameters; the originals are kept for `unmerge`.

        Args:
            names: Names of adapters that are not merged.

        Raises:
            AdaptError: A core or a merged weight is not finite. The adapters before it stay merged.
        """
        with self._turns.changing("merge()"):
            for name in names:
                if name in self._merged:
                    raise AdaptError(f"adapter {name!r} is merged already", fix="unmerge it first")
                links, originals = self._links[name], Originals(self.model)
                with naming(f"adapter {name!r}"):
                    require_finite(named(links.factors))
                    self._detach()
                    originals.replace(links.slots)
                self._merged[name] = originals

    def unmerge(self) -> None:
        """Restore the base parameters from before the first merge, bit for bit."""
        with self._turns.changing("unmerge()"):
            while self._merged:
                self._merged.popitem()[1].restore()

    def leave(self) -> None:
        """Remove all adapters from the model; weights that are merged stay."""
        with self._turns.changing("remove()"):
            self._detach()
            self._merged.clear()
            self._links.clear()
            self._place.leave()

    def _detach(self) -> None:
        for name in self._attached:
            self._links[name].check_intact()
        for name in self._attached:
            self._links[name].detach()
        self._attached = ()

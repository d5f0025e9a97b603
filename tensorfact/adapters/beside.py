"""What trains beside the factors: the head, and whatever else of the base model changed since it was adapted."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..errors import AdaptError
from ..model.head import head_buffers
from ..model.parameters import ATTRIBUTE, base_parameters, base_tensors, each_once, owner_of
from ..model.values import equal_values, strided_parts
from ..storage.fingerprint import Fingerprint
from .loading import Loading
from .place import Originals

_SMALL = 1 << 16
"""The base values of tensors with at most so many entries are kept: norms, biases, running statistics."""

_PLAIN = (Tensor, nn.Parameter)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_ROW = 1 << 10
"""How many words of 8 bytes are added up as a row of a checksum."""


class Beside:
    """Keeps the base values of the head and of small tensors, and knows which other tensors changed.

    Every base tensor is either stored in the adapter's file or covered by its fingerprint.

    Args:
        model: The base model.
        head: Names of the head's parameters.
        originals: The base values of merged weights.
    """

    def __init__(self, model: nn.Module, head: tuple[str, ...], originals: Originals) -> None:
        self.model, self.head, self._originals = model, head, originals
        self._adapted: tuple[str, ...] = ()
        self._sums: dict[str, tuple[torch.dtype, int]] = {}
        self._kept: dict[str, Tensor] = {}
        self._owners: dict[str, nn.Module] = {}
        self._away: dict[int, Tensor] = {}
        self.loading = Loading(self._before_loading, self._after_loading)
        self._loaded: tuple[bool, frozenset[str]] = (False, frozenset())

    def start(self, adapted: Collection[str]) -> None:
        """Record the base model; to be called before anything trains.

        Args:
            adapted: Names of the adapted parameters.
        """
        self._adapted = tuple(adapted)
        self._record(self._tensors())
        self.loading.watch(self.model)

    def stop(self) -> None:
        """No longer follow what is loaded into the model."""
        self.loading.stop()

    def stored(self) -> dict[str, Tensor]:
        """Return what a file stores beside the factors, by name: the head, and all other tensors that changed.

        Raises:
            AdaptError: The head was replaced or removed, or an adapted weight was trained itself.
        """
        named = self._named()
        if missing := [name for name in self.head if name not in named]:
            raise AdaptError(
                f"the model no longer has the head parameter {missing[0]!r}",
                cause="the head was replaced or removed after adapt()",
                fix="restore the head, or call adapt with train_head=False",
            )
        if offloaded := [name for name, tensor in named.items() if tensor.is_meta]:
            raise AdaptError(
                f"the base weight {offloaded[0]!r} is on the meta device: what trained cannot be told",
                cause="a model without weights, or one that accelerate has offloaded",
                fix="accelerate.hooks.remove_hook_from_module(model, recurse=True), or load the model's weights first",
            )
        head = {name: named[name] for name in self.head}
        head |= {name: named.get(name, buffer) for name, buffer in head_buffers(self.model, self.head).items()}
        changed = self._changed()
        if trained := [name for name in self._of_adapted(changed) if changed[name].requires_grad]:
            raise AdaptError(
                f"the adapted weight {trained[0]!r} was trained itself, which an adapter file does not hold",
                cause="requires_grad_(True) on the whole model",
                fix="call adapter.merge() and save model.state_dict(), or train the factors only",
            )
        own = {id(tensor) for tensor in head.values()} | {id(changed[name]) for name in self._of_adapted(changed)}
        return {**head, **{name: tensor for name, tensor in changed.items() if id(tensor) not in own}}

    def fingerprint(self, stored: Collection[str]) -> Fingerprint:
        """Return the fingerprint of the base weights.

        Args:
            stored: Names of the tensors that the file stores.

        Raises:
            FingerprintError: A base weight is on the meta device.
        """
        tensors = self._tensors(apart=stored)
        return Fingerprint.of(self._unmerged(tensors), self._adapted)

    def base(self, apart: Collection[str]) -> dict[str, Tensor]:
        """Return the base model's tensors, each once: the base values where they are kept, else the present ones.

        Args:
            apart: Names of tensors to leave out.
        """
        tensors = self._tensors(apart)
        return {name: self._kept.get(name, tensor) for name, tensor in self._unmerged(tensors).items()}

    def require_kept(self) -> None:
        """Raise unless everything that changed can be restored.

        Raises:
            AdaptError: A large tensor changed, of which no base value is kept.
        """
        changed = {n: tensor for n, tensor in self._changed().items() if self._in_place(n) and not tensor.is_meta}
        adapted = self._of_adapted(changed)
        lost = [n for n, t in changed.items() if n not in self._kept and (n not in adapted or t.requires_grad)]
        _refuse(lost, "remove()")

    def restore(self) -> None:
        """Write the base values back, bit for bit; layers that were replaced are left as they are."""
        tensors = self._tensors()
        with torch.no_grad():
            for name, value in self._kept.items():
                if self._fits(name, tensors):
                    tensors[name].copy_(value)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Context manager in which the model holds the base values of the head and of all small tensors.

        They are exchanged as objects: no value is written, so autograd graphs and optimizers stay valid.

        Raises:
            AdaptError: A large tensor trains, of which no base value is kept.
        """
        tensors = self._tensors()
        adapted = self._of_adapted(tensors)
        large = {n: t for n, t in tensors.items() if n not in self._kept and n not in adapted}
        sums = _checksums(large)
        _refuse([n for n, t in large.items() if t.requires_grad or self._differs(n, t, sums.get(n))], "disabled()")
        _refuse([n for n in self._kept if n in tensors and not self._fits(n, tensors)], "disabled()")
        base = {id(tensors[n]): _like(tensors[n], v) for n, v in self._kept.items() if self._fits(n, tensors)}
        self._away = {id(base[own]): tensor for tensor in tensors.values() if (own := id(tensor)) in base}
        places = self._exchange(base)
        try:
            yield
        finally:
            self._away = {}
            present = [held.get(name) for held, name, _ in places]
            for held, name, trained in places:
                held[name] = trained
            for (_, _, trained), like in zip(places, present, strict=True):  # it may have been moved or cast meanwhile
                trained.data = trained.data if like is None else trained.data.to(like.device, like.dtype)

    def _exchange(self, new: Mapping[int, Tensor]) -> list[tuple[dict[str, Tensor | None], str, Tensor]]:
        """Put tensors in the place of others, which are known by their ids; return these with their places."""
        places = []
        for path, module in self.model.named_modules():
            if path.partition(".")[0] == ATTRIBUTE:
                continue
            held: dict[str, Tensor | None]
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and id(tensor) in new:
                        places.append((held, name, tensor))
                        held[name] = new[id(tensor)]
        return places

    def _fits(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a tensor can take its base value: it and its layer were not replaced."""
        found, value = tensors.get(name), self._kept[name]
        plain = found is not None and type(found) in _PLAIN and found.shape == value.shape and not found.is_meta
        return plain and self._in_place(name)

    def _in_place(self, name: str) -> bool:
        return owner_of(self.model, name)[0] is self._owners.get(name)

    def _named(self) -> dict[str, Tensor]:
        """Return the trained model's tensors, by all their names, also while the base values are in their place."""
        return {name: self._away.get(id(tensor), tensor) for name, tensor in base_tensors(self.model).items()}

    def _tensors(self, apart: Collection[str] = ()) -> dict[str, Tensor]:
        return each_once(self._named(), apart)

    def _of_adapted(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Return those names that are adapted parameters, under any name of theirs."""
        parameters = base_parameters(self.model)
        adapted = {id(parameters[name]) for name in self._adapted if name in parameters}
        return [name for name, tensor in tensors.items() if id(tensor) in adapted]

    def _unmerged(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parameters = base_parameters(self.model)
        originals = {id(parameters[name]): value for name, value in self._originals.values.items()}
        return {name: originals.get(id(tensor), tensor) for name, tensor in tensors.items()}

    def _record(self, tensors: Mapping[str, Tensor]) -> None:
        """Record the present values as those of the base model."""
        self._sums |= _checksums(self._unmerged(tensors))
        adapted = self._of_adapted(tensors)
        self._owners |= {name: owner_of(self.model, name)[0] for name in tensors}
        named = self._named()
        head = {id(named[name]) for name in self.head if name in named}
        head |= {id(buffer) for buffer in head_buffers(self.model, self.head).values()}
        for name, tensor in tensors.items():
            if name not in adapted and not tensor.is_meta and (id(tensor) in head or tensor.numel() <= _SMALL):
                self._kept[name] = _copy(tensor)

    def _changed(self) -> dict[str, Tensor]:
        """Return the tensors whose values are no longer those of the base model."""
        tensors = self._tensors()
        sums = _checksums(self._unmerged(tensors))
        return {name: tensor for name, tensor in tensors.items() if self._differs(name, tensor, sums.get(name))}

    def _differs(self, name: str, tensor: Tensor, found: tuple[torch.dtype, int] | None) -> bool:
        if name not in self._owners:  # it was added after adapt(), unless nothing was recorded, as nothing trains
            return bool(self._owners)
        known, kept = self._sums.get(name), self._kept.get(name)
        if found is not None and known is not None and found[0] == known[0]:
            return found != known
        if kept is not None and kept.shape == tensor.shape and not tensor.is_meta:  # the model was cast meanwhile
            return not equal_values(kept.to(tensor.device, tensor.dtype), tensor)
        return tensor.requires_grad

    def _before_loading(self, module: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
        parameters = base_parameters(self.model)
        merged = {id(parameters[name]): name for name in self._originals.values}
        loaded = {name: tensor for name, tensor in base_tensors(module).items() if prefix + name in state}
        for name, present in loaded.items():
            new = state[prefix + name]
            if id(present) in merged and isinstance(new, Tensor) and not torch.equal(new.to(present), present):
                raise AdaptError(
                    f"load_state_dict: the adapter is merged, and {merged[id(present)]!r} is another weight",
                    cause="unmerge() would bring back the old base weights under the new ones",
                    fix="call adapter.unmerge() first, or adapter.remove()",
                )
        if merged:
            _refuse_other_factors(module, state, prefix)
        self._loaded = any(name.startswith(f"{prefix}{ATTRIBUTE}.") for name in state), frozenset(loaded)

    def _after_loading(self, module: nn.Module) -> None:
        """Take what was loaded for the base model's, but not what trains if only a part or also factors were loaded."""
        loads_adapter, names = self._loaded
        own = base_tensors(module)
        loaded = {id(own[name]) for name in names}  # not what is away while disabled
        tensors = {name: tensor for name, tensor in self._tensors().items() if id(tensor) in loaded}
        if loads_adapter or module is not self.model:
            tensors = {name: tensor for name, tensor in tensors.items() if not tensor.requires_grad}
        if loads_adapter:
            head = each_once(self._named(), self.head)
            tensors = {name: tensor for name, tensor in tensors.items() if name in head}
        self._record(tensors)


def _refuse_other_factors(module: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    """Raise if a state holds other factors than those that are merged."""
    for name, own in module.named_parameters():
        new = state.get(prefix + name)
        if name.startswith(f"{ATTRIBUTE}.") and isinstance(new, Tensor) and not equal_values(own, new.to(own)):
            raise AdaptError(
                "load_state_dict: the adapter is merged, and the state holds other factors",
                cause="the base weights would stay those of the present factors",
                fix="call adapter.unmerge() first",
            )


def _refuse(names: Collection[str], task: str) -> None:
    for name in names:
        raise AdaptError(
            f"{task} cannot bring back the base model: {name!r} changed beside the factors",
            cause="its base values are not kept: it is large and was trained, or its layer was replaced",
            fix="call adapter.merge() before adapter.remove() to keep what was trained, or load the base model anew",
        )


def _copy(tensor: Tensor) -> Tensor:
    value = tensor.detach().clone()
    return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return a base value on the device and in the dtype of the present one."""
    moved = value.detach().to(tensor.device, tensor.dtype, copy=True)  # what is written to it is lost
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved


def _checksums(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, int]]:
    """Return dtype and a checksum of the bits of each tensor; none of sharded, quantised and meta tensors."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if type(tensor) in _PLAIN and tensor.device.type != "meta" and not tensor.is_quantized:
            found[name] = _checksum(tensor)
    devices = {total.device for total in found.values()}
    sums: dict[str, int] = {}
    for device in devices:  # one transfer a device
        own = {name: total for name, total in found.items() if total.device == device}
        sums |= dict(zip(own, torch.stack(list(own.values())).tolist(), strict=True))
    return {name: (tensors[name].dtype, total) for name, total in sums.items()}


def _checksum(tensor: Tensor) -> Tensor:
    """Return a sum of a tensor's bits as integers that wraps around, and depends on the place of each."""
    sums = [_strided_checksum(part) for part in strided_parts(tensor)]
    return (_weighted(torch.stack(sums))) if len(sums) > 1 else sums[0]


def _strided_checksum(tensor: Tensor) -> Tensor:
    words = _words(tensor)
    cut = len(words) - len(words) % _ROW
    matrix, rest = words[:cut].reshape(-1, _ROW), words[cut:]
    columns, rows, left = (_weighted(each) for each in (matrix.sum(0), matrix.sum(1), rest))
    return columns + 31 * rows + 29 * left


def _weighted(words: Tensor) -> Tensor:
    return (words * (torch.arange(3, 2 * len(words) + 3, 2, device=words.device) * 0x9E3779B9)).sum()


def _words(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor as integers of 64 bits, zeros added; integers of 32 bits take ten times as long."""
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    narrow = plain.reshape(-1).view(_BITS[tensor.itemsize])
    each = 8 // narrow.itemsize
    if len(narrow) % each:
        narrow = nn.functional.pad(narrow, (0, -len(narrow) % each))
    return (narrow.clone() if narrow.storage_offset() % each else narrow).view(torch.int64)

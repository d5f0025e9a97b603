"""An adapter's state, files, folders, and LoRA: what it gives away, and what it takes back."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.checks import AnyPath, flag, of_type, quoted
from ..errors import AdaptError, naming
from ..lora import LoraFolder, to_lora
from ..model.origin import origin_of
from ..model.outputs import OutputSample, sample_output
from ..storage import AdapterState
from ..storage.fingerprint import Fingerprint
from ..storage.folder import AdapterInfo, write_adapter_folder
from ..storage.hub import upload
from ..storage.located import FILES
from ..storage.state import AdapterSource, state_of
from .reloading import reload
from .snapshot import snapshot
from .trainable import Trainable


class Exportable(Trainable):
    """The part of an adapter that writes it to files and reads its values from them."""

    info: AdapterInfo | None = None
    """What `tensorfact.load` read beside the adapter's file: classes, preprocessing and data; None for a fresh one."""

    def save(self, path: AnyPath) -> None:
        """Write the factors, the trained head, and all else that changed to one safetensors file, atomically.

        Args:
            path: The file; its folder must exist.

        Raises:
            AdaptError: The adapter or its head was removed from the model, a layer or base weight was exchanged, or an
                adapted weight was trained itself.
            CheckpointError: The file cannot be written; an existing file is left unchanged.
            FormatError: A format has no registered name.
        """
        self.state.save(path)

    def load(self, source: AdapterSource, *, check_base: bool = True) -> None:
        """Take the values of a saved adapter with the same plan, formats and given scales, in place.

        A derived scale is taken from it. Parameters stay the same objects, so an optimizer of theirs goes on. What the
        file does not store is as in the base model. `load_adapter` makes an adapter of a file instead.

        Args:
            source: What `load_adapter` takes: a file, a folder, a repository, a state, or another adapter.
            check_base: As in `load_adapter`.

        Raises:
            AdaptError: The adapter is merged, disabled or removed.
            CheckpointError: The file is missing or damaged, or holds another adapter.
            FingerprintError: It was made for another base model.

        Examples:
            >>> from tensorfact import adapt
            >>> from tensorfact.lab import nano
            >>> adapter = adapt(nano(), seed=0)
            >>> start = adapter.state
            >>> for core in adapter.factors.parameters():
            ...     _ = core.data.add_(1)
            >>> adapter.load(start)
            >>> bool(adapter.delta("blocks.0.attn.qkv.weight").any())
            False
        """
        flag(check_base, "load: check_base", AdaptError)
        state = state_of(source)
        with self._turns.changing("load()"):
            self._require(merged=False, changing=True)
            self._links.check_base()
            with naming(source) if isinstance(source, (str, os.PathLike)) else contextlib.nullcontext():
                reload(state, self.plan, self._links, self._beside, check_base=check_base)

    def save_pretrained(
        self,
        folder: AnyPath,
        *,
        classes: Sequence[str] | None = None,
        transform: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a folder that `tensorfact.load` makes the adapted model from.

        It holds `adapter.safetensors`, as `save` writes it; `adapter.json` with the base model's name, the classes, the
        preprocessing and the results; and a model card, `README.md`, with a picture of the network.

        Args:
            folder: The folder; it is created if it is missing. Other files in it are left alone, and an earlier model
                card is replaced.
            classes: The names of the classes, by index; default: those that it was loaded with, if any.
            transform: The preprocessing of images, as timm's data configuration; default: the one that it was loaded
                with, or that of the model.
            metrics: Results for the model card, such as `{"val_accuracy": 0.93}`.
            data: What it was trained on, as JSON data: name, sizes, how it was split; default: as it was loaded.

        Raises:
            AdaptError: As `save`, or `classes`, `transform` or `metrics` are of another type.
            CheckpointError: A file cannot be written, or the folder has a README.md that is not a model card.
            FormatError: A format has no registered name.

        Examples:
            >>> import tempfile
            >>> from tensorfact import adapt, load
            >>> from tensorfact.lab import nano
            >>> folder = tempfile.mkdtemp()
            >>> adapt(nano()).save_pretrained(folder, classes=[str(digit) for digit in range(10)])
            >>> model, transform, classes = load(folder)
            >>> model.tensorfact.num_parameters, classes[3]
            (6144, '3')
        """
        write_adapter_folder(self.state, folder, self._info(classes, transform, metrics, data))

    def push_to_hub(
        self,
        repository: str,
        *,
        classes: Sequence[str] | None = None,
        transform: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        data: Mapping[str, Any] | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Upload the folder of `save_pretrained` to the Hugging Face Hub.

        Args:
            repository: `OWNER/NAME`, or `NAME` for a repository of the user; it is created if it does not exist.
            classes: As in `save_pretrained`.
            transform: As in `save_pretrained`.
            metrics: As in `save_pretrained`.
            data: As in `save_pretrained`.
            private: Whether a new repository is private.
            token: The user's token; default: that of `hf auth login` or the variable `HF_TOKEN`.

        Returns:
            The address of the commit.

        Raises:
            AdaptError: As `save_pretrained`.
            CheckpointError: The Hub cannot be reached, or refuses the token.
        """
        flag(private, "push_to_hub: private", AdaptError)
        of_type(repository, str, "push_to_hub: repository", AdaptError, expected="a name", example="'me/digits'")
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent, repository.rpartition("/")[2])
            info = self._info(classes, transform, metrics, data)
            write_adapter_folder(self.state, folder, info.without_path(), name=repository)
            return upload(folder, repository, FILES, private=private, token=token)

    def _info(
        self,
        classes: Sequence[str] | None,
        transform: Mapping[str, Any] | None,
        metrics: Mapping[str, float] | None,
        data: Mapping[str, Any] | None,
    ) -> AdapterInfo:
        known = self.info or AdapterInfo()  # but for its metrics, which more training would belie
        classes = known.classes if classes is None else classes
        transform = known.transform if transform is None else transform
        data = known.data if data is None else data
        try:
            origin, names = origin_of(self.model), _names(classes)
            _check_classes(classes, names, origin.classes)
            given = None if transform is None else _plain(transform, "transform")
            return AdapterInfo(origin, names, given, metrics or {}, _plain(data, "data"), self._output())
        except (TypeError, ValueError) as error:
            raise AdaptError(
                "save_pretrained",
                expected="classes as a list of names, transform and data as JSON data, metrics as finite numbers",
                got=str(error),
                fix="save_pretrained(folder, classes=['cat', 'dog'], metrics={'val_accuracy': 0.93})",
            ) from error

    def _output(self) -> OutputSample | None:
        return None if self._switch.disabled else sample_output(self.model)

    @property
    def state(self) -> AdapterState:
        """A copy of the adapter without its model; `save` writes it to a file.

        Raises:
            AdaptError: As `save`.
        """
        with self._turns.reading():
            self._require()
            self._links.check_base()
            return snapshot(self.plan, self._links, self._beside)

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the base weights, by which a file is matched to its base model."""
        return self._beside.fingerprint(self._beside.stored())

    def to_lora(
        self, folder: AnyPath, *, rank: int | None = None, head: bool = True, example_input: object = None
    ) -> LoraFolder:
        """Write the adapter as a LoRA folder that peft loads; arguments as in `tensorfact.to_lora`."""
        self._require(changing=True)  # it copies the model's outline, which a disabled adapter refuses
        return to_lora(self, self.model, folder, rank=rank, head=head, example_input=example_input)


def _names(classes: object) -> tuple[str, ...]:
    """Return names of classes as a tuple; raise a TypeError for what is no list."""
    if not isinstance(classes, Iterable):
        raise TypeError(f"classes {quoted(classes)}")
    return tuple(classes)


def _check_classes(given: object, names: Sequence[str], count: int | None) -> None:
    """Raise a ValueError unless there is one name for each class, or none at all."""
    if isinstance(given, str) or len(set(names)) < len(names):
        raise ValueError("classes is one text, or names a class twice")
    if names and count not in (None, len(names)):
        raise ValueError(f"{len(names)} names of classes for a model of {count}")


def _plain(values: object, argument: str) -> dict[str, Any]:
    """Return JSON data as it will be read again, with lists in place of tuples."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{argument} {quoted(values)}")
    return dict(json.loads(json.dumps(dict(values))))

"""The folder that `train` writes: one run at a time, its state, and what another run left there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError, TrainingError
from .console import say

CHECKPOINT, CURVE = "training-{}.safetensors", "curve.png"
"""Files of a run in the adapter's folder: its state, from which the same command resumes, and its curve."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Context in which a folder exists and belongs to this run; one that it made and left empty is removed again.

    Args:
        folder: The folder.

    Raises:
        TrainingError: Another run is writing into the folder.
        CheckpointError: The folder cannot be made or written.
    """
    from ..lab.locks import LOCK, locked
    from ..storage.writing import make_folder

    made = [each for each in (folder, *folder.parents) if not each.exists()]
    make_folder(folder)
    try:
        with locked(folder, TrainingError, user="run of `tensorfact train`", fix=f"--out {folder}-2"):
            yield
    finally:
        if made and {each.name for each in folder.iterdir()} <= {LOCK}:
            with contextlib.suppress(OSError):  # something was written there since
                (folder / LOCK).unlink(missing_ok=True)
                for each in made:
                    each.rmdir()


@dataclasses.dataclass(frozen=True)
class RunState:
    """The state of a run in the folder of its adapter.

    Args:
        folder: The folder.
        run: Digest of the options and images of the run.
        epochs: Number of epochs of the run.
    """

    folder: Path
    run: str
    epochs: int

    @property
    def path(self) -> Path:
        """The file of the state."""
        return self.folder / CHECKPOINT.format(self.run)

    def begin(self, *, restart: bool) -> None:
        """Say where the run goes on, or discard its state.

        Args:
            restart: Begin at the first epoch, also where the folder holds an adapter of another run.

        Raises:
            CheckpointError: The folder holds an adapter of another run, or the state is damaged.
        """
        from ..storage.located import FILE

        if restart:
            self.path.unlink(missing_ok=True)
        elif not self.path.exists() and (self.folder / FILE).exists():
            raise CheckpointError(
                f"{self.folder} holds an adapter of another run",
                cause="another model, options or images, or its state (training-....safetensors) was removed",
                fix=f"--restart replaces it; or pass another folder: --out {self.folder}-2",
            )
        if (done := self.done()) >= self.epochs:
            say(f"finished before: {done} of {self.epochs} epochs")
        elif done:
            say(f"resumed at epoch {done + 1} of {self.epochs}")

    def done(self) -> int:
        """Return the number of epochs that the state holds; 0 if there is none."""
        from ..lab.training.saved import stored_history

        return len(stored_history(self.path).epochs) if self.path.exists() else 0

    def remove_others(self) -> None:
        """Remove the states of other runs, whose adapter this run has replaced."""
        for other in self.folder.glob(CHECKPOINT.format("*")):
            if other != self.path:
                other.unlink()

    @contextlib.contextmanager
    def advised(self) -> Iterator[None]:
        """Context in which a state of other weights, and Ctrl-C, say what to type.

        Raises:
            CheckpointError: The state is damaged, or of a model with other weights.
            typer.Exit: Ctrl-C was pressed.
        """
        import typer

        try:
            yield
        except CheckpointError as error:
            problem, _, _ = str(error).partition(" Fix: ")
            raise CheckpointError(problem, fix="--restart trains again; or pass another folder as --out") from error
        except KeyboardInterrupt as error:
            at = min(self.done() + 1, self.epochs)
            say(f"stopped at epoch {at} of {self.epochs}; the same command goes on", err=True)
            raise typer.Exit(130) from error

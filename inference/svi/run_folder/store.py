"""The run folder of a training in progress: where its state goes, and what is said when it cannot go there."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from phlogiston.errors import RunError
from phlogiston.inference.svi import runs
from phlogiston.inference.svi.checkpoints import Keeper
from phlogiston.inference.svi.run_folder.headers import FOLDER, list_files
from phlogiston.inference.svi.run_folder.space import checkpoint_size, megabytes


class Store:
    """An open run folder and the checkpoints in it.

    Args:
        run: the folder, opened.
        device: for environment.json.
        seed: likewise.

    Attributes:
        run: the folder.
        keeper: its checkpoints.
    """

    def __init__(self, run: runs.Run, device: str, seed: int) -> None:
        self.run = run
        self.keeper = Keeper(run.path / FOLDER)
        self._device, self._seed = device, seed
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        run.describe_environment(device, seed)

    def begin_saving(
        self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write a checkpoint while training goes on; `saved` tells what came of it. Arguments as of `save`.

        The tensors must not change until then.

        Raises:
            RunError: the folder was lost meanwhile, as `save` has it.
        """
        if self.run.missing():
            self._rescue(tensors, state, records)
        arguments = tensors, copy.deepcopy(dict(state))

        def work() -> None:
            try:
                self.keeper.save(*arguments)
            except BaseException as error:  # raised where it can be heard
                self._error = error

        self._thread = threading.Thread(target=work, name="phlogiston-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written."""
        if self._thread is not None:
            self._thread.join()

    def saved(self) -> str:
        """Wait for the checkpoint that is being written, and say why it was not written, "" if it was."""
        if self._thread is None:
            return ""
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error
        return self.keeper.failure

    def close(self) -> None:
        """Let go of the folder, once the checkpoint that is being written is there."""
        self.wait()
        self.run.close()

    def save(
        self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> str:
        """Write a checkpoint.

        Args:
            tensors: see `checkpoints`.
            state: its JSON part.
            records: what metrics.jsonl holds, for a folder that must be made anew.

        Returns:
            "" or, where training can go on without it, why it was not written.

        Raises:
            RunError: training must end: the folder was lost meanwhile (all that a load needs is then written anew), or
                the checkpoint is the first or the last one and could not be written.
        """
        if self.run.missing():
            self._rescue(tensors, state, records)
        self.keeper.save(tensors, state)
        if self.keeper.failure and state["step"] == 0:
            raise RunError(f"{self.keeper.failure}. Nothing was trained. Make room, or choose another folder.")
        if self.keeper.failure and state["finished"]:
            raise RunError(
                f"{self.keeper.failure}. Training is over, and its result is in memory only: {self.run.path} "
                f"{self._held()}. Make {megabytes(checkpoint_size(tensors))} of room and start the same command again "
                "(phlogiston train ... --resume); it does the steps after that again."
            )
        return self.keeper.failure

    def _held(self) -> str:
        files = list_files(self.keeper.folder)
        return f"holds step {int(files[-1].stem.removeprefix('step-'))}" if files else "holds no checkpoint"

    def _rescue(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], records: Sequence[Any]) -> None:
        lost: Path = self.run.path
        what = f"the run folder {lost} was removed, moved, replaced or emptied during training"
        try:
            self.run.rescue(records, self._device, self._seed)
        except OSError as error:
            raise RunError(f"{what}, and could not be made anew ({error}). Step {state['step']} is lost.") from error
        self.keeper = Keeper(self.run.path / FOLDER)
        self.keeper.save(tensors, state)
        if self.keeper.failure:
            raise RunError(f"{what}; {self.keeper.failure}.")
        over = "Training is over" if state["finished"] else "Training stops here"
        raise RunError(
            f"{what}. {over}: step {state['step']} is in {self.run.path}, with all that loading and resuming need."
        )

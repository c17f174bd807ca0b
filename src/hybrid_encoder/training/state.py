"""What a checkpoint of a run holds: weights, optimizer, schedule, position in the data, and random numbers.

Everything is JSON or safetensors. accelerate's own checkpoints are partly pickles, which run code when they are read,
and a random state that cannot be read is passed over there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from hybrid_encoder.errors import CheckpointError, shortened
from hybrid_encoder.training.averaging import AveragedWeights
from hybrid_encoder.training.batches import Progress
from hybrid_encoder.training.best import Best
from hybrid_encoder.training.trees import check_alike, from_json, tensors_of, to_json

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
AVERAGES = "ema.safetensors"  # where the run keeps a moving average
OPTIONAL = {"validation"}  # parts that a run may begin or cease to have: they change no step


def random_file(process: int) -> str:
    """Return the name of the file with the random state of a process."""
    return f"random_{process}.json"


def required_files(processes: int) -> set[str]:
    """Return the names of the files that every checkpoint of a run of so many processes has."""
    return {MODEL, OPTIMIZER, STATE, *map(random_file, range(processes))}


class RunState:
    """All that changes while a run trains; written to files, and read back.

    Args:
        accelerator: of this process.
        stage: the module that trains.
        optimizer: as the accelerator has prepared it.
        scheduler: None for a constant rate.
        progress: how far the run has come.
        averages: of the weights; None where none are kept.
        best: of the validations; None where there are none.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        stage: nn.Module,
        optimizer: Any,
        scheduler: Any,
        progress: Progress,
        averages: AveragedWeights | None = None,
        best: Best | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.stage, self.optimizer, self.scheduler, self.progress = stage, optimizer, scheduler, progress
        self.averages, self.best = averages, best
        self._tree()  # a state that cannot be saved is found before the first step
        parameters = dict(stage.named_parameters(remove_duplicate=False))
        self._masks: set[str] = set()  # buffers that are infinite by design
        self._masks = {name for name in self.non_finite() if name not in parameters}

    def write(self, folder: Path) -> None:
        """Write the files of this process into a folder; the main process writes those that all share."""
        if self.accelerator.is_main_process:
            text, tensors = self._tree()
            (folder / STATE).write_text(text)
            save_file(tensors, folder / OPTIMIZER)
            # Copies, as parameters may share memory and files cannot.
            weights = {name: value.detach().cpu().contiguous().clone() for name, value in self._weights().items()}
            save_file(weights, folder / MODEL)
            if self.averages is not None:
                save_file(
                    {name: value.cpu().contiguous() for name, value in self.averages.averages.items()},
                    folder / AVERAGES,
                )
        process = self.accelerator.process_index
        (folder / random_file(process)).write_text(to_json(random_state(self.accelerator.device))[0])

    def load(self, read: Callable[[str], bytes]) -> None:
        """Take over the state of a checkpoint.

        Args:
            read: returns the content of a file of the checkpoint, which it has compared with the manifest.

        Raises:
            CheckpointError: the files are those of another run, or not what they should be.
        """
        state = from_json(read(STATE), tensors_of(read(OPTIMIZER)))
        weights, generators = tensors_of(read(MODEL)), from_json(read(random_file(self.accelerator.process_index)))
        self._check(state)
        averages = None if self.averages is None else tensors_of(read(AVERAGES))
        try:
            self._take(state, weights, averages)
            set_random_state(generators, self.accelerator.device)
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
            if isinstance(error, CheckpointError):
                raise
            reason = shortened(" ".join(str(error).split()), 300)
            raise CheckpointError(
                f"it does not fit this run ({reason}); resume with the same model, optimizer and settings."
            ) from None

    def non_finite(self) -> list[str]:
        """Return the names of the weights and of the optimizer's tensors that are NaN or infinite."""
        found = {name: value for name, value in self._weights().items() if name not in self._masks}
        for index, kept in enumerate(self.optimizer.state.values()):
            found |= {f"{name} of the optimizer ({index})": v for name, v in kept.items() if isinstance(v, Tensor)}
        if self.averages is not None:
            found |= {f"the average of {name}": value for name, value in self.averages.averages.items()}
        floats = {name: value for name, value in found.items() if value.is_floating_point() and value.numel()}
        finite: dict[str, bool] = {}
        # Joined for each device, so that an accelerator is waited for once.
        for device in {value.device for value in floats.values()}:
            here = {name: value for name, value in floats.items() if value.device == device}
            answers = torch.stack([value.detach().isfinite().all() for value in here.values()]).tolist()
            finite.update(zip(here, answers, strict=True))
        return [name for name in floats if not finite[name]]

    def _weights(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.stage.state_dict().items() if isinstance(value, Tensor)}

    def _parts(self) -> dict[str, Any]:
        """Return what is kept beside the weights, by name."""
        parts = {
            "progress": self.progress,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": getattr(self.accelerator, "scaler", None),
            "ema": self.averages,
            "validation": self.best,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _tree(self) -> tuple[str, dict[str, Tensor]]:
        return to_json({name: part.state_dict() for name, part in self._parts().items()})

    def _check(self, state: Any) -> None:
        parts = self._parts()
        if not isinstance(state, dict) or state.keys() - OPTIONAL != parts.keys() - OPTIONAL:
            raise CheckpointError("it is of a run with other parts; resume with the same settings.")
        for name in parts.keys() & state.keys() - {"optimizer"}:
            check_alike(state[name], parts[name].state_dict(), name)

    def _take(self, state: Any, weights: dict[str, Tensor], averages: dict[str, Tensor] | None) -> None:
        check_alike(state["optimizer"]["param_groups"], self.optimizer.state_dict()["param_groups"], "optimizer")
        self.stage.load_state_dict(weights)
        if self.averages is not None and averages is not None:
            self.averages.load_averages(averages)
        for name, part in self._parts().items():
            if name in state:
                part.load_state_dict(state[name])


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of all generators that a process draws from: Python's, numpy's, and torch's on each device."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    torch_states = {"cpu": _to_hex(torch.get_rng_state())}
    if (module := _generators_of(device)) is not None:
        torch_states[device.type] = _to_hex(module.get_rng_state())
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch_states,
    }


def set_random_state(states: dict[str, Any], device: torch.device) -> None:
    """Restore what :func:`random_state` returned; an accelerator that had no part in it keeps its own."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(_from_hex(states["torch"]["cpu"]))
    module = _generators_of(device)
    if module is not None and device.type in states["torch"]:
        module.set_rng_state(_from_hex(states["torch"][device.type]))


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Let a block draw random numbers as if it drew none."""
    states = random_state(device)
    try:
        yield
    finally:
        set_random_state(states, device)


def _to_hex(state: Tensor) -> str:
    return bytes(state.cpu().tolist()).hex()


def _from_hex(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def _generators_of(device: torch.device) -> Any:
    """Return the module with the generators of an accelerator, of which a process uses one device; None for a CPU."""
    module = getattr(torch, device.type, None)
    return module if device.type != "cpu" and hasattr(module, "get_rng_state") else None

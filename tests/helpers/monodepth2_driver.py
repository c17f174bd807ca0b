"""Monodepth2's own Trainer, step by step, in an unmodified checkout; run by test_monodepth2_real.py.

python monodepth2_driver.py resume RESULT ...     a training with and without a break
python monodepth2_driver.py scratch RESULT ...    one long epoch on the tiny preset
python monodepth2_driver.py pyramid RESULT ...    the same with the repository's decoder
python monodepth2_driver.py shipped RESULT ...    the same from the weights that ship
python monodepth2_driver.py repository RESULT ... the same on the repository's own ResNet

Runs in the checkout's folder; the options after RESULT are those of its train.py. Writes numbers to RESULT (JSON).
The environment variable SEED says where random numbers start.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, os.getcwd())

from hybrid_encoder import HybridDepthEncoder
from hybrid_encoder.adapters import monodepth2
from hybrid_encoder.adapters.patching import legacy

kind, result = sys.argv[1], Path(sys.argv[2])
del sys.argv[1:3]
starts: dict[str, Callable[[], Any]] = {
    "resume": lambda: monodepth2.patch("tiny"),
    "scratch": lambda: monodepth2.patch("tiny"),
    "pyramid": lambda: monodepth2.patch("tiny", decoder="repository"),
    "shipped": lambda: monodepth2.patch(HybridDepthEncoder.from_pretrained("tiny")),
    "repository": lambda: legacy.apply_shims(os.getcwd()),
}
patched = starts[kind]()

from options import MonodepthOptions  # type: ignore[import-not-found]  # noqa: E402  (modules of the checkout)
from trainer import Trainer  # type: ignore[import-not-found]  # noqa: E402


def seed(number: int) -> None:
    number += 100 * int(os.environ.get("SEED", "0"))
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  (the checkout draws from the global generator)
    torch.manual_seed(number)


class Recorder(Trainer):  # type: ignore[misc]
    """Remembers the loss of every step, and leaves validation in between out: it draws random numbers."""

    def __init__(self, options: Any) -> None:
        seed(0)
        super().__init__(options)
        self.epoch = self.step = 0
        self.start_time = time.time()
        self.recorded: list[float] = []

    def process_batch(self, inputs: Any) -> Any:
        outputs, losses = super().process_batch(inputs)
        self.recorded.append(losses["loss"].item())
        return outputs, losses

    def val(self) -> None:
        pass

    def run(self, number: int) -> list[float]:
        """One epoch; its losses."""
        seed(number)
        self.recorded.clear()
        self.run_epoch()
        return list(self.recorded)

    def reprojection(self) -> dict[str, float]:
        """Mean photometric loss over the validation items, without augmentation and smoothness."""
        self.set_eval()
        self.opt.disparity_smoothness = 0
        means = {}
        for masked in (True, False):
            self.opt.disable_automasking = not masked
            self.recorded.clear()
            with torch.no_grad():
                for inputs in self.val_loader:
                    self.process_batch(inputs)
            means["auto-masked" if masked else "plain"] = float(np.mean(self.recorded))
        return means


options = MonodepthOptions().parse()
if kind == "resume":
    whole = Recorder(options)
    first = whole.run(1)
    whole.save_model()
    uninterrupted = whole.run(2)
    folder = Path(options.log_dir, options.model_name, "models", "weights_0")
    options.load_weights_folder = str(folder)
    options.models_to_load = ["encoder", "depth", "pose_encoder", "pose"]
    resumed = Recorder(options).run(2)
    numbers: dict[str, Any] = {"first": first, "uninterrupted": uninterrupted, "resumed": resumed}
else:
    trainer = Recorder(options)
    # Both kinds start from the same pose network, so that the depth network alone differs.
    shared = result.parent / "pose.pth"
    pose = {name: trainer.models[name] for name in ("pose_encoder", "pose")}
    if shared.exists():
        for name, weights in torch.load(shared).items():
            pose[name].load_state_dict(weights)
    else:
        torch.save({name: module.state_dict() for name, module in pose.items()}, shared)
    numbers = {"before": trainer.reprojection()}
    trainer.opt.disparity_smoothness, trainer.opt.disable_automasking = 1e-3, False
    numbers |= {"losses": trainer.run(1), "after": trainer.reprojection()}
result.write_text(json.dumps(numbers))

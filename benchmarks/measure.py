"""How things are measured: two ways in turn, memory in a separate process, where the time goes.

A way is an implementation or a setting, by a name of ``WAYS``. A case is what it has to do: size and number of the
images, and whether to predict or to take a training step. ``Run(way, case)`` does it once at every call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import others
from hybrid_encoder import HybridDepthModel
from hybrid_encoder.training.optimizing import fused_adamw

ROOT = Path(__file__).resolve().parents[1]
WAYS = {
    "ours": "ours",
    "ours-compiled": "ours, compiled",
    "ours-bf16": "ours, bf16 autocast",
    "ours-bf16-weights": "ours, bf16 weights",
    "ours-fp16": "ours, fp16 autocast",
    "ours-folded": "ours, prompts folded",
    "ours-frozen-text": "ours, text tower frozen whole",
    "reference": "reference, plainly written",
    "published": "published implementation",
    "dinov2-dpt": "DINOv2 + DPT of transformers",
    "monodepth2": "Monodepth2, ResNet-18",
}
SAME_NUMBERS = ("ours", "ours-compiled", "ours-folded", "ours-frozen-text", "reference", "published")
LOW = ("ours-bf16", "ours-bf16-weights", "ours-fp16")  # the difference is shown and not judged
TOLERANCE = 2e-4
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """What a way has to do.

    Attributes:
        weights: a folder that ``rebuild`` has written.
        prompts: number of prompts; None keeps those of the weights, another number starts from random ones.
        train: take a whole training step (forward, backward, AdamW) instead of predicting.
        bf16: run every way under bfloat16 autocast.
    """

    weights: str
    height: int = 224
    width: int = 672
    batch: int = 1
    prompts: int | None = None
    train: bool = False
    device: str = "cpu"
    bf16: bool = False
    tiny: bool = False

    def images(self) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        return torch.rand(self.batch, 3, self.height, self.width, generator=generator).to(self.device)


# -- the ways -------------------------------------------------------------------------------------------------


def rebuild(folder: Path, tiny: bool) -> None:
    """Write weights for every way: ``ours`` in our layout and, at full size, the same ones in the published layout.

    At full size every tensor is drawn from a seed made of its name, as for the parity tests. Such weights predict
    nothing useful and take the same time as trained ones.
    """
    if tiny:
        torch.manual_seed(0)
        HybridDepthModel("tiny", pretrained=False).save_pretrained(folder / "ours")
        return
    spec = importlib.util.spec_from_file_location("parity_fill", ROOT / "tests" / "parity" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    published = folder / "published"
    published.mkdir()
    fill.write_checkpoint("stage2_default", published)
    HybridDepthModel.from_pretrained(published).save_pretrained(folder / "ours")


def why_not(way: str, case: Case) -> str | None:
    """Return why this way cannot do this case; None if it can."""
    if way == "ours-compiled" and not (case.device == "cuda" or _compiler()):
        return "no C++ compiler was found (CXX, c++, g++ or clang++)"
    if way == "ours-frozen-text" and not case.train:
        return "it differs only in training"
    if way == "ours-folded" and case.train:
        return "its text tower is removed, so its prompts cannot train"
    if way == "ours-bf16-weights" and case.train:
        return "weights in bfloat16 do not train"
    if way == "ours-fp16" and case.train:
        return "float16 needs a loss scaler to train, which this step does not have"
    if way in LOW and case.bf16:
        return "every way runs in bfloat16 here"
    if way == "monodepth2" and others.checkout(others.MONODEPTH2) is None:
        return f"{others.MONODEPTH2} names no checkout"
    if way == "published":
        if others.checkout(others.PUBLISHED) is None:
            return f"{others.PUBLISHED} names no checkout"
        if case.tiny or (case.height, case.width) != others.PUBLISHED_SIZE:
            return "it has one size of model and one size of image"
    return None


def module(way: str, case: Case) -> nn.Module:
    """Return the model of a way, with ``requires_grad`` set as in its training."""
    if way == "dinov2-dpt":
        return others.TransformersDPT(case.tiny)
    folders = {"monodepth2": others.MONODEPTH2, "published": others.PUBLISHED}
    if way in folders:
        folder = others.checkout(folders[way])
        assert folder is not None, why_not(way, case)
        if way == "monodepth2":
            return others.Monodepth2(folder)
        return others.Published(folder, Path(case.weights) / "published", case.prompts, case.device)
    model = HybridDepthModel.from_pretrained(Path(case.weights) / "ours")
    if case.prompts is not None:
        encoder = model.config.encoder
        assert encoder.prompts is not None
        encoder = encoder.replace(prompts=dataclasses.replace(encoder.prompts, num_tokens=case.prompts))
        torch.manual_seed(0)
        model = HybridDepthModel(model.config.replace(encoder=encoder), pretrained=False)
    if way == "reference":
        from benchmarks.reference import Reference

        return Reference(model)
    if way == "ours-folded":
        model.encoder.fold_prompts()
    for name, parameter in model.named_parameters():
        if name.startswith("encoder.prompts.") and not name.endswith(".tokens"):
            # As published: the text transformer is frozen, what stands around it trains; or all of it is frozen.
            parameter.requires_grad_(way != "ours-frozen-text" and ".transformer." not in name)
    return model


class Run:
    """Do the case once by this way at every call, and return the disparity."""

    def __init__(self, way: str, case: Case) -> None:
        self.module = module(way, case).to(case.device).train(case.train)
        ours = way.startswith("ours")
        self.images = case.images()
        if way == "ours-bf16-weights":
            self.module, self.images = self.module.to(torch.bfloat16), self.images.to(torch.bfloat16)
        self.forward = torch.compile(self.module) if way == "ours-compiled" else self.module
        self.device = case.device
        self.low: torch.dtype | None = torch.bfloat16 if case.bf16 or way == "ours-bf16" else None
        if way == "ours-fp16":
            self.low = torch.float16
        self.optimizer: torch.optim.Optimizer | None = None
        if case.train:
            # A learning rate of 0 keeps the weights, so that all steps are alike.
            trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
            # Ours is fused, as in the library's trainer; everybody else's is what torch takes by default.
            make = functools.partial(fused_adamw, weight_decay=0.01) if ours else torch.optim.AdamW
            self.optimizer = make([{"params": trained}], lr=0.0)

    def __call__(self) -> Tensor:
        with torch.inference_mode(self.optimizer is None):
            with torch.autocast(self.device, self.low) if self.low else contextlib.nullcontext():
                disparity: Tensor = self.forward(self.images)
            if self.optimizer is not None:
                disparity.float().mean().backward()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        return disparity.detach()


# -- time ------------------------------------------------------------------------------------------------------


def in_turn(way: str, ours: str, case: Case, rounds: int) -> dict[str, Any]:
    """Time two ways in turn, after one call of each to warm up.

    Returns:
        ``seconds`` and ``ours`` of every round, their ``ratios``, and ``difference``, the largest one of the first
        outputs (None where they need not be equal).
    """
    calls = [Run(way, case), _ours(ours, case)]
    first = [call().float() for call in calls]
    alike = (way in SAME_NUMBERS or way.startswith("ours")) and case.prompts is None
    difference = float((first[0] - first[1]).abs().max()) if alike else None
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, own in zip(calls, times, strict=True):
            own.append(seconds(call, case.device))
    del calls, call, first
    if not case.tiny:
        gc.collect()
    ratios = [a / b for a, b in zip(*times, strict=True)]
    return {"seconds": times[0], "ours": times[1], "ratios": ratios, "difference": difference}


@functools.lru_cache(maxsize=1)  # the pairs of one case come one after the other
def _ours(way: str, case: Case) -> Run:
    return Run(way, case)


def seconds(call: Callable[[], object], device: str, clock: Callable[[], float] | None = None) -> float:
    """Return what one call takes, by a clock of ``CLOCKS``; by default the one that ``use_clock`` has set."""
    clock = clock or _clock
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,  # what other programs take does not count; meant for one thread
}
_clock = CLOCKS["wall"]


def use_clock(name: str) -> None:
    """Measure by another clock of ``CLOCKS`` from now on."""
    global _clock  # one for a whole program, set by its command line
    _clock = CLOCKS[name]


def _compiler() -> bool:
    from shutil import which

    return any(which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name)


# -- memory ----------------------------------------------------------------------------------------------------


def apart(what: str, *given: Any) -> dict[str, float]:
    """Run ``memory(way, case)`` or ``loading(source)`` in a separate process."""
    command = [sys.executable, "-m", "benchmarks.measure", json.dumps([what, torch.get_num_threads(), *given])]
    # Freed blocks are returned to the system at once, so that they do not hide what is needed later.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{what} of {given[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def memory(way: str, case: Case) -> dict[str, float]:
    """Return the MiB of the weights, and by how much two calls raise the peak.

    Two calls, because the first training step creates the optimizer's state, which the second one then has beside it.
    """
    call = Run(way, case)
    held = [*call.module.parameters(), *call.module.buffers()]
    for tensor in held:
        tensor.any()  # weights that are mapped from a file come into memory when they are first read
    weights = sum(tensor.nbytes for tensor in held) / MIB
    return {"weights": weights, "extra": _extra(lambda: (call(), call()), case.device)}


def loading(source: str) -> dict[str, float]:
    """Return seconds and peak MiB of ``from_pretrained``, and the MiB of its files."""
    torch.nn.functional.conv2d(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 3, 3))
    HybridDepthModel.from_pretrained("tiny")  # imports what loading imports
    files = sum(file.stat().st_size for file in Path(source).iterdir()) / MIB
    start = time.perf_counter()
    extra = _extra(lambda: HybridDepthModel.from_pretrained(source), "cpu")
    return {"files": files, "extra": extra, "seconds": time.perf_counter() - start}


def _extra(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    gc.collect()
    # Allocate up to the peak that was reached while starting, which would hide a lower one of the call.
    room = _peak() * MIB - psutil.Process().memory_info().rss
    ballast = torch.ones(max(0, int(room)) // 4 + 2**24)
    before_peak = _peak()
    result = call()
    after = _peak()
    del ballast, result
    return after - before_peak


def _peak() -> float:
    status = Path("/proc/self/status")  # on Linux, ru_maxrss starts at the parent's peak; this does not
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def import_seconds(statement: str) -> float:
    """Return the seconds that one import takes in a fresh process."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


# -- where the time goes ---------------------------------------------------------------------------------------


def operations(call: Callable[[], object]) -> int:
    """Return the floating-point operations of one call; a multiplication and an addition count as two."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention is not counted
        call()
    return int(counter.get_total_flops())


KINDS = {
    "attention": r"scaled_dot_product|_attention",
    "convolutions": r"conv",
    "matrix products": r"^(mm|addmm|bmm|baddbmm|addbmm|matmul|linear|mkldnn_linear|_addmm_activation)$",
    "interpolation": r"upsample|interpolate|grid_sample",
    "copies and joining": r"copy|cat$|clone|contiguous|index|stack|fill|zero|empty|^to$|reorder|resize",
}


def shares(call: Callable[[], object], device: str) -> dict[str, float]:
    """Return the shares of one call's time by kind of operator."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about profiling cycles, of which there is one
        with profile(activities=activities) as profiler:
            call()
    total: dict[str, float] = dict.fromkeys([*KINDS, "elementwise and norms"], 0.0)
    for event in profiler.key_averages():
        spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, rule in KINDS.items() if re.search(rule, name)), "elementwise and norms")
        if event.key.startswith("aten::"):
            total[kind] += spent
    whole = sum(total.values())
    return {kind: spent / whole for kind, spent in total.items()} if whole else total


if __name__ == "__main__":
    _what, _threads, *_given = json.loads(sys.argv[1])
    torch.set_num_threads(_threads)
    _found = memory(_given[0], Case(**_given[1])) if _what == "memory" else loading(_given[0])
    print(json.dumps(_found))

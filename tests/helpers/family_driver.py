"""One training of a codebase under its adapter, for two steps of the optimizer, and what became of our networks.

python family_driver.py SPEC

SPEC names a JSON file: ``root`` (folder of the checkout, the current one), ``adapter`` and ``arguments`` of its
``patch``, ``command`` (of a script) or ``drive`` (a function of family_networks.py), ``packages`` (a folder of further
packages, or None), ``log`` (a folder for checkpoints) and ``result`` (a JSON file that is written). Run by
test_family_real.py; a codebase needs a process of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import inspect
import itertools
import json
import os
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers; the codebase's folder comes before it

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from hybrid_encoder import HybridEncoderConfig, adapters
from hybrid_encoder.adapters.networks import DepthDecoder, DepthEncoder, MatchingEncoder
from hybrid_encoder.adapters.patching.construction import Call
from hybrid_encoder.adapters.patching.replacing import Patch
from hybrid_encoder.adapters.runner import run_script
from hybrid_encoder.config import PRESETS, PromptConfig
from hybrid_encoder.towers.base import Tower

from helpers import family_machine, family_networks

SPEC: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
ROOT = os.path.realpath(SPEC["root"])
TINY = HybridEncoderConfig.preset("tiny")
PARTLY_FROZEN = TINY.replace(
    spatial=dataclasses.replace(TINY.spatial, trainable_blocks=1),
    prompts=PromptConfig(num_tokens=16, train_text=False),
)
STEPS = 2
PATIENCE = 4  # steps of optimizers that hold nothing of ours
OURS = (DepthEncoder, DepthDecoder, MatchingEncoder)


class Enough(BaseException):
    """Two steps are done; not an Exception, which a trainer might catch."""


class Watcher:
    """Sees which networks of ours are built, called, given a gradient and changed."""

    def __init__(self) -> None:
        self.built: weakref.WeakKeyDictionary[nn.Module, Callable[[], Any]] = weakref.WeakKeyDictionary()
        self.kept: list[nn.Module] = []  # those that live when an optimizer makes a step
        self.called: set[int] = set()
        self.images: list[tuple[float, float]] = []  # lowest and highest value that a tower was given
        self.optimizers: list[Optimizer] = []
        self.steps = self.others = 0
        self.before: dict[int, Tensor] = {}
        self.graded: set[int] = set()

    def start(self) -> None:
        own_owner, own_normalise = Call.owner, Tower.normalise

        def owner(call: Call, network: nn.Module) -> nn.Module:
            found = own_owner(call, network)
            if isinstance(network, OURS):
                self.built[found] = functools.partial(call_again, call.real, call.args, call.kwargs)
            return found

        def normalise(tower: Tower, images: Tensor) -> Tensor:
            self.images.append((float(images.min()), float(images.max())))
            return own_normalise(tower, images)

        Call.owner, Tower.normalise = owner, normalise  # type: ignore[assignment, method-assign]
        nn.modules.module.register_module_forward_hook(lambda module, *args: self.called.add(id(module)))
        register_optimizer_step_pre_hook(self._before_step)
        register_optimizer_step_post_hook(self._after_step)

    def networks(self) -> list[nn.Module]:
        return list(self.built)

    def holds_ours(self, optimizer: Optimizer) -> bool:
        return not held_by([optimizer]).isdisjoint(
            id(x) for network in self.networks() for _, x in network.named_parameters()
        )

    def _before_step(self, optimizer: Optimizer, *args: Any) -> None:
        if all(optimizer is not known for known in self.optimizers):
            self.optimizers.append(optimizer)
        self.kept = self.networks()
        for network in self.kept:
            for _, x in network.named_parameters():
                self.before.setdefault(id(x), x.detach().clone())
                if x.grad is not None and x.grad.any():
                    self.graded.add(id(x))

    def _after_step(self, optimizer: Optimizer, *args: Any) -> None:
        if self.holds_ours(optimizer):
            self.steps += 1
        else:
            self.others += 1
        holders = sum(self.holds_ours(each) for each in self.optimizers)
        if self.steps >= STEPS * max(holders, 1) or self.others >= PATIENCE * (1 + self.steps):
            raise Enough

    def describe(self) -> list[dict[str, Any]]:
        """Return numbers on every network of ours that was built."""
        held = held_by(self.optimizers)
        return [self._numbers(network, held) for network in self.networks()]

    def _numbers(self, network: nn.Module, held: set[int]) -> dict[str, Any]:
        everything = {id(x): x for _, x in network.named_parameters()}
        trained = {id(x) for x in network.parameters() if x.requires_grad}
        frozen = everything.keys() - {id(x) for x in network.parameters()}
        changed = {i for i, x in everything.items() if i in self.before and not torch.equal(x, self.before[i])}
        return {
            "kind": type(network).__name__,
            "called": id(network) in self.called,
            "trained": len(trained),
            "in optimizer": len(trained & held),
            "with gradient": len(trained & self.graded),
            "changed": len(trained & changed),
            "frozen": len(frozen),
            "frozen in optimizer": len(frozen & held),
            "frozen changed": len(frozen & changed),
            "finite": all(bool(x.isfinite().all()) for x in everything.values()),
        }


def call_again(real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Repeat a call of the codebase; a function is answered where its name stands, not in the function itself."""
    return vars(sys.modules[real.__module__])[real.__name__](*args, **kwargs)


def held_by(optimizers: list[Optimizer]) -> set[int]:
    return {id(x) for optimizer in optimizers for group in optimizer.param_groups for x in group["params"]}


# -- checkpoints -----------------------------------------------------------------------------------------------


def save_and_load(watcher: Watcher) -> dict[str, Any]:
    """Save what was trained as its trainer does, load it into new networks, and compare every number."""
    trainer = find_trainer(watcher.networks())
    if trainer is None:
        for index, network in enumerate(watcher.networks()):
            torch.save(network.state_dict(), Path(SPEC["log"], f"{index}.pth"))
    else:
        needed = inspect.signature(trainer.save_model).parameters.values()
        trainer.save_model(*("weights" for parameter in needed if parameter.default is parameter.empty))
    files = sorted(Path(SPEC["log"]).rglob("*.pth"))
    states = [state for file in files for state in state_dicts(torch.load(file, weights_only=False))]
    compared = different = fresh = 0
    for network, build in list(watcher.built.items()):
        trained = network.state_dict()
        state = next((state for state in states if equal(state, trained)), None)
        if state is None:
            return {"by": "trainer" if trainer else "state_dict", "files": [f.name for f in files], "found": False}
        new = build()
        fresh += not equal(new.state_dict(), trained)
        new.load_state_dict({name: value for name, value in state.items() if name in trained})
        compared += 1
        different += not equal(new.state_dict(), trained)
    numbers = {"compared": compared, "different": different, "fresh": fresh}
    return {"by": "trainer" if trainer else "state_dict", "found": True, **numbers}


def find_trainer(networks: list[nn.Module]) -> Any:
    """Return the object with ``save_model`` that holds networks of ours; None where there is none."""
    for thing in gc.get_objects():
        if hasattr(type(thing), "save_model"):
            held = [x for value in vars(thing).values() for x in (value.values() if is_dict(value) else [value])]
            parts = {id(part) for module in held if isinstance(module, nn.Module) for part in module.modules()}
            if any(id(network) in parts for network in networks):
                return thing
    return None


def is_dict(value: Any) -> bool:
    return isinstance(value, dict | nn.ModuleDict)


def state_dicts(loaded: Any) -> Iterator[dict[str, Any]]:
    """Yield every state dict in a checkpoint, without what a wrapper puts before its names."""
    if isinstance(loaded, dict):
        yield {name.removeprefix("module."): value for name, value in loaded.items() if isinstance(name, str)}
        for inside in loaded.values():
            yield from state_dicts(inside)


def equal(state: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether a state dict holds all numbers of another one, bit by bit."""
    return all(torch.is_tensor(state.get(name)) and torch.equal(state[name], value) for name, value in other.items())


# -- undo ------------------------------------------------------------------------------------------------------


def own_modules() -> dict[str, dict[str, Any]]:
    """Return the names of every imported module of the checkout."""
    found = {name: vars(module) for name, module in list(sys.modules.items()) if name != "__main__"}
    return {name: dict(names) for name, names in found.items() if lies_inside(names)}


def lies_inside(names: dict[str, Any]) -> bool:
    places = [names.get("__file__"), *list(names.get("__path__") or ())]
    return any(isinstance(place, str) and os.path.realpath(place).startswith(ROOT + os.sep) for place in places)


def own_classes(modules: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the attributes of every class that the checkout defines."""
    values = itertools.chain.from_iterable(names.items() for names in modules.values())
    classes = [value for _, value in values if isinstance(value, type) and value.__module__ in modules]
    return {f"{cls.__module__}.{cls.__qualname__}": dict(vars(cls)) for cls in classes}


def left_behind(modules: dict[str, dict[str, Any]]) -> list[str]:
    """Return the names in a checkout under which something of ours is found."""
    found = []
    for title, names in (modules | own_classes(modules)).items():
        for name, value in names.items():
            code = getattr(value, "__code__", None)
            file = "" if code is None else os.path.realpath(code.co_filename)
            origin = str(getattr(value, "__module__", "")) or type(value).__module__
            of_ours = f"{os.sep}adapters{os.sep}" in file or type(value).__module__.startswith("hybrid_encoder")
            if of_ours or (origin.startswith("hybrid_encoder") and not name.startswith("__")):
                found.append(f"{title}.{name}")
    return found


def differences(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    found = [name for name in before if list(before[name]) != list(after.get(name, ()))]
    for title, names in before.items():
        found += [f"{title}.{name}" for name, value in names.items() if after.get(title, {}).get(name) is not value]
    return [name for name in found if not name.endswith(("__doc__", "__annotations__"))]


def patch_and_undo() -> list[str]:
    """Patch twice and undo twice, and return what is not what it was; the checkout's modules are forgotten then."""
    sys.path.insert(0, os.getcwd())
    patch().undo()
    modules = own_modules()
    problems = left_behind(modules)
    classes = own_classes(modules)
    patch().undo()
    problems += differences(modules, own_modules()) + differences(classes, own_classes(own_modules()))
    for name in modules:
        del sys.modules[name]
    sys.path.remove(os.getcwd())
    return problems


# -- the run ---------------------------------------------------------------------------------------------------


def patch() -> Patch:
    arguments = dict(SPEC["arguments"])
    target = [arguments.pop("target")] if "target" in arguments else []
    if SPEC["adapter"] != "generic":
        arguments["decoder_config"] = PRESETS["tiny"].decoder  # as patch("tiny") would take
    handle: Patch = getattr(adapters, SPEC["adapter"]).patch(*target, PARTLY_FROZEN, **arguments)
    return handle


def run(keep: Callable[[Patch], Patch]) -> None:
    if SPEC["command"]:
        run_script(SPEC["command"], lambda: keep(patch()))
    else:
        sys.path.insert(0, os.getcwd())
        keep(patch())
        getattr(family_networks, SPEC["drive"])()


def main() -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    if SPEC["packages"]:
        sys.path.append(SPEC["packages"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the checkouts draw from the global generator)
    family_machine.stand_in()
    result: dict[str, Any] = {"end": "the script ended", "steps": 0, "networks": []}
    handles: list[Patch] = []

    def keep(handle: Patch) -> Patch:
        handles.append(handle)
        return handle

    stopped: BaseException | None = None
    watcher = Watcher()
    try:
        result["undo"] = patch_and_undo()
        watcher.start()
        run(keep)
    except Enough as enough:
        result["end"], stopped = "enough", enough  # its traceback holds the trainer
    except BaseException as error:
        result |= {"end": type(error).__name__, "error": str(error), "trace": traceback.format_exc()[-3000:]}
    result |= {"steps": watcher.steps, "others": watcher.others, "networks": watcher.describe()}
    if watcher.images:
        lowest, highest = zip(*watcher.images, strict=True)
        result |= {"lowest": min(lowest), "highest": max(highest)}
    if watcher.built and (stopped or result["end"] == "the script ended"):
        try:
            result["saved"] = save_and_load(watcher)
        except Exception:
            result["saved"] = {"found": False, "trace": traceback.format_exc()[-3000:]}
    if handles:
        result |= {"replaced": handles[0].watch.replaced, "built": handles[0].built}
        handles[0].undo()
        result["left behind"] = left_behind(own_modules())
    return result


if __name__ == "__main__":
    Path(SPEC["result"]).write_text(json.dumps(main(), indent=1))
    sys.stdout.flush()
    os._exit(0)  # past what a trainer's threads and process groups still wait for

"""Whether a patch is used: its networks are built, an optimizer holds them, and gradients reach them."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from hybrid_encoder.errors import AdapterError

from .optimizers import keep_out
from .repository import Repository

LOG = logging.getLogger("hybrid_encoder.adapters")
"""Where a patch tells what it replaced, which networks it built, and that they train."""

FIX = (
    "Say what this codebase calls its depth network, with recipe=CodebaseRecipe(..., encoder=...) or "
    "adapters.generic.patch(...) (docs/your_codebase.md), or train it without the patch."
)


@dataclass(frozen=True)
class Built:
    """A network that a patch built.

    Args:
        name: what was replaced.
        kind: class of the network.
        network: as long as it lives.
        size: how many parameters it was built with, and how many of them train.
    """

    name: str
    kind: type[nn.Module]
    network: weakref.ref[nn.Module]
    size: str

    def __str__(self) -> str:
        network = self.network()
        told = self.size if network is None or "_parameters" not in vars(network) else size_of(network)
        return f"{self.name} -> {self.kind.__name__}, {told}"


def size_of(network: nn.Module) -> str:
    """Return how many parameters a network has, and how many of them train."""
    every = {id(x): x for _, x in network.named_parameters()}
    trained = sum(x.numel() for x in network.parameters() if x.requires_grad)
    return f"{sum(x.numel() for x in every.values()):,} parameters, {trained:,} of them train"


class Watch:
    """Knows what a patch built, and raises where a training goes on without it.

    Args:
        repository: whose trainings are watched.
        required: classes of ours without which no training makes sense, and what they are; the first is the depth
            encoder.
        before_step: is called before each step of an optimizer that holds parameters of ours.
    """

    def __init__(
        self,
        repository: Repository,
        required: Mapping[type[nn.Module], str],
        before_step: Callable[[Optimizer], None] = lambda optimizer: None,
    ) -> None:
        self.repository = repository
        self.before_step = before_step
        self.required = dict(required)
        self.replaced: list[str] = []  # what was replaced, for messages
        self.built: list[Built] = []
        self.asked = 0  # calls that reached a replaced name and were left to the repository
        self.with_gradient = False  # whether one ever reached a network of ours
        self._checked: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._stepped = False  # whether an optimizer that holds ours made a step
        self._ours: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # those that hold parameters of ours
        self._own: dict[str, None] = {}  # classes of the repository whose instances were built, outermost last
        self._inside: set[str] = set()  # those that were built as a part of another one
        self._hooks: list[Any] = []
        self._let_in: Callable[[], None] = lambda: None
        self._owned: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()  # whether the repository's

    def start(self) -> None:
        """Watch from now on."""
        WATCHES.add(self)
        self._hooks = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
            register_module_module_registration_hook(self._part_registered),
        ]
        self._let_in = keep_out(self._frozen)

    def stop(self) -> None:
        """Watch no longer; a second call does nothing."""
        WATCHES.discard(self)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._let_in()

    def note(self, name: str, network: nn.Module, owner: nn.Module) -> None:
        """Take note of a network of ours that was built.

        Args:
            name: in whose place.
            network: which was built.
            owner: the object that lives on as it.
        """
        built = Built(name, type(network), weakref.ref(owner), size_of(network))
        self.built.append(built)
        LOG.info("%s", built)

    def alive(self, kind: type[nn.Module]) -> list[nn.Module]:
        """Return the networks of a class that were built and still live."""
        found = [built.network() for built in self.built if issubclass(built.kind, kind)]
        return [network for network in found if network is not None]

    def _parameters(self) -> dict[int, nn.Parameter]:
        """Return what trains of the networks that were built and still live, by identity."""
        alive = [network for built in self.built if (network := built.network()) is not None]
        return {id(x): x for network in alive for x in network.parameters()}

    def _frozen(self) -> set[int]:
        """Return what our networks hold and do not hand to an optimizer, by identity."""
        alive = [network for built in self.built if (network := built.network()) is not None]
        return {id(x) for network in alive for _, x in network.named_parameters()} - self._parameters().keys()

    # -- while it trains ---------------------------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if optimizer not in self._checked:
            ours = self._parameters()
            held = {id(x) for group in optimizer.param_groups for x in group["params"]}
            self._check(optimizer, held, ours)
            self._checked.add(optimizer)
            if ours.keys() & held:
                self._ours.add(optimizer)
                self._stepped = True
        if optimizer in self._ours:
            self.before_step(optimizer)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Not before it: a step may compute its gradients itself, by a closure.
        if not self.with_gradient and optimizer in self._ours:
            ours = self._parameters()
            held = [x for group in optimizer.param_groups for x in group["params"]]
            self.with_gradient = any(x.grad is not None for x in held if id(x) in ours)

    def _check(self, optimizer: Optimizer, held: set[int], ours: Mapping[int, nn.Parameter]) -> None:
        """Raise AdapterError if a training of the repository's networks goes on without ours."""
        if not ours.keys() & held and any(other._parameters().keys() & held for other in WATCHES if other is not self):
            return  # another patch in the same repository is used
        trainers = self._owners(held)
        if not ours.keys() & held and not trainers:
            return  # somebody else's training
        instead = f"{type(optimizer).__name__} trains {', '.join(trainers[:4]) or 'other networks'}"
        replaced = f"patch() stands ready in the place of {', '.join(self.replaced)}"
        for kind, title in self.required.items():
            if not self.alive(kind):
                raise AdapterError(
                    f"this training does not use the hybrid encoder: no {title} of it was built, and {instead}; "
                    f"{replaced}, which nobody asked for one. {FIX}"
                )
        everywhere = parameters_of_optimizers()
        for kind, title in self.required.items():
            trained = [x for network in self.alive(kind) for x in network.parameters() if x.requires_grad]
            missing = [x for x in trained if id(x) not in everywhere]
            if trained and len(missing) == len(trained):
                raise AdapterError(
                    f"this training does not train the hybrid encoder: its {title} was built, and no optimizer holds a "
                    f"parameter of it; {instead}. Hand its parameters() to an optimizer, or freeze it if that is meant."
                )
            if missing:
                LOG.warning("%d of %d parameters of the %s are in no optimizer", len(missing), len(trained), title)
        if count := len(ours.keys() & held):
            LOG.info("%s holds %d parameters of the hybrid encoder's networks", type(optimizer).__name__, count)

    def _owners(self, held: set[int]) -> list[str]:
        """Return which classes of the repository hold parameters of an optimizer: encoders before others."""
        found: dict[str, bool] = {}
        for thing in gc.get_objects():
            kind = type(thing)  # not isinstance, which may run what a lazy object does with __class__
            if not issubclass(kind, nn.Module) or not self._is_own(kind) or "_parameters" not in vars(thing):
                continue
            if any(id(x) in held for x in thing.parameters()):
                name = f"{kind.__module__}.{kind.__qualname__}"
                found[name] = found.get(name, False) or "num_ch_enc" in vars(thing)
        return sorted(found, key=lambda name: not found[name])

    def _is_own(self, kind: type) -> bool:
        if kind not in self._owned:
            module = sys.modules.get(kind.__module__)
            self._owned[kind] = module is not None and self.repository.owns(vars(module).get("__file__"))
        return self._owned[kind]

    # -- at the end --------------------------------------------------------------------------------------

    def _part_registered(self, module: nn.Module, name: str, part: nn.Module | None) -> None:
        for kind, names in ((type(module), self._own), (type(part), self._inside)):
            title = f"{kind.__module__}.{kind.__qualname__}"
            if title in names or not self._is_own(kind):
                continue
            if names is self._own:
                self._own[title] = None
            else:
                self._inside.add(title)

    def check_used(self) -> None:
        """Raise AdapterError if a program that has ended built networks, and none of ours, or never trained ours.

        A program that builds no network at all, as one that prepares data, passes.
        """
        own = [name for name in self._own if name not in self._inside]
        if not self.built and not self.asked and own:
            raise AdapterError(
                f"the program did not use the hybrid encoder: it built {', '.join(own[:4])}, and asked for none of "
                f"{', '.join(self.replaced)}. {FIX}"
            )
        if self._stepped and not self.with_gradient:
            raise AdapterError(
                "the program trained without the hybrid encoder: its parameters are in an optimizer, and no gradient "
                "ever reached them. Look at where the loss takes its disparity from."
            )

    def lines(self) -> list[str]:
        """Return one line for each network that was built."""
        return [str(built) for built in self.built]


WATCHES: weakref.WeakSet[Watch] = weakref.WeakSet()  # those at work


def parameters_of_optimizers() -> set[int]:
    """Return every parameter that an optimizer in this process holds."""
    optimizers: Iterable[Any] = [x for x in gc.get_objects() if issubclass(type(x), Optimizer)]
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def holders_of(attribute: str, value: Any) -> list[str]:
    """Return the classes of modules that hold an object under an attribute."""
    kinds = {type(x) for x in gc.get_objects() if issubclass(type(x), nn.Module) and vars(x).get(attribute) is value}
    return sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)

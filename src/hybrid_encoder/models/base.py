"""What all models have in common: parts that train or not, optimizer groups, loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from torch import nn
from typing_extensions import Self

from hybrid_encoder.checkpoints.filling import fill, no_initialisation
from hybrid_encoder.checkpoints.history import History
from hybrid_encoder.checkpoints.hub import HubModel
from hybrid_encoder.checkpoints.reading import Checkpoint, read_checkpoint
from hybrid_encoder.config import MIN_SIZE, HybridEncoderConfig, find_encoder_config
from hybrid_encoder.config.checking import Within, check_value, shown
from hybrid_encoder.errors import CheckpointError, ConfigError, InputError
from hybrid_encoder.language.prompts import DepthPrompts
from hybrid_encoder.towers.base import set_frozen_to_eval

M = TypeVar("M", bound=nn.Module)
C = TypeVar("C")
MAX_AREA = 64_000_000  # pixels to work at; what is larger needs hundreds of gigabytes


class HybridModel(HubModel):
    """A model made of named parts, each of which trains or is frozen.

    Attributes:
        config_class: the kind of its configuration.
    """

    config_class: ClassVar[type[Any]]

    # -- what trains -------------------------------------------------------------------------------------

    def part_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters by part, frozen ones included."""
        raise NotImplementedError

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the configuration or ``set_trainable`` froze, whatever their flags are now."""
        raise NotImplementedError

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute the towers' activations in the backward pass."""
        raise NotImplementedError

    def fold_prompts(self) -> None:
        """Put the prompts' matrix in the place of their text tower, for prediction with less memory.

        The numbers stay. Afterwards prompts and text tower cannot train, and the weights cannot be saved: load the
        checkpoint again for that. Without prompts nothing happens.
        """
        raise NotImplementedError

    def text_size(self) -> tuple[tuple[int, ...], int]:
        """Return which token embeddings and how many positions the prompts keep of CLIP's text tower."""
        raise NotImplementedError

    def parameter_groups(
        self, lr: float, *, lr_scale: Mapping[str, float] | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """Return optimizer groups, one for each part that has something to train; no frozen parameter is in them.

        Args:
            lr: learning rate.
            lr_scale: factors on ``lr`` by part, for example ``{"spatial": 0.1}``.
            options: further entries of every group, for example ``weight_decay``.

        Raises:
            ConfigError: a factor for a part that does not exist; rates or factors that are no numbers from 0 up.
        """
        parts = self.part_parameters()
        for name, value in {"lr": lr, **{f"lr_scale[{part!r}]": x for part, x in (lr_scale or {}).items()}}.items():
            check_value(Annotated[float, Within(0, 1e6)], value, name)
        scale = dict(lr_scale or {})
        if unknown := sorted(set(scale) - set(parts)):
            raise ConfigError(f"lr_scale names {unknown[0]!r}; the parts are {', '.join(parts)}.")
        groups = []
        for name, parameters in parts.items():
            trainable = [parameter for parameter in parameters if parameter.requires_grad]
            if trainable:
                groups.append({"name": name, "params": trainable, "lr": lr * scale.get(name, 1.0), **options})
        return groups

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; wholly frozen parts stay in evaluation mode, batch norm included."""
        super().train(mode)
        if mode:
            set_frozen_to_eval(self)
        return self

    # -- loading -----------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, source: str | Path, *, config: Any = None, **hub: Any) -> Self:
        """Load a trained model, in evaluation mode. It never downloads a backbone that it is about to overwrite.

        Args:
            source: ``"tiny"`` (ships in the package), a folder, a stage-1 ``.ckpt`` file, or a Hub id; ours or the
                published layout.
            config: overrides what is read off the checkpoint.
            hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

        Raises:
            CheckpointError: not found, unreadable, or not what this model needs.
        """
        return cls.from_checkpoint(read_checkpoint(source, **hub), config)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, config: Any = None) -> Self:
        """Build the model of a checkpoint that was read before, in evaluation mode.

        Args:
            checkpoint: of this model, or of a whole model whose encoder this is.
            config: overrides the checkpoint's.

        Raises:
            CheckpointError: not what this model needs; other words than the checkpoint has kept.
        """
        stored, prefix = checkpoint.part(cls.config_class)
        try:
            with no_initialisation():
                model = cls(config or stored, pretrained=False)
        except Exception as error:  # whatever the libraries raise where sizes do not go together
            if config is not None or isinstance(error, CheckpointError):
                raise
            reason = f"{error}" if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{checkpoint.path} describes a model that cannot be built ({reason}).") from error
        if config is not None and checkpoint.layout not in ("published", "stage1"):  # these hold all of CLIP's words
            _check_words(model, find_encoder_config(stored), checkpoint.path)
        fill(model, checkpoint.state(prefix, model.config, *model.text_size()), checkpoint.path)
        model.training_history = checkpoint.history
        return model.eval()


class EncoderHolder(HybridModel):
    """A model around another one, which keeps the parts of its encoder and adds one of its own.

    Attributes:
        encoder: what it is built around.
        own_part: the name of the part that it adds.
    """

    encoder: Any
    own_part: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._own_trains = True

    @property
    def training_history(self) -> History | None:
        """The trainings that its weights have been through: those of its encoder, which it was trained with."""
        history: History | None = self.encoder.training_history
        return history

    @training_history.setter
    def training_history(self, history: History | None) -> None:
        self.encoder.training_history = history

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the part that this model adds."""
        raise NotImplementedError

    def part_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters by part: those of the encoder, and this model's own."""
        return {**self.encoder.part_parameters(), self.own_part: self.own_parameters()}

    def frozen_parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.frozen_parameters(), *([] if self._own_trains else self.own_parameters())]

    def set_trainable(self, **parts: Any) -> None:
        """Freeze or release parts; None leaves a part as it is.

        Args:
            parts: by name, as in :meth:`part_parameters`; values are those of ``HybridDepthEncoder.set_trainable``.

        Raises:
            TypeError: a part that does not exist.
        """
        known = list(self.part_parameters())
        if unknown := sorted(set(parts) - set(known)):
            raise TypeError(f"set_trainable() got the unknown part {unknown[0]!r}; the parts are {', '.join(known)}.")
        own = parts.pop(self.own_part, None)
        if own is not None:
            self._own_trains = bool(own)
            for parameter in self.own_parameters():
                parameter.requires_grad_(self._own_trains)
        self.encoder.set_trainable(**parts)
        self.train(self.training)

    def _follow_encoder(self) -> None:
        """Take over the encoder's configuration: its prompts or depth bins may have been replaced since."""
        if isinstance(self.encoder, EncoderHolder):
            self.encoder._follow_encoder()
        self.config = self.config.replace(encoder=self.encoder.config)

    def _save_pretrained(self, save_directory: Path) -> None:
        self._follow_encoder()
        super()._save_pretrained(save_directory)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.encoder.set_grad_checkpointing(enable)

    def fold_prompts(self) -> None:
        self.encoder.fold_prompts()

    def text_size(self) -> tuple[tuple[int, ...], int]:
        size: tuple[tuple[int, ...], int] = self.encoder.text_size()
        return size


def _check_words(model: nn.Module, stored: HybridEncoderConfig, path: Path) -> None:
    """Raise CheckpointError where a model's prompts read other tokens than those whose rows a checkpoint holds."""
    prompts = next((module for module in model.modules() if isinstance(module, DepthPrompts)), None)
    if prompts is not None and stored.prompts is not None and not prompts.has_words_of(stored.prompts):
        raise CheckpointError(
            f"{path} holds the words of its own prompts alone, and the prompts of the given configuration have others; "
            "leave them as they are, and choose among the words that are there with set_prompts()."
        )


def in_evaluation(module: M) -> M:
    """Return the module for evaluation mode, and leave its own mode alone: other threads may be using it.

    One that is in evaluation mode throughout is returned itself; of another, a twin with the same parameters, buffers
    and hooks. Compiled parts run uncompiled in the twin.
    """
    if not any(part.training for part in module.modules()):
        return module
    made: dict[int, nn.Module] = {}

    def twin(part: nn.Module) -> nn.Module:
        if "_orig_mod" in part._modules:  # torch.compile's, which calls the module that it was made from
            return twin(part._modules["_orig_mod"])  # type: ignore[arg-type]
        if id(part) not in made:
            made[id(part)] = copied = object.__new__(type(part))
            vars(copied).update(
                {name: _rebound(value, part, copied) for name, value in vars(part).items()},
                _modules={name: None if child is None else twin(child) for name, child in part._modules.items()},
                _compiled_call_impl=None,
                training=False,
            )
        return made[id(part)]

    return twin(module)  # type: ignore[return-value]  # of the same class


def _rebound(value: object, old: object, new: object) -> object:
    """Return a method that was set on an object as one of another object; anything else as it is."""
    if isinstance(value, MethodType) and value.__self__ is old:
        return MethodType(value.__func__, new)
    return value


def find_config(kind: type[C], config: str | C) -> C:
    """Return the configuration of a preset's name; one of this kind as it is.

    Raises:
        ConfigError: neither.
    """
    if isinstance(config, str):
        preset: C = kind.preset(config)  # type: ignore[attr-defined]  # every configuration of a model has presets
        return preset
    if not isinstance(config, kind):
        raise ConfigError(f"config is {shown(config)}; a {kind.__name__} is needed, or the name of a preset.")
    return config


def check_working_size(size: object) -> None:
    """Raise InputError unless this is a height and a width to work at."""
    if not _is_size(size, MIN_SIZE) or size[0] * size[1] > MAX_AREA:  # type: ignore[index]  # it was looked at
        raise InputError(
            f"size is {shown(size)}; height and width are needed, two whole numbers of at least {MIN_SIZE}, "
            f"for example (192, 640), and of {MAX_AREA // 10**6} megapixels at most."
        )


def check_image_size(size: object) -> None:
    """Raise InputError unless this is the height and width of an image. Under a compiler, which has symbols, it is."""
    if not torch.compiler.is_compiling() and not _is_size(size, 1):
        raise InputError(f"image_size is {shown(size)}; (H, W) of the images is needed, two whole numbers above 0.")


def _is_size(size: object, least: int) -> bool:
    sides = size if isinstance(size, (tuple, list)) else ()
    return len(sides) == 2 and all(type(side) in (int, torch.SymInt) and side >= least for side in sides)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and back into the mode that it was in."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)

"""What predicts depth for the images of a test set: a network, a file of saved predictions, anybody's function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hybrid_encoder.config.checking import shown
from hybrid_encoder.data.opening import expanded, is_file
from hybrid_encoder.errors import InputError, shortened
from hybrid_encoder.evaluation.samples import Sample

Gives: TypeAlias = Literal["disparity", "depth"]
GIVES: tuple[Gives, ...] = ("disparity", "depth")


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one image, at the predictor's own size.

    Args:
        values: (h, w), finite: depth above 0, or disparity from 0 up, where 0 is infinitely far.
        gives: ``"disparity"``, which is 1 / depth (Monodepth2 calls it scaled disparity), or ``"depth"``; in metres or
            without a scale.
        logits: how similar every place is to every prompt, near before far, (n, h, w); None without words.
    """

    values: NDArray[Any]
    gives: Gives
    logits: Tensor | None = None

    def disparity(self, name: str) -> Tensor:
        """Return 1 / depth, float64, (h, w).

        Args:
            name: of the sample, for the error.

        Raises:
            InputError: no map of numbers, or numbers that no depth has.
        """
        values: Any = self.values
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
            what = f"{values.shape} of {values.dtype}" if isinstance(values, np.ndarray) else shown(values)
            raise InputError(f"{name}: the prediction is {what}; one map of numbers is needed, (H, W).")
        found = torch.from_numpy(values.astype(np.float64))
        bad = ~found.isfinite() | ((found <= 0) if self.gives == "depth" else (found < 0))
        if num_bad := int(bad.sum()):
            rule = "finite and above 0" if self.gives == "depth" else "finite and not below 0"
            raise InputError(
                f"{name}: {num_bad} of {bad.numel()} predictions are no {self.gives}, such as "
                f"{float(found[bad][0]):g}; all must be {rule}."
            )
        return 1 / found if self.gives == "depth" else found


class Predictor(ABC):
    """What is evaluated: one map for every image.

    Attributes:
        name: what predicts, in words.
        metric: whether depth is in metres; where it is not, predictions are scaled to the ground truth.
        settings: all that its predictions depend on, as JSON has it.
    """

    name: str
    metric: bool = False
    settings: Mapping[str, Any] = {}

    def check(self, samples: Sequence[Sample]) -> None:  # noqa: B027  (most predict any image)
        """Check, before the first prediction, that these images can be predicted.

        Raises:
            InputError: they cannot.
        """

    @abstractmethod
    def predict(self, sample: Sample) -> Prediction:
        """Predict one image.

        Raises:
            InputError: an image that cannot be read.
        """


class FunctionPredictor(Predictor):
    """Anybody's function or network, as it is.

    Args:
        function: takes RGB in [0, 1], float32, (1, 3, H, W), on the CPU, to a map of any size: a tensor or an array,
            (h, w), with any dimensions of 1 before.
        gives: what its numbers are: ``"disparity"``, 1 / depth, or ``"depth"``. The sigmoid of Monodepth2's decoder is
            neither: give its ``disp_to_depth`` of it.
        metric: its depth is in metres, and is not scaled.
        size: (H, W) to which images are resized first, as Monodepth2's loader does (Pillow's Lanczos); by default the
            function is given images of their own size.
        name: by default the function's.

    Raises:
        InputError: ``gives`` is something else.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        gives: Gives,
        *,
        metric: bool = False,
        size: tuple[int, int] | None = None,
        name: str | None = None,
    ) -> None:
        self.function, self.gives, self.size, self.metric = function, _checked(gives), size, metric
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.settings = {"gives": gives, "size": None if size is None else list(size)}

    @torch.no_grad()
    def predict(self, sample: Sample) -> Prediction:
        found: Any = self.function(image_tensor(sample.read_image(), self.size))
        values = np.asarray(found.detach().cpu().float() if isinstance(found, Tensor) else found)
        if values.ndim > 2 and values.shape[:-2] == (1,) * (values.ndim - 2):
            values = values.reshape(values.shape[-2:])
        return Prediction(values, self.gives)


class SavedPredictions(Predictor):
    """Predictions in a file, one map for each image in the order of the test set.

    Args:
        file: .npy, (N, h, w) or (N, 1, h, w), as Monodepth2's ``--save_pred_disps`` and ManyDepth's write it, and as
            its ``--ext_disp_to_eval`` reads it. It is read map by map.
        gives: ``"disparity"``, 1 / depth, as those are, or ``"depth"``.
        metric: its depth is in metres, and is not scaled.

    Raises:
        InputError: no such file, or none of that kind.
    """

    def __init__(self, file: str | Path, gives: Gives = "disparity", *, metric: bool = False) -> None:
        self.file, self.gives, self.metric = expanded(file), _checked(gives), metric
        self.maps = _open_maps(self.file)
        self.name = str(file)
        self.settings = {"gives": gives, "size": list(self.maps.shape[-2:])}

    def check(self, samples: Sequence[Sample]) -> None:
        if len(samples) != len(self.maps):
            raise InputError(
                f"{self.file} holds {len(self.maps)} predictions, and {len(samples)} images are evaluated; give the "
                "predictions of the same split, in its order."
            )

    def predict(self, sample: Sample) -> Prediction:
        return Prediction(np.array(self.maps[sample.index]), self.gives)


def _open_maps(file: Path) -> NDArray[Any]:
    """Return the maps of a file, (N, h, w), left on the disk."""
    rule = "an array of numbers (N, H, W) is needed, as numpy.save writes it"
    if not is_file(file):
        raise InputError(f"{file} is no file; give the .npy file of the predictions.")
    try:
        maps: Any = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, EOFError, SyntaxError, MemoryError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or shortened(str(error), 120)
        raise InputError(f"{file} cannot be read ({reason}); {rule}.") from None
    if not isinstance(maps, np.ndarray):
        raise InputError(f"{file} is an archive of arrays; {rule}.")
    shape = maps.shape
    if maps.ndim == 4 and shape[1] == 1:
        maps = maps[:, 0]
    if maps.ndim != 3 or maps.dtype.kind not in "fiu" or not maps.size:
        raise InputError(f"{file} holds {shape} of {maps.dtype}; {rule}.")
    found: NDArray[Any] = maps
    return found


def image_tensor(image: NDArray[np.uint8], size: tuple[int, int] | None = None) -> Tensor:
    """Return an image, RGB uint8 (H, W, 3), as a network is given it: [0, 1], float32, (1, 3, h, w).

    Args:
        image: of a sample.
        size: (h, w) to resize to by Pillow's Lanczos filter, on 8 bits, as the loaders of Monodepth2 and ManyDepth do.
    """
    if size is not None and size != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def _checked(gives: Gives) -> Gives:
    if gives not in GIVES:
        raise InputError(f"gives is {shown(gives)}; it must be 'disparity' (1 / depth) or 'depth'.")
    return gives

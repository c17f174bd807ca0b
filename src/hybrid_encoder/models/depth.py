"""Encoder and decoder: from an image to disparity and depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from torch import Tensor

from hybrid_encoder.config import HybridDepthConfig
from hybrid_encoder.config.checking import shown
from hybrid_encoder.data.conversion import ImageLike, to_image
from hybrid_encoder.errors import InputError
from hybrid_encoder.models.base import find_config, in_evaluation
from hybrid_encoder.models.decoders import build_decoder
from hybrid_encoder.models.depth_model import DepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.image_checks import check_images
from hybrid_encoder.models.prediction import DepthPrediction
from hybrid_encoder.models.resizing import resized_to
from hybrid_encoder.models.sizes import Size, WorkingSize

# Pictures that go through the network together where nobody says how many.
MOST_AT_ONCE, PIXELS_AT_ONCE = 8, 1_000_000


class PreparedImage(NamedTuple):
    """A picture that is ready for the network.

    Attributes:
        source: as it was given.
        size: its (H, W).
        pixels: (1, 3, h, w) at the size to work at, on the model's device.
    """

    source: ImageLike
    size: Size
    pixels: Tensor

    @property
    def most_at_once(self) -> int:
        """How many pictures like this one go through the network together, where nobody says."""
        return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (self.pixels.shape[-2] * self.pixels.shape[-1])))


class HybridDepthModel(DepthModel):
    """The hybrid encoder with a decoder, DPT's or Monodepth2's.

    Args:
        config: a preset name (``"paper"``, ``"small"``, ``"large"``, ``"tiny"``) or a configuration.
        pretrained: start the towers from the weights that the configuration names; the rest starts from random ones.
        encoder: use this one, itself and not a copy, with an untrained decoder: a stage-1 result, say. The
            configuration's part for the encoder is not read then.
    """

    config: HybridDepthConfig
    config_class = HybridDepthConfig
    encoder: HybridDepthEncoder

    def __init__(
        self,
        config: str | HybridDepthConfig = "paper",
        *,
        pretrained: bool = True,
        encoder: HybridDepthEncoder | None = None,
    ) -> None:
        super().__init__()
        config = find_config(HybridDepthConfig, config)
        self.encoder = HybridDepthEncoder(config.encoder, pretrained=pretrained) if encoder is None else encoder
        self.decoder = build_decoder(self.encoder.feature_info.channels(), config.decoder)
        self.config = config.replace(encoder=self.encoder.config)

    def forward(self, images: Tensor) -> Tensor:
        """Take RGB in [0, 1], (B, 3, H, W) with H and W from 32 up, to disparity (B, 1, H, W).

        It is the decoder's finest scale, resized (bilinear) where that is not 0.
        """
        return self._finest(self.forward_scales(images), (images.shape[-2], images.shape[-1]))

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def picture_settings(self) -> dict[str, Any]:
        return {
            "image_processor_type": "HybridDepthImageProcessor",
            "size": self.config.size and dict(zip(("height", "width"), self.config.size, strict=True)),
            "patch_size": self._hybrid_encoder.stride,
            "depth_estimation_type": "metric" if self.config.metric else "relative",
        }

    def forward_scales(self, images: Tensor) -> dict[int, Tensor]:
        """Return the disparity of every scale of the decoder: {s: (B, 1, H // 2**s, W // 2**s)}."""
        outputs: dict[int, Tensor] = self.decoder(self.encoder(images), (images.shape[-2], images.shape[-1]))
        return outputs

    @overload
    def infer(
        self, images: ImageLike, size: WorkingSize = None, *, batch_size: int | None = None, words: bool = False
    ) -> DepthPrediction: ...

    @overload
    def infer(
        self,
        images: list[Any] | tuple[Any, ...],
        size: WorkingSize = None,
        *,
        batch_size: int | None = None,
        words: bool = False,
    ) -> list[DepthPrediction]: ...

    def infer(
        self,
        images: ImageLike | list[Any] | tuple[Any, ...],
        size: WorkingSize = None,
        *,
        batch_size: int | None = None,
        words: bool = False,
    ) -> DepthPrediction | list[DepthPrediction]:
        """Predict as in evaluation mode, at the size of the pictures; the model's own mode stays as it is.

        Args:
            images: one picture, a path, a PIL image, an array or a tensor as :func:`to_image` takes them; a batch of
                one size, a tensor (B, 3, H, W); or a list of pictures, in mixed kinds and sizes.
            size: to work at. By default the one that the weights were fitted at where the picture's aspect is within
                25 % of its, else as many pixels at the picture's own aspect (:func:`right_size`); ``"native"`` is the
                picture's own, and (H, W), from 32 up, any other.
            batch_size: pictures that the network sees at once. By default all of a tensor; of a list up to 8, fewer
                where they are large.
            words: keep what the prompts say, as ``prediction.words``.

        Returns:
            The prediction for a picture or a batch; a list of them for a list.

        Raises:
            InputError: pictures of another kind, shape, type or value range; a size that cannot be; words of a model
                without prompts.
        """
        check_batch_size(batch_size)
        if words:
            self.check_words()
        if isinstance(images, (list, tuple)):
            if not images:
                raise InputError("images is an empty list; at least one picture is needed.")
            return list(self.infer_stream(images, size, batch_size=batch_size, words=words))
        if isinstance(images, Tensor) and images.ndim == 4:
            return self._infer_batch(images, size, batch_size, words)
        return next(self._stream([("images", images)], size, batch_size, words))

    def infer_stream(
        self,
        images: Iterable[ImageLike | PreparedImage],
        size: WorkingSize = None,
        *,
        batch_size: int | None = None,
        words: bool = False,
    ) -> Iterator[DepthPrediction]:
        """Predict pictures as they come, in their order, in the memory of one batch; ``infer`` of a list uses it.

        Args:
            images: pictures as for :meth:`infer`, or what :meth:`prepare` made of them. Those next to each other that
                are worked at in one size are seen at once.
            size, batch_size, words: as for :meth:`infer`.

        Raises:
            InputError: as :meth:`infer`, when the picture's turn comes.
        """
        check_batch_size(batch_size)
        if words:
            self.check_words()
        named = ((f"images[{index}]", image) for index, image in enumerate(images))
        return self._stream(named, size, batch_size, words)

    def prepare(self, image: ImageLike, size: WorkingSize = None, name: str = "image") -> PreparedImage:
        """Return a picture at the size to work at, on the model's device: what of ``infer`` can be done before.

        Args:
            image, size: as for :meth:`infer`.
            name: what errors call it.

        Raises:
            InputError: as :meth:`infer`.
        """
        pixels = to_image(image, name)
        own = (pixels.shape[-2], pixels.shape[-1])
        return PreparedImage(image, own, self._resized(pixels[None], self.working_size(own, size)))

    def _stream(
        self,
        images: Iterable[tuple[str, ImageLike | PreparedImage]],
        size: WorkingSize,
        batch_size: int | None,
        words: bool,
    ) -> Iterator[DepthPrediction]:
        waiting: list[PreparedImage] = []
        for name, image in images:
            ready = image if isinstance(image, PreparedImage) else self.prepare(image, size, name)
            if waiting and waiting[0].pixels.shape != ready.pixels.shape:
                yield from self._predicted(waiting, words)
                waiting = []
            waiting.append(ready)
            if len(waiting) >= (batch_size or ready.most_at_once):
                yield from self._predicted(waiting, words)
                waiting = []
        if waiting:
            yield from self._predicted(waiting, words)

    def _infer_batch(self, images: Tensor, size: WorkingSize, batch_size: int | None, words: bool) -> DepthPrediction:
        floats = images.float() / 255 if images.dtype == torch.uint8 else images
        check_images(floats)
        own = (images.shape[-2], images.shape[-1])
        small = self._resized(floats, self.working_size(own, size))
        parts = [self._decoded(part, words) for part in small.split(batch_size or len(small))]
        disparity = torch.cat([resized_to(one, own) for one, _ in parts])
        said = [logits for _, logits in parts if logits is not None]
        return self._prediction(disparity, images, self._words(torch.cat(said), small) if said else None)

    def _predicted(self, images: Sequence[PreparedImage], words: bool) -> Iterator[DepthPrediction]:
        pixels = torch.cat([image.pixels for image in images])
        disparity, logits = self._decoded(pixels, words)
        said = None if logits is None else self._words(logits, pixels)
        for index, image in enumerate(images):
            resized = resized_to(disparity[index : index + 1], image.size)[0]
            yield self._prediction(resized, image.source, None if said is None else said[index])

    @torch.inference_mode()
    def _decoded(self, images: Tensor, words: bool) -> tuple[Tensor, Tensor | None]:
        """Return disparity and, where they are asked for, the words' logits."""
        model = in_evaluation(self)
        disparity, logits = model.forward_words(images) if words else (model(images), None)
        return disparity.float(), logits


def check_batch_size(batch_size: int | None) -> None:
    """Raise InputError unless this is a number of pictures, or None."""
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise InputError(f"batch_size is {shown(batch_size)}; a whole number from 1 up is needed, or None.")

"""What decoders may expect of an encoder, as a class of pytest tests to subclass.

```python
from hybrid_encoder.testing import EncoderContract


class TestMyEncoder(EncoderContract):
    channels = (64, 64, 128, 256, 512)
    strides = (2, 4, 8, 16, 32)

    def make(self):
        return MyEncoder()
```

The towers, the encoder and the adapters of this library are held to the same class.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EncoderContract:
    """Subclass it under a name that starts with ``Test``, declare ``channels`` and ``strides``, define ``make``.

    Attributes:
        channels: of every map, in their order.
        strides: of every map; a map is H / stride x W / stride, rounded up or down.
        sizes: of the images that are tried, (H, W).
        tolerance: largest absolute difference of maps that should be the same.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    sizes: Sequence[tuple[int, int]] = ((64, 96), (96, 64), (70, 106))
    tolerance: float = 1e-4

    def make(self) -> nn.Module:
        """Return a new encoder. Random numbers have been seeded; it must not need the network."""
        raise TypeError(f"{type(self).__name__} defines no make(); let it return a new encoder.")

    def features(self, encoder: nn.Module, images: Tensor) -> Sequence[Tensor]:
        """Return the maps of RGB images in [0, 1], (B, 3, H, W); override it where a call returns something else."""
        maps: Sequence[Tensor] = encoder(images)
        return maps

    def test_channels_and_strides_are_as_declared_for_any_size(self) -> None:
        encoder = self._make().eval()
        assert len(self.channels) == len(self.strides), "channels and strides have different lengths"
        for batch, size in enumerate(self.sizes, start=1):
            maps = self._run(encoder, self._images(size, batch))
            assert len(maps) == len(self.channels), f"{len(maps)} maps, {len(self.channels)} declared"
            for level, (x, channels, stride) in enumerate(zip(maps, self.channels, self.strides, strict=True)):
                where = f"map {level} of {batch} images of {size} is {tuple(x.shape)}"
                assert x.shape[:2] == (batch, channels), f"{where}; its channels are declared as {channels}"
                for got, whole in zip(x.shape[2:], size, strict=True):
                    rounded = (math.floor(whole / stride), math.ceil(whole / stride))
                    assert got in rounded, f"{where}; its stride is declared as {stride}"
                assert x.isfinite().all(), f"{where} and not finite"

    def test_its_attributes_give_the_declared_channels_and_strides(self) -> None:
        encoder = self._make()
        info = getattr(encoder, "feature_info", None)
        for told in (getattr(encoder, "num_ch_enc", None), info and info.channels()):
            assert told is None or [int(x) for x in told] == list(self.channels), f"it says {told}"
        assert info is None or list(info.reduction()) == list(self.strides), f"it says {info.reduction()}"

    def test_images_of_a_batch_do_not_see_each_other(self) -> None:
        encoder, images = self._make().eval(), self._images(self.sizes[0], 2)
        self._assert_same([x[1:] for x in self._run(encoder, images)], self._run(encoder, images[1:]))

    def test_another_size_in_between_changes_nothing(self) -> None:
        encoder, images = self._make().eval(), self._images(self.sizes[0])
        first = self._run(encoder, images)
        self._run(encoder, self._images(self.sizes[-1]))
        self._assert_same(first, self._run(encoder, images))

    def test_a_frozen_encoder_does_not_change_in_training_mode(self) -> None:
        encoder = self._make()
        for parameter in _parameters(encoder).values():
            parameter.requires_grad_(False)
        before = copy.deepcopy(encoder.state_dict())
        encoder.train()
        self._run(encoder, self._images(self.sizes[0], 2))
        changed = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
        assert not changed, f"{changed[0]} changed in training mode, though every parameter is frozen"

    def test_the_gradient_reaches_every_parameter_that_trains(self) -> None:
        encoder = self._make().train()
        maps = self.features(encoder, self._images(self.sizes[0], 2))
        torch.stack([x.square().mean() for x in maps if x.numel()]).sum().backward()
        silent = [name for name, p in _parameters(encoder).items() if p.requires_grad and p.grad is None]
        assert not silent, f"no gradient reaches {silent[0]} ({len(silent)} in all)"

    def test_it_moves_with_its_module(self) -> None:
        # Every machine has the meta device, and an operation on it fails with a tensor that was left on the CPU.
        shapes = [x.shape for x in self._run(self._make().eval(), self._images(self.sizes[0]))]
        for device in ["meta", *(["cuda"] if torch.cuda.is_available() else [])]:
            encoder = self._make().eval().to(device)
            maps = self._run(encoder, self._images(self.sizes[0]).to(device))
            assert {x.device.type for x in maps} == {device}, (
                f"the maps are on {sorted({x.device.type for x in maps})}, not on {device}"
            )
            assert [x.shape for x in maps] == shapes

    def test_a_state_dict_holds_everything(self) -> None:
        encoder, other, images = self._make().eval(), self._make(seed=1).eval(), self._images(self.sizes[0])
        other.load_state_dict(copy.deepcopy(encoder.state_dict()), strict=True)
        self._assert_same(self._run(encoder, images), self._run(other, images))

    def _make(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.make()

    def _images(self, size: tuple[int, int], batch: int = 1) -> Tensor:
        return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))

    def _run(self, encoder: nn.Module, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(self.features(encoder, images))

    def _assert_same(self, maps: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        for level, (x, y) in enumerate(zip(maps, others, strict=True)):
            difference = (x - y).abs().max().item() if x.numel() else 0.0
            assert difference <= self.tolerance, f"map {level} differs by {difference:.2g}"


def _parameters(encoder: nn.Module) -> dict[str, nn.Parameter]:
    # An adapter's parameters() may leave out what an optimizer should not get; named_parameters() has all.
    return dict(encoder.named_parameters())

"""A small repository of our own with Monodepth2's interface."""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

RESNET = """
    import numpy as np
    import torch.nn as nn

    class ResnetEncoder(nn.Module):
        \"\"\"Strided convolutions in a ResNet's place.\"\"\"
        def __init__(self, num_layers, pretrained, num_input_images=1):
            super(ResnetEncoder, self).__init__()
            self.num_ch_enc = np.array([2, 2, 4, 4, 8])
            channels = [3 * num_input_images, *self.num_ch_enc]
            self.convs = nn.ModuleList(
                nn.Conv2d(int(a), int(b), 3, 2, 1) for a, b in zip(channels, channels[1:])
            )

        def forward(self, images):
            features = []
            for conv in self.convs:
                images = conv(images)
                features.append(images)
            return features
"""
DECODER = """
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    class DepthDecoder(nn.Module):
        def __init__(self, num_ch_enc, scales=range(4), num_output_channels=1, use_skips=True):
            super(DepthDecoder, self).__init__()
            self.scales = scales
            self.heads = nn.ModuleList(nn.Conv2d(int(c), num_output_channels, 1) for c in num_ch_enc)

        def forward(self, features):
            return {
                ("disp", s): torch.sigmoid(F.interpolate(self.heads[s](features[s]), scale_factor=2))
                for s in self.scales
            }
"""
POSE = """
    import torch
    import torch.nn as nn

    class PoseDecoder(nn.Module):
        def __init__(self, num_ch_enc, num_input_features, num_frames_to_predict_for=None):
            super(PoseDecoder, self).__init__()
            self.squeeze = nn.Conv2d(int(num_ch_enc[-1]), 12, 1)

        def forward(self, features):
            out = 0.01 * self.squeeze(features[0][-1]).mean((2, 3)).view(-1, 2, 1, 6)
            return out[..., :3], out[..., 3:]

    class PoseCNN(nn.Module):
        def __init__(self, num_input_frames):
            super(PoseCNN, self).__init__()
"""
FILES = {
    "networks/__init__.py": """
        from .resnet_encoder import ResnetEncoder
        from .depth_decoder import DepthDecoder
        from .pose import PoseCNN, PoseDecoder
    """,
    "networks/pose.py": POSE,
    "networks/resnet_encoder.py": RESNET,
    "networks/depth_decoder.py": DECODER,
    "trainer.py": """
        from types import SimpleNamespace
        import torch
        import networks
        from networks import ResnetEncoder

        class Trainer:
            def __init__(self, scales=(0, 1, 2, 3), pretrained=False):
                self.encoder = networks.ResnetEncoder(18, pretrained)
                self.depth = networks.DepthDecoder(self.encoder.num_ch_enc, scales)
                self.mask = networks.DepthDecoder(self.encoder.num_ch_enc, scales, num_output_channels=2)
                self.pose_encoder = networks.ResnetEncoder(18, pretrained, num_input_images=2)
                parameters = list(self.encoder.parameters()) + list(self.depth.parameters())
                self.optimizer = torch.optim.Adam(parameters, 1e-4)

                self.opt = SimpleNamespace(min_depth=0.1, max_depth=100.0)

            def compute_losses(self, inputs, outputs):
                return {"loss": outputs["disp", 0].mean()}

            def step(self, images):
                outputs = self.depth(self.encoder(images))
                outputs["depth", 0, 0] = 1 / (0.01 + 9.99 * outputs["disp", 0])
                return self.compute_losses({}, outputs), outputs

        def direct():
            return ResnetEncoder(18, False)
    """,
}


class Repo:
    """The repository in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(FILES)

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()

    def load(self, name: str = "trainer") -> ModuleType:
        return importlib.import_module(name)

    def names(self) -> dict[str, dict[str, Any]]:
        """Every name of every imported module of the repository."""
        return {name: dict(vars(module)) for name, module in list(sys.modules.items()) if self._holds(module)}

    def _holds(self, module: ModuleType) -> bool:
        place = vars(module).get("__file__") or next(iter(vars(module).get("__path__", ())), "")  # a bare folder
        return str(place).startswith(str(self.root))

"""Features and depth of one image, on a CPU, offline.

python examples/quickstart.py image.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

from hybrid_encoder import HybridDepthModel, HybridEncoderError
from hybrid_encoder.data.images import read_image


def main(path: Path) -> None:
    model = HybridDepthModel.from_pretrained("tiny")
    image = read_image(path)  # (3, H, W), RGB in [0, 1]

    features = model.encoder.forward_features(image[None])
    for fused, logits in zip(features.fused, features.logits or [], strict=True):
        print(f"fused {tuple(fused.shape)}, similarity to each depth prompt {tuple(logits.shape)}")

    prediction = model.infer(path)
    files = prediction.save(path.parent, path.stem)  # a coloured map, and the numbers
    print(f"written: {', '.join(file.name for file in files)}")
    print(f"disparity from {prediction.disparity.min():.3f} (far) to {prediction.disparity.max():.3f} (near)")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python quickstart.py IMAGE")
    try:
        main(Path(sys.argv[1]))
    except (HybridEncoderError, OSError) as error:  # a wrong path or picture: one sentence is enough
        sys.exit(f"error: {error}")

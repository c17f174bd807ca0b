# %% [markdown]
# # Quickstart
#
# Depth, colours, points, what the words say, and features of one picture: offline, on a CPU, in a few seconds.
#
#     python examples/quickstart.py

# %%
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive
from hybrid_encoder.data.images import colorize, contact_sheet, to_pixels
from hybrid_encoder.evaluation import depth_metrics

# %% [markdown]
# `tiny` ships with the package. It was trained on drawn streets alone, so a drawn street is what it is shown here;
# its true depth is known. For photographs, take weights that have seen some: `"WenyaoZhang/Hybrid-depth"`, or your
# own. Then `picture` can be a path, a PIL image, an array, or a list of these.

# %%
model = HybridDepthModel.from_pretrained("tiny")
frame = SyntheticDrive(seed=920, num_frames=4, height=96, width=320)[0]
picture = torch.from_numpy(frame.image)  # (3, H, W), RGB in [0, 1]
prediction = model.infer(picture)
print("disparity", tuple(prediction.disparity.shape), "from 0, far, to 1, near")
print(f"here from {prediction.disparity.min():.2f} to {prediction.disparity.max():.2f}")
print("in metres:", prediction.depth_m is not None)

# %% [markdown]
# ## In colours
#
# Near is bright. Depth has no scale here, as one camera alone cannot tell it; the error is of median-scaled depth.

# %%
depth, valid = torch.from_numpy(frame.depth), torch.from_numpy(frame.valid)
error = depth_metrics(prediction.depth[None], depth[None], valid[None], median_scaling=True).abs_rel
print(f"abs_rel {error:.2f}")
maps = prediction.colored(), colorize(torch.where(valid, 1 / depth, 0.0)[0])
titles = ("picture", "what the model says", "the truth")
Image.fromarray(contact_sheet([[to_pixels(picture), *maps]], titles))

# %% [markdown]
# `save` writes the coloured map and the numbers, and the points for any viewer of point clouds.

# %%
files = prediction.save("predictions", "street", cloud="ply", intrinsics=frame.K)
print(sorted(Path(file).name for file in files))

# %% [markdown]
# ## Points
#
# They need to know how wide the camera sees: `fov`, or the matrix `K`. Below, they are seen from above: the camera is
# at the bottom, in the middle. The road begins where the camera first sees it.

# %%
cloud = prediction.points(intrinsics=frame.K)
print("points of", f"{len(cloud.positions) / picture[0].numel():.0%}", "of the pixels")
x, _, z = cloud.positions.T / np.median(cloud.positions[:, 2])  # right, down, forward, in median depths
seen, *_ = np.histogram2d(-z, x, bins=(120, 240), range=((-3, 0), (-3, 3)))
Image.fromarray(colorize(torch.from_numpy(seen).log1p(), name="viridis"))

# %% [markdown]
# ## What the words say
#
# The encoder compares every place of the picture with depth prompts, near before far. `language_depth` reads a depth
# from this alone, without the decoder. It is coarse: one value for each cell of the grid.

# %%
with torch.no_grad():
    features = model.encoder.forward_features(picture[None])
words = model.language_depth(features.logits)
print("similarity to each prompt", [tuple(logits.shape) for logits in features.logits])
nearest = words[0, 0, -1].median() < words[0, 0, 0].median()
print("the road at the bottom is nearer than the sky, by the words alone:", bool(nearest))
Image.fromarray(colorize(1 / words[0, 0])).resize((320, 96), Image.Resampling.NEAREST)

# %% [markdown]
# ## Features
#
# For another decoder: four maps on one grid, DINO's and CLIP's joined. `HybridDepthEncoder` gives them without a
# decoder, and says their channels and strides.

# %%
print("fused", [tuple(fused.shape) for fused in features.fused])
print("class token", tuple(features.class_token.shape))
print("channels", model.encoder.feature_info.channels(), "reduction", model.encoder.feature_info.reduction())

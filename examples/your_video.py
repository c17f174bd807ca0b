# %% [markdown]
# # Your video
#
# Train on a video whose camera nobody has calibrated, then predict depth for it: offline, on a CPU, in less than a
# minute.
#
#     python examples/your_video.py
#
# For a file of your own, two commands do all of this, with as many steps as it takes (hundreds, better thousands):
#
#     hybrid-encoder train-fine drive.mp4 --intrinsics learn
#     hybrid-encoder predict drive.mp4 --weights runs/fine/final --side-by-side

# %%
import dataclasses
import tempfile
from pathlib import Path

import torch
from accelerate.utils import set_seed
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SourceSequences, SyntheticDrive, VideoFrames, VideoWriter, choose_items, open_sources
from hybrid_encoder.data.images import contact_sheet, to_pixels
from hybrid_encoder.training.calibration import read_calibrations
from hybrid_encoder.training.fine import train_fine
from hybrid_encoder.training.recipes import FINE

folder = Path(tempfile.mkdtemp())
SIZE = (64, 208)  # that is trained at
set_seed(0)

# %% [markdown]
# ## A video
#
# There is none in the package, so one is drawn: a car that drives down a street and turns a little, left and right.
# With your own file, only `video` changes. What matters is that the camera moves.

# %%
video = folder / "drive.mp4"
drive = SyntheticDrive(seed=31, num_frames=24, height=96, width=320, turning=3.0)
with VideoWriter(video, (96, 320), rate=10) as writer:
    for frame in drive:
        writer.write(to_pixels(torch.from_numpy(frame.image)))

# %% [markdown]
# ## Frames to learn from
#
# The camera's focal length is not known. It starts from a field of view of 60 degrees and is learned along with depth
# and motion. Frames from which nothing moved are left out.

# %%
recipe = dataclasses.replace(FINE["small"], size=SIZE, steps=10, intrinsics="learn")
sources = open_sources([video], SIZE, start_fov=60, cache_folder=folder / "cache")
choice = choose_items(sources, recipe.offsets)
items = SourceSequences(sources, SIZE, recipe.offsets, choice.items, augment=True)
print(len(items), "frames with a neighbour before and after")
Image.fromarray(contact_sheet([[to_pixels(torch.from_numpy(sources[0].image(k))) for k in (0, 8, 16)]], ["frames"] * 3))

# %% [markdown]
# ## Ten steps
#
# They teach nothing worth having: they show that it runs. The start is `tiny`, which knows drawn streets already, so
# what comes out looks fine before the first step. For photographs, start from weights that have seen some.

# %%
model = HybridDepthModel.from_pretrained("tiny")
weights = train_fine(model, items, folder / "run", recipe)
assert weights is not None
print(sorted(file.name for file in weights.glob("*.safetensors")))

# %% [markdown]
# What was learned of the camera stands beside the weights, with what it started from. The drive was drawn with a
# focal length of 186 pixels. `told` says whether the frames turn enough to tell it at all.

# %%
camera = read_calibrations(weights)[0]
print(f"focal length: true {drive.K[0, 0]:.0f}, at first {camera.start[0]:.0f}, after ten steps {camera.fx:.0f}")
print("told:", camera.told)

# %% [markdown]
# ## Depth of the video
#
# Near is bright. `predict drive.mp4` writes the same as a video.

# %%
model = HybridDepthModel.from_pretrained(weights)
with VideoFrames(video, every=12) as frames:
    rows = [[pixels, model.infer(pixels).colored()] for pixels in frames]
Image.fromarray(contact_sheet(rows, ("video", "depth")))

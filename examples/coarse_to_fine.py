# %% [markdown]
# # Coarse to fine
#
# Both stages of the method, by library calls, on rendered drives and from random weights: offline, on a CPU, in less
# than a minute.
#
#     python examples/coarse_to_fine.py
#
# So few steps show how it works, not how good it gets. `make demo` takes more of them; `examples/train_synthetic.py`
# has options for longer runs, and the commands `train-coarse` and `train-fine` do the same on real data.

# %%
import dataclasses
import tempfile
from pathlib import Path

import torch
from accelerate.utils import set_seed
from PIL import Image
from torch.utils.data import DataLoader

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive, SyntheticLanes, SyntheticSequences, collate, render_drives
from hybrid_encoder.data.images import colorize, contact_sheet, to_pixels
from hybrid_encoder.evaluation import depth_metrics
from hybrid_encoder.language import bin_centers, language_depth
from hybrid_encoder.training.coarse import CoarseStage, coarse_encoder, order_accuracy, train_coarse
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.recipes import COARSE, FINE

SIZE = (64, 208)
runs = Path(tempfile.mkdtemp())
set_seed(0)
coarse = dataclasses.replace(COARSE["small"], size=SIZE, steps=100)
fine = dataclasses.replace(FINE["small"], size=SIZE, steps=60)

# %% [markdown]
# ## Drives
#
# Each is a short drive down a street of its own, with lane lines, and with the true depth to measure on. Two of them
# are held out.

# %%
drives = render_drives(range(16), 5, SIZE)
held_out = [list(SyntheticDrive(seed, 5, *SIZE)) for seed in (1_000_000, 1_000_001)]
frames = [drive[0] for drive in held_out]
images = torch.stack([torch.from_numpy(frame.image) for frame in frames])
depth = torch.stack([torch.from_numpy(frame.depth) for frame in frames])
valid = torch.stack([torch.from_numpy(frame.valid) for frame in frames])
truth = torch.where(valid, 1 / depth, 0.0)


def show(*columns: str | torch.Tensor) -> Image.Image:
    """Return a sheet of titles and what stands under them; near is bright, each map on its own scale."""
    titles, maps = columns[::2], columns[1::2]
    drawn = [[to_pixels(x) if len(x) == 3 else colorize(x[0], low=0.0) for x in column] for column in maps]
    return Image.fromarray(contact_sheet(list(zip(*drawn, strict=True)), titles))


show("held out", images, "truth, near is bright", truth)

# %% [markdown]
# ## Coarse: order by words
#
# Points along a lane line come nearer towards the bottom of the picture. The encoder learns to put patches there in
# the order that words for depth have. Nothing is said of what is no lane line: the pictures show that the words then
# know the road, but not the sky. What is measured is pairs of points on lane lines of held-out drives.

# %%
print(", ".join(coarse.words))

# %%
encoder = coarse_encoder("tiny", coarse, pretrained=False)
batches = list(DataLoader(SyntheticLanes(held_out), batch_size=5, collate_fn=collate))


def order() -> float:
    return order_accuracy(CoarseStage(encoder, coarse.two_sided, coarse.sampling, coarse.box), batches)


def words() -> torch.Tensor:
    """Return what the words alone say, as 1 / depth: one value for each cell of the grid."""
    with torch.no_grad():
        logits = torch.stack(list(encoder.forward_features(images).logits)).mean(0)
    return torch.nn.functional.interpolate(1 / language_depth(logits, bin_centers(len(coarse.words))), SIZE)


before, words_before = order(), words()
train_coarse(encoder, SyntheticLanes(drives, flip=True), runs / "coarse", coarse)
print(f"pairs of patches in order, held out: {before:.2f} before, {order():.2f} after; one half by chance")
show("held out", images, "words before", words_before, "words after", words(), "truth", truth)

# %% [markdown]
# ## Fine: depth from neighbouring frames
#
# No depth label from here on: a frame is drawn anew from its neighbours, with the depth and the camera's motion that
# the networks say, and compared with what the camera saw. The decoder reads the words as the coarse stage taught them.


# %%
def predict(model: HybridDepthModel) -> tuple[torch.Tensor, float]:
    disparity = model.infer(images).disparity
    return disparity, depth_metrics(model.to_depth(disparity), depth, valid, median_scaling=True).abs_rel


model = fine_model(runs / "coarse" / "final", fine)
untrained, error_before = predict(model)
train_fine(model, SyntheticSequences(drives, fine.offsets, augment=True), runs / "fine", fine)
trained, error_after = predict(model)
print(f"abs_rel, median-scaled, held out: {error_before:.2f} before, {error_after:.2f} after")
show("held out", images, "before the fine stage", untrained, "after it", trained, "truth", truth)

# %% [markdown]
# The weights are in this library's layout and are loaded as any others are.

# %%
again = HybridDepthModel.from_pretrained(runs / "fine" / "final")
print("the same depth:", torch.allclose(again.infer(images).disparity, trained, atol=1e-4))

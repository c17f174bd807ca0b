"""Monodepth2's own training with the hybrid encoder, without editing a file of it.

Run it inside a checkout of Monodepth2, with the options of its train.py:

    cd monodepth2
    python /path/to/monodepth2_train.py --data_path /data/kitti_raw --png
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.getcwd())  # the checkout

from hybrid_encoder import HybridEncoderError, adapters

try:
    print(adapters.monodepth2.patch(os.environ.get("HYBRID_ENCODER", "paper")))
except HybridEncoderError as error:  # not inside a checkout, say: one sentence is enough
    sys.exit(f"error: {error}")

from options import MonodepthOptions  # modules of the checkout
from trainer import Trainer

if __name__ == "__main__":
    Trainer(MonodepthOptions().parse()).train()

"""Two steps of every codebase derived from Monodepth2 and ManyDepth, with our network inside.

The checkouts are the user's own, one folder for each repository's name in the folder that HYBRID_ENCODER_FAMILY names;
a folder ``site`` beside them may hold packages that they import. ``helpers/family.py`` lists the cases.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.checkouts import DATA
from helpers.family import CASES, FAMILY, STEPS, Case, run
from helpers.plugs import plugs

pytestmark = [
    pytest.mark.family,
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(not FAMILY.name, reason="HYBRID_ENCODER_FAMILY names no folder of checkouts"),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no KITTI frames at {DATA} (HYBRID_ENCODER_DATA)"),
]


def _skip_without_checkout(case: Case) -> None:
    if not (FAMILY / case.name).is_dir():
        pytest.skip(f"HYBRID_ENCODER_FAMILY holds no checkout {case.name} (github.com/{case.repository})")


def _tell(case: Case, found: dict[str, Any]) -> str:
    """Return all that a failure needs: what was found, where, and what the checkout's owner has to mend."""
    told = f"{json.dumps(found, indent=1)}\n{found.get('trace', '')}"
    return f"{told}\nAs published, {case.name} does not run, patched or not: {case.note}." if case.note else told


@plugs("BDEdepth", "`train.py`", "build", "run", "train", "save", "load")
@plugs("depth-hints", "`train.py`", "build", "run", "train", "save", "load")
@plugs("DIFFNet", "`train.py`", "build", "run", "train", "save", "load")
@plugs("Dynamo-Depth", "`train.py`", "build", "run", "train", "save", "load")
@plugs("FeatDepth", "its networks in a loop of ours", "build", "run", "train", "save", "load")
@plugs("FSRE-Depth", "`train_ddp.py`", "build", "run", "train", "save", "load")
@plugs("GasMono", "`train.py`", "build", "run", "train", "save", "load")
@plugs("HR-Depth", "its networks in a loop of ours", "build", "run", "train", "save", "load")
@plugs("IndoorDepth", "`train.py`", "build", "run", "train", "save", "load")
@plugs("Lite-Mono", "`train.py`", "build", "run", "train", "save", "load")
@plugs("Manydepth2", "`manydepth2.train`", "build", "run", "train", "save", "load")
@plugs("manydepthformer", "`manydepth.train`", "build", "run", "train", "save", "load")
@plugs("md4all", "its networks in a loop of ours", "build", "run", "train", "save", "load")
@plugs("mono-uncertainty", "its networks in a loop of ours", "build", "run", "train", "save", "load")
@plugs("monodepth2-ddp", "`train.py`", "build", "run", "train", "save", "load")
@plugs("monodepth2_monovit", "`train.py`", "build", "run", "train", "save", "load")
@plugs("monodepth2_uncertainty", "`train.py`, `my_train_boot.py`", "build", "run", "train", "save", "load")
@plugs("MonoDiffusion", "`train_df.py`", "build", "run", "train", "save", "load")
@plugs("packnet-sfm", "its networks in a loop of ours", "build", "run", "train", "save", "load")
@plugs("PlaneDepth", "`train.py`", "build", "run", "train", "save", "load")
@plugs("R-MSFM", "its networks in a loop of ours", "build", "run", "train", "save", "load")
@plugs("RA-Depth", "`train.py`", "build", "run", "train", "save", "load")
@plugs("robustdepth", "`train.py`", "build", "run", "train", "save", "load")
@plugs("sc_depth_pl", "its networks in a loop of ours", "build", "run", "train", "save", "load")
@plugs("SGDepth", "its networks in a loop of ours", "build", "run", "train", "save", "load")
@plugs("wavelet-monodepth", "`train.py`", "build", "run", "train", "save", "load")
@pytest.mark.parametrize("case", [case for case in CASES if not case.refused], ids=lambda case: case.title)
def test_our_network_trains(case: Case, tmp_path: Path) -> None:
    _skip_without_checkout(case)
    found = run(case, tmp_path)
    told = _tell(case, found)
    assert found["end"] in ("enough", "the script ended"), told
    assert found["steps"] >= STEPS and found["networks"], told
    for network in found["networks"]:
        assert network["called"] and network["finite"], told
        assert network["in optimizer"] == network["trained"] > 0, told
        # Not all: prompts' words have no gradient at first, and Adam moves nothing by a gradient that is as good as 0.
        assert min(network["changed"], network["with gradient"]) > network["trained"] / 2, told
        assert network["frozen in optimizer"] == network["frozen changed"] == 0, told
    encoders = [network for network in found["networks"] if network["kind"] != "DepthDecoder"]
    assert encoders and all(network["frozen"] > 0 for network in encoders), told
    # Frames of the road in daylight: from almost black to almost white, which a normalised image is not.
    assert -1e-5 <= found["lowest"] < 0.1 and 0.8 < found["highest"] <= 1 + 1e-5, told

    saved = found["saved"]
    assert saved["found"] and saved["compared"] == len(found["networks"]), told
    assert saved["different"] == 0 < saved["fresh"], told
    assert found["undo"] == found["left behind"] == [], told


@pytest.mark.parametrize("case", [case for case in CASES if case.refused], ids=lambda case: case.title)
def test_the_reason_is_told(case: Case, tmp_path: Path) -> None:
    _skip_without_checkout(case)
    found = run(case, tmp_path)
    told = _tell(case, found)
    assert found["end"] in ("AdapterError", "CheckpointError"), told
    assert found["steps"] == found["others"] == 0, told
    for words in case.refused:
        assert words in found["error"], told

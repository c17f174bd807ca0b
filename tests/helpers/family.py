"""The codebases derived from Monodepth2 and ManyDepth, and how each is trained for two steps on KITTI frames."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.checkouts import HEIGHT, WIDTH
from helpers.family_frames import lay_out, write_splits

FAMILY = Path(os.environ.get("HYBRID_ENCODER_FAMILY", ""))
DRIVER = Path(__file__).with_name("family_driver.py")
STEPS = 2
TIMEOUT = 600

SIZE = f"--height {HEIGHT} --width {WIDTH}"
DATA = "--data_path {data} --num_workers 0 --batch_size 2 --num_epochs 1"
KITTI = f"{DATA} {SIZE} --log_dir {{log}}"
MONO = f"{KITTI} --model_name m --no_cuda --weights_init scratch --png --log_frequency 1"

WITHOUT_RESUME = "without --resume its trainer reads a name that it has not set; splits/kitti/eigen lacks gt_depths.npz"
MANYDEPTH2 = "there is no folder logs/, and splits/eigen/gt_depths.npz must be exported"


@dataclass(frozen=True)
class Case:
    """One training of one codebase.

    Args:
        repository: ``owner/name``; the checkout is the folder ``name``.
        command: script and arguments; ``{data}`` and ``{log}`` are filled in.
        drive: a function of family_networks.py, where the codebase's own trainer cannot be run.
        option: what tells this case from the others of the repository.
        folder: of the script, inside the checkout.
        adapter: whose ``patch`` is called.
        arguments: of ``patch``, none but those of an adapter that cannot do without.
        layout: of the frames, see family_frames.py.
        refused: words of the AdapterError; none where our network trains.
        note: what the codebase itself lacks; its checkout must be mended by its owner.
    """

    repository: str
    command: str = ""
    drive: str = ""
    option: str = ""
    folder: str = "."
    adapter: str = "monodepth2"
    arguments: dict[str, Any] = field(default_factory=dict)
    layout: str = "kitti"
    refused: tuple[str, ...] = ()
    note: str = ""

    @property
    def name(self) -> str:
        return self.repository.partition("/")[2]

    @property
    def title(self) -> str:
        return " ".join(filter(None, (self.name, self.option)))


CASES = (
    Case("nianticlabs/monodepth2", f"train.py {MONO}"),
    Case("nianticlabs/manydepth", f"-m manydepth.train {MONO}", adapter="manydepth"),
    Case("nianticlabs/depth-hints", f"train.py {MONO}"),
    Case("hmhemu/RA-Depth", f"train.py {MONO} --scales 0"),
    Case("noahzn/Lite-Mono", f"train.py {MONO}"),
    Case(
        "hisfog/SfMNeXt-Impl",
        f"train.py {MONO}",
        refused=("its decoder predicts depth, by queries of its own", "Train in a Monodepth2 checkout instead"),
    ),
    Case(
        "kieran514/robustdepth",
        f"train.py {MONO} --val_num_workers 0 --load_weights_folder None --teacher --warp_clear",
        folder="Robust-Depth",
        note="datasets/mono_dataset.py lacks a comma and reads a name that it has not set; "
        "Robust-Depth/ has no splits/, with a gt_depths.npz in splits/eigen_zhou",
    ),
    Case(
        "KaileyWoo/monodepth2_uncertainty",
        f"train.py {MONO}",
        folder="monodepth2_uncertainty",
        note="the loss of its my_train.py reads outputs that its trainer does not make",
    ),
    Case(
        "KaileyWoo/monodepth2_uncertainty",
        f"my_train_boot.py {MONO} --num_epochs 2",  # it steps once for three batches
        option="my_train_boot",
        folder="monodepth2_uncertainty",
    ),
    *(
        Case(
            "fogfog2/manydepthformer",
            f"-m manydepth.train {MONO} --train_model {model} {extra}",
            option=option,
            adapter="manydepth",
            refused=refused,
        )
        for option, model, extra, refused in (
            ("resnet", "resnet", "", ()),
            ("cmt", "cmt", "", ()),
            # Its trainer always begins with weights of its own encoder.
            ("swin", "swin", "", ("the weights hold nothing for", "another model's")),
            ("attention", "resnet", "--use_attention_decoder", ()),
        )
    ),
    Case(
        "kaichen-z/Manydepth2",
        f"-m manydepth2.train {MONO} --mode many",
        option="many",
        adapter="manydepth",
        note=MANYDEPTH2,
    ),
    Case(
        "kaichen-z/Manydepth2",
        f"-m manydepth2.train {MONO} --mode many2 --freeze_teacher_epoch 5",
        option="many2",
        adapter="manydepth",
        # Its student reads optical flow beside the images.
        refused=("no multi-frame encoder (the student) of it was built", "HRnetEncoderMatching"),
        note=MANYDEPTH2,
    ),
    Case(
        "LiuJF1226/monodepth2-ddp",
        f"train.py {KITTI} --weights_init scratch --exp_name e --resume",
        note=WITHOUT_RESUME,
    ),
    *(
        Case(
            "LiuJF1226/BDEdepth",
            f"train.py {KITTI} --weights_init scratch --exp_name e --resume --backbone {backbone}",
            option=backbone,
            note=WITHOUT_RESUME,
        )
        for backbone in ("hrnet", "resnet")
    ),
    Case(
        "zxcqlf/GasMono",
        f"train.py {MONO} --dataset kitti --split eigen_zhou",
        note="networks/mpvit.py lists a name in __all__ that it does not define; "
        "datasets/mono_dataset.py raises NotImplementedError for poses; no split of KITTI is there",
    ),
    Case(
        "Consuk/monodepth2_monovit",
        f"train.py {MONO}",
        layout="scared",
        note="networks/resnet_encoder.py, of its pose network, declares the channels of MPViT",
    ),
    Case("brandleyzhou/DIFFNet", f"train.py {MONO}"),
    Case("fcntes/IndoorDepth", f"train.py {MONO.replace(' --png', '')} --frame_ids 0 -1 1", layout="nyu"),
    Case("ShuweiShao/MonoDiffusion", f"train_df.py {MONO.replace(SIZE, '--height 192 --width 640')}"),
    Case("svip-lab/PlaneDepth", f"train.py {KITTI} --png"),
    Case("hyBlue/FSRE-Depth", f"train_ddp.py {KITTI.replace(' --num_workers 0', '')} --model_name m", layout="Kitti"),
    Case("shawLyu/HR-Depth", drive="hr_depth"),
    Case(
        "jsczzzk/R-MSFM",
        drive="r_msfm",
        note="trainer.py has a syntax error, misses an argument, and reads a name that it has not set",
    ),
    Case(
        "mattpoggi/mono-uncertainty",
        drive="mono_uncertainty",
        note="its prepare_monodepth2_engine.sh must have copied Monodepth2 into monodepth2/",
    ),
    Case("JiawangBian/sc_depth_pl", drive="sc_depth"),
    Case(
        "JiawangBian/sc_depth_pl",
        drive="sc_depth",
        option="generic",
        adapter="generic",
        arguments={
            "target": "models.DepthNet.ResnetEncoder",
            "mean": (0.45, 0.45, 0.45),
            "std": (0.225, 0.225, 0.225),
            "pretrained": "pretrained",
        },
    ),
    *(
        Case(
            "YihongSun/Dynamo-Depth",
            "train.py --data_path {data} --log_dir {log} --dataset kitti --batch_size 2 --num_workers 0 "
            f"--weights_init scratch {SIZE} --cuda_ids 0 --depth_model {model}",
            option=model,
            layout="dynamo",
        )
        for model in ("monodepthv2", "litemono")
    ),
    *(
        Case(
            "nianticlabs/wavelet-monodepth",
            f"train.py {MONO} --frame_ids 0 -1 1 {extra}",
            option=option,
            folder="KITTI",
        )
        for option, extra in (("dense", ""), ("wavelets", "--use_wavelets"))
    ),
    Case("TRI-ML/packnet-sfm", drive="packnet"),
    Case("md4all/md4all", drive="md4all"),
    Case("ifnspaml/SGDepth", drive="sgdepth"),
    Case("sconlyshootery/FeatDepth", drive="featdepth"),
    Case(
        "LINA-lln/ADDS-DepthNet",
        f"train.py {MONO}",
        refused=("one shared and two private ones for day and night", "Train in a Monodepth2 checkout instead"),
    ),
    Case(
        "prstrive/EPCDepth",
        "main.py --data_path {data} --no_cuda --batch_size 2 --num_workers 0",
        refused=("a list of disparities from its own decoder", "Train in a Monodepth2 checkout instead"),
    ),
    Case(
        "BeileiCui/EndoDAC",
        f"train_end_to_end.py {MONO}",
        refused=("without an encoder apart", "checkout of AF-SfMLearner instead"),
    ),
)


def run(case: Case, folder: Path) -> dict[str, Any]:
    """Train a copy of the checkout, and return what family_driver.py found.

    Raises:
        AssertionError: the driver did not come to its end.
    """
    checkout, log = folder / case.name, folder / "log"
    skipped = shutil.ignore_patterns(".git", "assets", "__pycache__", "*.ipynb", "*.gif", "*.mp4")
    shutil.copytree(FAMILY / case.name, checkout, ignore=skipped, symlinks=True)
    write_splits(checkout, case.layout)
    log.mkdir()
    places = {"data": str(lay_out(case.layout, folder / "frames")), "log": str(log)}
    spec = {
        "root": str(checkout),
        "adapter": case.adapter,
        "arguments": case.arguments,
        "command": [word.format(**places) for word in case.command.split()],
        "drive": case.drive,
        "packages": str(FAMILY / "site") if (FAMILY / "site").is_dir() else None,
        "log": str(log),
        "result": str(folder / "result.json"),
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder / "spec.json")],
        cwd=checkout / case.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    result = folder / "result.json"
    assert result.is_file(), done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(result.read_text())
    return found

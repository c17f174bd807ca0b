"""The public names, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import hybrid_encoder


def test_every_public_name_is_there() -> None:
    for name in hybrid_encoder.__all__:
        assert getattr(hybrid_encoder, name) is not None
    assert set(hybrid_encoder.__all__) <= set(dir(hybrid_encoder))
    import pytest

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hybrid_encoder.nonsense  # noqa: B018


def _loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_no_model_library() -> None:
    heavy = {"transformers", "open_clip", "timm", "torch", "matplotlib"}
    assert not heavy & _loaded_after("import hybrid_encoder")
    assert not heavy & _loaded_after("from hybrid_encoder import HybridEncoderConfig as C; C.preset('paper')")
    assert not {"transformers", "open_clip", "timm"} & _loaded_after(
        "from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, adapters"
    )

"""The one thing that pyproject.toml cannot say: where adapters/ is."""

from pathlib import Path

from setuptools import setup

# src/hybrid_encoder/adapters is a symbolic link, so that an editable install is a plain folder on the path, which type
# checkers can follow. Git on Windows may write links as text files; the mapping serves there, but for type checkers.
linked = Path(__file__).with_name("src").joinpath("hybrid_encoder", "adapters").is_dir()
setup(package_dir={"": "src"} if linked else {"": "src", "hybrid_encoder.adapters": "adapters"})

"""Recordings to train on: frames in order of time, whatever they were recorded with."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

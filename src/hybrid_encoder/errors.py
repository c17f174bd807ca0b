"""The errors that this package raises; each message names the value, the rule and the fix."""

from __future__ import annotations


class HybridEncoderError(Exception):
    """Base class of the package's own errors."""


class ConfigError(HybridEncoderError, ValueError):
    """A configuration that cannot be built."""


class InputError(HybridEncoderError, ValueError):
    """Images or files that a model cannot take."""


class CheckpointError(HybridEncoderError, ValueError):
    """Weights that cannot be found, read, or matched to a model."""


class AdapterError(HybridEncoderError, RuntimeError):
    """A foreign codebase that lacks what an adapter needs."""

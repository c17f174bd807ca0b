from .cards import config_rows, model_card
from .files import find_source, read_tensors
from .hub import HubModel
from .reading import Checkpoint, fill, no_initialisation, read_checkpoint, read_config

__all__ = [
    "Checkpoint",
    "HubModel",
    "config_rows",
    "fill",
    "find_source",
    "model_card",
    "no_initialisation",
    "read_checkpoint",
    "read_config",
    "read_tensors",
]

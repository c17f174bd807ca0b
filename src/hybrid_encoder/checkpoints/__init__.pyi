from .cards import config_rows, model_card
from .files import read_tensors
from .filling import fill, no_initialisation
from .hub import HubModel
from .reading import Checkpoint, read_checkpoint, read_config
from .sources import find_source

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

"""The decoder that stored blocks and a schedule make; its caches, generation and weights file."""

from sharelm.model.caches import Caches
from sharelm.model.decoder import Decoder
from sharelm.model.generation import generate
from sharelm.model.weights import PRECISIONS, load_model, save_weights

__all__ = ["PRECISIONS", "Caches", "Decoder", "generate", "load_model", "save_weights"]

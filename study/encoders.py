"""The vision encoders of Table 14, by the model_type of their config.json.

What the rest asks of an encoder: `config.hidden_size` (C), `unit` (sides of images are multiples of
it), `count_patches` (N), `layers`, and in each layer nn.Linears `query` and `value` for LoRA.
"""

from pathlib import Path

from dino import DINOv2
from study.hiera import Hiera
from support.configs import read_config

ENCODERS = {"dinov2": DINOv2, "dinov2_with_registers": DINOv2, "hiera": Hiera}


def load_encoder(folder, dtype=None, device="cpu", image_size=None):
    """The encoder in an official folder; errors: see support.weights.load_weights.

    ValueError, too, if its patches do not fill square images of a size.
    """
    config = read_config(Path(folder) / "config.json", {"model_type": tuple(ENCODERS)})
    encoder = ENCODERS[config["model_type"]].from_pretrained(folder, dtype, device)
    if image_size is not None and image_size % encoder.unit:
        raise ValueError(
            f"image_size {image_size} does not fit the encoder in {folder}: "
            f"expected a multiple of {encoder.unit}"
        )
    return encoder

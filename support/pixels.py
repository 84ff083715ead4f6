"""What a vision encoder expects of its pixels."""


def check_pixels(pixels, unit):
    """ValueError unless pixels are (B, 3, H, W) and H, W multiples of `unit`, the encoder's."""
    fits = all(side > 0 and side % unit == 0 for side in pixels.shape[2:])
    if pixels.dim() != 4 or pixels.shape[1] != 3 or not fits:
        expected = f"(B, 3, H, W), H and W multiples of {unit}"
        raise ValueError(f"pixels are {tuple(pixels.shape)}, expected {expected}")

"""How individuals of a category differ: sizes, colours, textures and views, all drawn at random."""

from dataclasses import replace

import numpy as np

from drawings.shapes import Texture, Viewpoint, shade

SIDES = (1, -1)  # the subject's left is at positive x
PATTERNS = ("stripes", "bands", "spots", "patches", "check", "dots")


def vary_sizes(rng, look, names, least, most):
    """The look (a dataclass) with the named sizes scaled, each by its own factor."""
    sizes = {name: getattr(look, name) * rng.uniform(least, most) for name in names}
    return replace(look, **sizes)


def tint(rng, colour):
    """The colour with the spread of individuals."""
    varied = np.array(colour) * rng.uniform(0.88, 1.1) + rng.normal(0, 5, 3)
    return tuple(int(c) for c in np.clip(varied, 0, 255))


def pick_colour(rng, low=20, high=245):
    """Any colour; one in three is greyish, as cloth and furniture often are."""
    colour = rng.uniform(low, high, 3)
    if rng.random() > 0.33:
        return shade(colour, 1)
    return shade(colour.mean() + 0.15 * (colour - colour.mean()), 1)


def pick_texture(rng, chance):
    """Any texture, or None."""
    return Texture(rng.choice(PATTERNS)) if rng.random() < chance else None


def pick_yaw(rng, least, most):
    """A yaw to either side, of `least` to `most` degrees; returned in radians."""
    return rng.choice(SIDES) * np.radians(rng.uniform(least, most))


def pick_view(rng, yaw, pitch, roll):
    """Yaw and roll up to so many degrees to either side, pitch between two numbers of degrees."""
    return Viewpoint(
        yaw=np.radians(rng.uniform(-yaw, yaw)),
        pitch=np.radians(rng.uniform(*pitch)),
        roll=np.radians(rng.uniform(-roll, roll)),
    )

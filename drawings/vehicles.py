"""Vehicles: CarFusion's car, SUV and bus, each a hull with a cabin on wheels. y = 0: the ground."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drawings.shapes import Figure, ball, limb, polygon, shade
from drawings.variety import pick_colour, pick_view

TYRE, HUB, PIPE = (28, 28, 30), (150, 152, 158), (90, 90, 95)
HEADLIGHT, TAIL_LIGHT = (250, 245, 205), (205, 25, 25)
GRILLE, NUMBER_PLATE = (40, 40, 44), (235, 235, 225)


class VehicleLook(NamedTuple):
    """The least and the most of each measure, in the order in which they are drawn."""

    length: tuple
    height: tuple
    hood: tuple  # in units of the length, as tail and axle
    tail: tuple  # behind the cabin
    belt: tuple  # the windows' lower edge, in units of the height
    rake: tuple  # of the windscreen, in units of the height
    lift: tuple  # of the floor over the ground
    axle: tuple  # from either end
    windows: tuple  # on a side


LOOKS = {
    "car": VehicleLook(
        length=(0.85, 1.05), height=(0.27, 0.34), hood=(0.2, 0.3), tail=(0.02, 0.2),
        belt=(0.55, 0.65), rake=(0.3, 0.6), lift=(0.03, 0.06), axle=(0.16, 0.22), windows=(2, 3.4),
    ),
    "suv": VehicleLook(
        length=(0.8, 0.98), height=(0.36, 0.44), hood=(0.16, 0.26), tail=(0.0, 0.03),
        belt=(0.52, 0.62), rake=(0.15, 0.4), lift=(0.05, 0.09), axle=(0.16, 0.22), windows=(2, 3.4),
    ),
    "bus": VehicleLook(
        length=(1.0, 1.5), height=(0.45, 0.62), hood=(0.0, 0.02), tail=(0.0, 0.01),
        belt=(0.42, 0.55), rake=(0.0, 0.08), lift=(0.04, 0.08), axle=(0.14, 0.26), windows=(4, 8),
    ),
}
CAR = LOOKS["car"]


@dataclass
class Hull:
    """The measures of one vehicle. Outlines of its side are points (z, y)."""

    colour: tuple
    glass: tuple
    width: float  # half of it
    roof: float  # half the width of the roof
    wheel: float  # radius
    belt: float  # y of the windows' lower edge
    height: float
    floor: float  # y
    nose: float  # y of the hood's front edge
    front: float  # z of the front end; the rear end is at -front
    lower: tuple  # (6, 2): front from the floor to the belt, rear back to the floor
    upper: tuple  # (4, 2): windscreen, roof, rear window
    axles: tuple  # z of the front and the rear one
    windows: int

    def make_side(self, x, outline, colour, bias=0.0):
        """A polygon (z, y) on the plane at x."""
        return polygon([(x, y, z) for z, y in outline], colour, bias=bias)

    def make_leaning_side(self, side, outline, colour, bias=0.0):
        """A polygon (z, y) on the side of the cabin, which leans in from the belt to the roof."""
        slope = side * (self.roof - self.width) / (self.belt + self.height)
        corners = [(side * self.width + slope * (self.belt - y), y, z) for z, y in outline]
        return polygon(corners, colour, bias=bias)


def make_across(a, b, colour, width_a, width_b, bias=0.0):
    """A polygon from side to side between two edges at (z, y), each of its own half width."""
    (za, ya), (zb, yb) = a, b
    corners = ((-width_a, ya, za), (width_a, ya, za), (width_b, yb, zb), (-width_b, yb, zb))
    return polygon(corners, colour, bias=bias)


def shrink(outline, factor):
    middle = np.mean(outline, 0)
    return middle + factor * (np.array(outline) - middle)


def mix(a, b, t):
    """The point from a, t = 0, to b, t = 1."""
    return (1 - t) * np.array(a) + t * np.array(b)


def choose_hull(rng, look):
    measures = VehicleLook(*(rng.uniform(*span) for span in look))
    length, height, floor = measures.length, measures.height, -measures.lift
    colour, glass = pick_colour(rng), shade((70, 90, 105), rng.uniform(0.5, 1.6))
    width, wheel = rng.uniform(0.17, 0.22), rng.uniform(0.06, 0.085)
    front, belt = length / 2, -height * measures.belt
    screen, back = front - measures.hood * length, measures.tail * length - front
    roof = width * rng.uniform(0.78, 0.97)
    nose = belt
    if measures.hood > 0.05:
        nose = belt * rng.uniform(0.75, 0.95)
    lower = (
        (front, floor),
        (front, nose),
        (screen, belt),
        (back, belt),
        (-front, belt * 0.97),
        (-front, floor),
    )
    rake = measures.rake * height
    roof_front, roof_back = screen - rake, back + 0.6 * measures.rake * height
    upper = ((screen, belt), (roof_front, -height), (roof_back, -height), (back, belt))
    return Hull(
        colour=colour,
        glass=glass,
        width=width,
        roof=roof,
        wheel=wheel,
        belt=belt,
        height=height,
        floor=floor,
        nose=nose,
        front=front,
        lower=lower,
        upper=upper,
        axles=(front - measures.axle * length, measures.axle * length - front),
        windows=round(measures.windows),
    )


def build_shell(hull):
    """Everything across: bumpers, hood, trunk, windscreen, roof, rear window."""
    colour, width, roof = hull.colour, hull.width, hull.roof
    lower, upper = hull.lower, hull.upper
    parts = []
    for i, tone in ((0, 0.95), (1, 1.08), (3, 1.0), (4, 0.9)):
        parts.append(make_across(lower[i], lower[i + 1], shade(colour, tone), width, width))
    for i, tone, width_a, width_b in (
        (0, 1.0, width, roof),
        (1, 1.1, roof, roof),
        (2, 0.9, roof, width),
    ):
        parts.append(make_across(upper[i], upper[i + 1], shade(colour, tone), width_a, width_b))
    for below, above in ((upper[0], upper[1]), (upper[3], upper[2])):
        low, high = mix(below, above, 0.12), mix(below, above, 0.86)
        parts.append(make_across(low, high, hull.glass, 0.88 * width, 0.9 * roof, bias=0.02))
    return parts


def build_wheel(hull, side, z):
    """Inner side, tread, outer side, hub."""
    turn = np.linspace(0, 2 * np.pi, 16)
    radius, width = hull.wheel, hull.width
    rim = np.stack((z + radius * np.cos(turn), -radius + radius * np.sin(turn)), 1)
    tread = []
    for inner, up in ((0, -1), (1, -1), (1, 1), (0, 1)):
        tread.append((side * (width - 0.08 * inner), -radius + up * radius, z))
    return [
        hull.make_side(side * (width - 0.08), rim, TYRE),
        polygon(tread, TYRE),
        hull.make_side(side * (width + 0.004), rim, TYRE, 0.03),
        hull.make_side(side * (width + 0.006), shrink(rim, 0.55), HUB, 0.035),
    ]


def build_side(hull, side):
    lower, upper = hull.lower, hull.upper
    parts = [
        hull.make_side(side * hull.width, lower, shade(hull.colour, 0.88)),
        hull.make_leaning_side(side, upper, shade(hull.colour, 0.9)),
    ]
    cuts = np.linspace(0, 1, hull.windows + 1)
    for a, b in zip(cuts[:-1], cuts[1:], strict=True):
        pane = [
            mix(upper[0], upper[3], a),
            mix(upper[1], upper[2], a),
            mix(upper[1], upper[2], b),
            mix(upper[0], upper[3], b),
        ]
        parts.append(hull.make_leaning_side(side, shrink(pane, 0.8), hull.glass, 0.03))
    for z in hull.axles:
        parts += build_wheel(hull, side, z)
    return parts


def build_lights(rng, hull):
    """-> parts, keypoints: right and left headlight, right and left tail light."""
    lamp = rng.uniform(0.018, 0.032)
    tops = np.array((hull.nose, hull.belt))
    levels = hull.floor + (tops - hull.floor) * rng.uniform(0.5, 0.75, 2)
    x, radii = hull.width - lamp - 0.012, (1.3 * lamp, lamp, 0.012)
    ends = (levels[0], hull.front, HEADLIGHT), (levels[1], -hull.front, TAIL_LIGHT)
    parts, lights = [], []
    for y, z, colour in ends:
        for side in (-1, 1):
            lights.append((side * x, y, z))
            parts.append(ball(lights[-1], radii, colour, bias=0.015))
    return parts, lights


def build_plates(hull):
    """The grille, the number plate."""
    parts = []
    for z, low, high, width, colour in (
        (hull.front, 0.15, 0.4, 0.6, GRILLE),
        (-hull.front, 0.2, 0.35, 0.3, NUMBER_PLATE),
    ):
        low, high = hull.floor + np.array((low, high)) * (hull.nose - hull.floor)
        half = width * hull.width
        parts.append(make_across((z, low), (z, high), colour, half, half, bias=0.01))
    return parts


def build_vehicle(rng, look=CAR):
    """CarFusion's points: wheels, lights, exhaust pipe, corners of the roof."""
    hull = choose_hull(rng, look)
    parts = build_shell(hull)
    for side in (-1, 1):
        parts += build_side(hull, side)
    made, lights = build_lights(rng, hull)
    parts += made + build_plates(hull)
    pipe_x = rng.choice((-0.6, 0.6)) * hull.width
    pipe = np.array((pipe_x, hull.floor + 0.005, -hull.front - 0.02))
    parts.append(limb(pipe + (0, 0, 0.08), pipe, 0.014, 0.014, PIPE))
    wheel_x = hull.width + 0.006
    wheels = [(side * wheel_x, -hull.wheel, z) for z in hull.axles for side in (-1, 1)]
    roof = [(side * hull.roof, -hull.height, z) for z, _ in hull.upper[1:3] for side in (-1, 1)]
    keypoints = np.array([*wheels, *lights, pipe, *roof])
    return Figure(parts, keypoints, pick_view(rng, 180, (0, 25), 14))

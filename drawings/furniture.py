"""Furniture: Keypoint-5's chair, swivel chair, sofa, bed and table. y = 0: the seat or the top.

Chair and swivel chair share a seat and a backrest, so that what a model learns about one carries
over to the other.
"""

from dataclasses import dataclass

import numpy as np

from drawings.shapes import Figure, ball, limb, line, polygon, shade, stack_points
from drawings.variety import pick_colour, pick_texture, pick_view


def make_slab(face, depth, colour, texture=None, bias=0.0):
    """A face (4, 3), corners right front, left front, left rear, right rear, and its four sides,
    `depth` (3) deep."""
    face = np.asarray(face, float)
    parts = []
    for i, tone in enumerate((1, 0.82, 0.7, 0.82)):
        a, b = face[i], face[(i + 1) % 4]
        side = (a, b, b + depth, a + depth)
        parts.append(polygon(side, shade(colour, tone), texture=texture, bias=bias))
    return [*parts, polygon(face, shade(colour, 1.12), texture=texture, bias=bias)]


def make_box(low, high, colour, texture=None, bias=0.0):
    """What can be seen from above of a box between two corners (3)."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    top = ((x0, y0, z1), (x1, y0, z1), (x1, y0, z0), (x0, y0, z0))
    return make_slab(top, np.array((0, y1 - y0, 0)), colour, texture, bias)


# Chairs.


@dataclass
class Backrest:
    """Stands on the rear edge of the seat."""

    seat: np.ndarray  # (2, 3): its right and left rear corner
    top: np.ndarray  # (2, 3): right and left
    depth: np.ndarray  # (3,)

    def place(self, u, v):
        """u = -1 right, 1 left, v = 0 seat, 1 top."""
        right, left = self.seat + (self.top - self.seat) * v
        return right + (left - right) * (u + 1) / 2

    def make_board(self, low, high, colour, texture):
        """A board from side to side between two heights v."""
        face = (
            self.place(-1, low),
            self.place(1, low),
            self.place(1, high),
            self.place(-1, high),
        )
        return make_slab(face, self.depth, colour, texture)


def build_backrest(rng, backrest, radius, colour, wood, texture):
    """A full back, a pad on two posts, upright slats or cross slats."""
    style, parts = rng.integers(4), []
    if style < 2:
        low = style * rng.uniform(0.2, 0.5)  # a full back begins at the seat
        parts += backrest.make_board(low, 1, colour, texture)
    elif style == 2:
        parts += backrest.make_board(rng.uniform(0.75, 0.88), 1, wood, texture)
        for u in np.linspace(-0.6, 0.6, rng.integers(2, 5)):
            start, end = backrest.place(u, 0.02), backrest.place(u, 0.85)
            parts.append(limb(start, end, radius, 0.8 * radius, wood))
    else:
        for v in np.linspace(0.35, 1, rng.integers(2, 4)):
            parts += backrest.make_board(v - 0.14, v, wood, texture)
    if style == 0:
        return parts
    for u in (-0.93, 0.93):  # posts
        start, end = backrest.place(u, 0), backrest.place(u, 0.97)
        parts.append(limb(start, end, radius, radius, wood, bias=-0.01))
    return parts


def build_armrests(rng, width, rear_width, depth, wood):
    parts, up = [], rng.uniform(0.12, 0.24)
    for side in (-1, 1):
        rear = np.array((side * rear_width, -up, -depth))
        front = np.array((side * (width + 0.015), -up, depth * rng.uniform(0.4, 1)))
        foot = front * (1, 0, 1) + (0, 0.02, 0)
        parts.append(limb(rear, front, 0.022, 0.022, wood))
        parts.append(limb(front, foot, 0.014, 0.014, wood))
    return parts


def build_seat_and_back(rng, colour, wood):
    """What chair and swivel chair share -> parts, corners (6, 3): right front, left front, left
    rear and right rear of the seat, right and left top of the backrest."""
    width, depth = rng.uniform(0.15, 0.32), rng.uniform(0.13, 0.3)  # half of them
    radius = rng.uniform(0.012, 0.025)  # of posts
    rear_width, thick = width * rng.uniform(0.75, 1.0), rng.uniform(0.025, 0.08)
    texture = pick_texture(rng, 0.25)
    high, tilt = rng.uniform(0.12, 0.7), rng.uniform(0.0, 0.18)
    top_width = rear_width * rng.uniform(0.6, 1.1)
    rim = ((-width, 0, depth), (width, 0, depth), (rear_width, 0, -depth), (-rear_width, 0, -depth))
    rim, top_z = np.array(rim), -depth - tilt
    top = np.array(((-top_width, -high, top_z), (top_width, -high, top_z)))
    parts = make_slab(rim, np.array((0, thick, 0)), colour, texture)
    backrest = Backrest(rim[[3, 2]], top, np.array((0, 0, -rng.uniform(0.015, 0.05))))
    parts += build_backrest(rng, backrest, radius, colour, wood, texture)
    if rng.random() < 0.35:
        parts += build_armrests(rng, width, rear_width, depth, wood)
    return parts, np.concatenate((rim, top))


def build_chair(rng):
    """Keypoint-5: four feet, then seat and backrest."""
    colour, wood = pick_colour(rng), pick_colour(rng, 20, 190)
    frame = wood if rng.random() < 0.6 else shade(colour, 0.85)
    parts, corners = build_seat_and_back(rng, colour, frame)
    tall, radius = rng.uniform(0.18, 0.58), rng.uniform(0.01, 0.032)
    splay = rng.uniform(-0.02, 0.1, 3) * (1, 0, 1)
    outwards = np.sign(corners[:4])
    tops = corners[:4] - outwards * radius + (0, 0.04, 0)
    feet = tops + outwards * splay + (0, tall, 0)
    for top, foot in zip(tops, feet, strict=True):
        parts.append(limb(top, foot, 1.15 * radius, radius, wood, bias=-0.02))
    if rng.random() < 0.4:
        half = (tops + feet) / 2
        for i, j in ((0, 3), (1, 2), (0, 1)):  # stretchers
            parts.append(limb(half[i], half[j], 0.6 * radius, 0.6 * radius, wood, bias=-0.02))
    keypoints = np.concatenate((feet + (0, radius, 0), corners))
    return Figure(parts, keypoints, pick_view(rng, 60, (3, 42), 32))


def build_swivel_chair(rng):
    """Keypoint-5: five wheels, the column's foot and top, then seat and backrest."""
    colour, metal = pick_colour(rng), pick_colour(rng, 20, 150)
    view = pick_view(rng, 65, (3, 42), 45)
    parts, corners = build_seat_and_back(rng, colour, metal)
    tall, reach = rng.uniform(0.2, 0.8), rng.uniform(0.16, 0.44)
    wheel = rng.uniform(0.025, 0.045)
    low, high = np.array((0, tall, 0)), np.array((0, rng.uniform(0.1, 0.18), 0))
    # MP-100 counts the wheels clockwise in the image from the lower left one, wherever the seat is
    # turned.
    angle = np.radians(144 + 72 * np.arange(5) + rng.uniform(-30, 30)) + view.yaw
    floor = tall + rng.uniform(0.02, 0.07)
    wheels = stack_points(reach * np.cos(angle), floor, reach * np.sin(angle))
    radii = (0.8 * wheel, wheel, 0.8 * wheel)
    parts += [limb(low, at - (0, wheel, 0), 0.03, 0.016, metal, bias=-0.01) for at in wheels]
    parts += [ball(at, radii, (35, 35, 38)) for at in wheels]
    under_the_seat = (0, 0.05, 0)
    parts += [
        limb(low, high, 0.03, 0.02, shade(metal, 1.3), bias=-0.02),
        limb(high, under_the_seat, 0.035, 0.09, shade(metal, 0.7), bias=-0.02),
    ]
    return Figure(parts, np.concatenate((wheels, (low, high), corners)), view)


# Sofa, bed, table.


def build_feet(places, up, radius, top_radius, wood):
    """Legs that end at `places` (n, 3) and begin `up` above them."""
    parts = []
    for at in places:
        top, foot = at - (0, up, 0), at - (0, radius, 0)
        parts.append(limb(top, foot, top_radius, radius, wood, bias=-0.05))
    return parts


def build_cushions(rng, width, depth, thick, high, colour):
    """The lines between the cushions, and loose ones."""
    parts, dark = [], shade(colour, 0.6)
    for x in np.linspace(-width, width, rng.integers(2, 5))[1:-1]:
        on_the_seat = ((x, 0, -depth), (x, 0, depth), (x, 0.5 * thick, depth))
        parts.append(line(on_the_seat, 0.01, dark, bias=0.2))
        parts.append(line(((x, -high, -depth), (x, 0, -depth)), 0.01, dark, bias=0.1))
    for x in rng.uniform(-0.75, 0.75, rng.integers(0, 3)) * width:
        middle, radii = (x, -0.07, -depth + 0.08), (0.09, 0.08, 0.04)
        parts.append(ball(middle, radii, pick_colour(rng), bias=0.05))
    return parts


def build_sofa(rng):
    """Keypoint-5: of either side two feet, two corners of the seat, two of the armrest, the top."""
    colour, wood = pick_colour(rng), pick_colour(rng, 15, 140)
    texture = pick_texture(rng, 0.35)
    width, depth, tall, thick = rng.uniform((0.18, 0.15, 0.03, 0.1), (0.62, 0.32, 0.16, 0.24))
    side, up, high, deep = rng.uniform((0.04, 0.07, 0.2, 0.06), (0.12, 0.22, 0.48, 0.15))
    half_back, rear = width + side * 0.9, -depth - deep
    parts = make_box((-width, 0, -depth), (width, thick, depth), colour, texture)
    back = (-half_back, -high, rear), (half_back, thick, -depth)
    parts += make_box(*back, shade(colour, 0.95), texture)
    for x in (-width - side, width):
        armrest = (x, -up, -depth), (x + side, thick, depth + 0.015)
        parts += make_box(*armrest, shade(colour, 1.05), texture)
    parts += build_cushions(rng, width, depth, thick, high, colour)
    radius, keypoints = rng.uniform(0.015, 0.03), []
    for m in (-1, 1):
        foot_x, rest = m * (width + side - radius), m * (width + side / 2)
        feet = np.array([(foot_x, thick + tall, z) for z in (rear + radius, depth - radius)])
        parts += build_feet(feet, tall + 0.02, radius, 1.2 * radius, wood)
        keypoints += [
            *feet,
            (m * width, 0, -depth),
            (m * width, 0, depth),
            (rest, -up, -depth),
            (rest, -up, depth + 0.015),
            (m * half_back, -high, -depth),
        ]
    return Figure(parts, np.array(keypoints), pick_view(rng, 58, (5, 42), 24))


def build_bedding(rng, width, depth, thick, cloth, cover, texture):
    """A blanket that hangs down a little, and pillows."""
    z, drop = rng.uniform(-0.5, 0.2) * depth, rng.uniform(0.3, 1) * thick
    blanket = (-width - 0.004, -0.008, z), (width + 0.004, drop, depth + 0.008)
    parts = make_box(*blanket, cover, texture, bias=0.03)
    radii = (0.36 * width + 0.03, 0.04, 0.08)
    for x in (-0.5, 0.5) if width > 0.3 else (0,):
        pillow = (x * width, -0.03, -depth + 0.11)
        parts.append(ball(pillow, radii, shade(cloth, 1.05), bias=0.05))
    return parts


def build_bed(rng):
    """Keypoint-5: of either side two feet, two corners of the mattress, the headboard's top."""
    wood, cloth = pick_colour(rng, 30, 210), pick_colour(rng, 150, 250)
    cover, texture = pick_colour(rng), pick_texture(rng, 0.5)
    width, depth, tall, thick = rng.uniform((0.2, 0.34, 0.05, 0.06), (0.46, 0.56, 0.2, 0.14))
    base, high = thick + rng.uniform(0.05, 0.1), rng.uniform(0.12, 0.4)
    radius = rng.uniform(0.015, 0.04)
    board_width, board_rear = width + 0.01, -depth - 0.06
    parts = make_box((-width, thick, -depth), (width, base, depth), wood)
    parts += make_box((-width, 0, -depth), (width, thick, depth), cloth)
    headboard = (-width - 0.01, -high, board_rear), (board_width, base, -depth)
    parts += make_box(*headboard, shade(wood, 0.92))
    for x in np.linspace(-width, width, rng.integers(2, 7))[1:-1]:
        gap = ((x, -high, -depth), (x, 0, -depth))
        parts.append(line(gap, 0.008, shade(wood, 0.6), bias=0.05))
    parts += build_bedding(rng, width, depth, thick, cloth, cover, texture)
    keypoints = []
    for m in (-1, 1):
        foot_x, ends = m * (width - radius), (board_rear + radius, depth - radius)
        feet = np.array([(foot_x, base + tall, z) for z in ends])
        parts += build_feet(feet, tall + 0.03, radius, radius, wood)
        keypoints += [*feet, (m * width, 0, -depth), (m * width, 0, depth)]
        keypoints.append((m * board_width, -high, -depth))
    return Figure(parts, np.array(keypoints), pick_view(rng, 60, (8, 40), 20))


def build_table(rng):
    """Keypoint-5: the corners of the top, then the feet."""
    wood, dark = pick_colour(rng), pick_colour(rng, 20, 200)
    least, most = (0.22, 0.18, 0.2, 0.015, 0.012), (0.6, 0.4, 0.6, 0.06, 0.045)
    width, depth, tall, thick, radius = rng.uniform(least, most)
    top = (-width, 0, -depth), (width, thick, depth)
    parts = make_box(*top, wood, pick_texture(rng, 0.2))
    # The left of a table in MP-100 is its near side, its front the right end of that (means in the
    # annotations).
    corners = np.array([(x * width, 0, z * depth) for z in (1, -1) for x in (1, -1)])
    outwards = np.sign(corners)
    tops = corners - outwards * (radius + rng.uniform(0.0, 0.07)) + (0, thick + radius, 0)
    feet = tops + outwards * rng.uniform(-0.02, 0.1) + (0, tall, 0)
    for start, end in zip(tops, feet, strict=True):
        parts.append(limb(start, end, radius, 0.8 * radius, dark, bias=-0.03))
    if rng.random() < 0.5:  # the apron under the top
        parts += make_slab(tops[[1, 0, 2, 3]], np.array((0, 0.06, 0)), dark, bias=-0.03)
    if rng.random() < 0.4:  # something on it
        x, z = rng.uniform(-0.5, 0.5, 2) * (width, depth)
        colour = pick_colour(rng)
        parts.append(limb((x, -0.04, z), (x, -0.1, z), 0.035, 0.045, colour, bias=0.1))
    keypoints = np.concatenate((corners, feet + (0, radius * 0.8, 0)))
    return Figure(parts, keypoints, pick_view(rng, 55, (6, 42), 20))

"""Shapes in space that figures are made of, and their outlines when turned and projected.

A template builds a Figure: parts, keypoints, and a view for it. A part is a ball, a limb, a polygon
or a line:

    body = ball((0, 0, 0), (0.3, 0.2, 0.4), BROWN)
    leg = limb((0, 0, 0.4), (0, 0.5, 0.4), 0.05, 0.04, BROWN)

Axes of a figure: x to the right, y down, z towards the viewer, about 1 in size. Unturned it faces
the viewer, so the subject's own right is at negative x. The projection is orthographic: it drops z.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

BLACK, WHITE, GREY = (35, 30, 30), (240, 238, 232), (140, 140, 140)
BROWN, CREAM, PINK, HORN = (120, 80, 50), (235, 220, 190), (225, 150, 150), (205, 190, 150)

ANGLES = np.arange(24) * np.pi / 12
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)  # (24, 2)
FRONT_HALF = CIRCLE[np.arange(-6, 7)]  # (13, 2), at +x
REAR_HALF = CIRCLE[6:19]  # (13, 2), at -x
MIRROR = np.array((-1.0, 1.0, 1.0))


class Texture(NamedTuple):
    pattern: str  # one of scene.SPACINGS
    colour: tuple | None = None  # None: a shade of what it lies on


@dataclass
class Part:
    """A shape in object units, made by one of the four functions below."""

    kind: str  # "ball", "limb", "polygon" or "line"
    points: np.ndarray  # (n, 3)
    colour: tuple
    axes: np.ndarray | None = None  # of a ball (3, 3): its half axes as columns
    radii: tuple | None = None  # of a limb: at its start and at its end
    width: float | None = None  # of a line
    bias: float = 0.0  # added to the depth, to be painted later
    texture: Texture | None = None
    outline: tuple | None = None  # colour; None: a darker shade of the fill
    boxed: bool = True  # whether the object's box encloses it


class Viewpoint(NamedTuple):
    """Angles in radians, as `rotation` takes them."""

    yaw: float
    pitch: float
    roll: float


class Figure(NamedTuple):
    """What a template builds: one individual of a category, and the view on it."""

    parts: list
    keypoints: np.ndarray  # (K, 3), in MP-100's order
    view: Viewpoint


# The four shapes.


def ball(centre, radii, colour, turn=None, bias=0.0, texture=None):
    """Ellipsoid with half axes `radii` along the columns of `turn` (3, 3)."""
    axes = np.diag(radii) if turn is None else np.asarray(turn) * np.asarray(radii)
    points = np.array([centre], float)
    return Part("ball", points, colour, axes=axes, bias=bias, texture=texture)


def limb(start, end, start_radius, end_radius, colour, bias=0.0, texture=None):
    """Tapered capsule between two points (3)."""
    points, radii = np.array([start, end], float), (start_radius, end_radius)
    return Part("limb", points, colour, radii=radii, bias=bias, texture=texture)


def polygon(corners, colour, smooth=False, bias=0.0, texture=None, outline=None):
    """Filled polygon through `corners` (n, 3); smooth: through a closed curve."""
    corners = np.asarray(corners, float)
    if smooth:
        corners = round_corners(corners)
    return Part("polygon", corners, colour, bias=bias, texture=texture, outline=outline)


def line(points, width, colour, bias=0.0):
    """Stroked polyline through `points` (n, 3)."""
    return Part("line", np.asarray(points, float), colour, width=width, bias=bias)


def round_corners(points):
    """Points (5 n, 3) on the closed Catmull-Rom curve through `points` (n, 3)."""
    before, after, later = (np.roll(points, k, 0) for k in (1, -1, -2))
    t = np.linspace(0, 1, 6)[:-1, None, None]
    linear = (after - before) * t
    square = (2 * before - 5 * points + 4 * after - later) * t**2
    cubic = (3 * points - before - 3 * after + later) * t**3
    curve = 0.5 * (2 * points + linear + square + cubic)  # (5, n, 3)
    return curve.transpose(1, 0, 2).reshape(-1, 3)


# Colours and places.


def shade(colour, factor):
    """The colour made darker (factor < 1) or lighter."""
    return tuple(int(min(255, max(0, c * factor))) for c in colour)


def choose_contrast(colour, factor=0.55):
    """A tone that can be seen on the colour: darker on a light one, lighter on a dark one."""
    if np.mean(colour) > 90:
        return shade(colour, factor)
    return shade(np.add(colour, 60 * (1 - factor)), 2 - factor)


def rotation(yaw=0.0, pitch=0.0, roll=0.0):
    """Turn (3, 3) by yaw (positive: the face goes to image right), then by pitch (positive: seen
    from above), then by roll."""
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    by_yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    by_pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    by_roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return by_roll @ by_pitch @ by_yaw


class Frame(NamedTuple):
    """Coordinates of their own for a head: where they begin, how they are turned, their unit."""

    origin: np.ndarray  # (3,)
    turn: np.ndarray  # (3, 3)
    unit: float = 1.0

    def place(self, x, y, z):
        return self.origin + self.turn @ np.array([x, y, z]) * self.unit


def stack_points(x, y, z):
    """Points (n, 3) from coordinates that broadcast."""
    points = np.empty((*np.broadcast(x, y, z).shape, 3))
    points[..., 0], points[..., 1], points[..., 2] = x, y, z
    return points


def find_direction(angle, sideways=0.0):
    """Unit vector in the subject's middle plane: 0 is down, positive towards its front; sideways:
    towards +x."""
    vector = np.array([sideways, np.cos(angle), np.sin(angle)])
    return vector / np.linalg.norm(vector)


def mirror_parts(parts):
    """The same parts on the subject's other side. Balls must not be turned."""
    return [replace(part, points=part.points * MIRROR) for part in parts]


def leave_unboxed(parts):
    """The parts, outside the object's box: MP-100 boxes a face without its ears, horns and neck."""
    return [replace(part, boxed=False) for part in parts]


def make_eye(at, radius):
    """A dark eye with a light rim, so that it shows on any coat."""
    return [
        ball(at, [radius * 1.3] * 3, (215, 205, 190)),
        ball(at, [radius] * 3, BLACK, bias=0.01),
    ]


# Projection.


class Projection(NamedTuple):
    """A part after a turn, seen along z."""

    part: Part
    points: np.ndarray  # (n, 3), turned
    outline: np.ndarray  # (m, 2)
    grain: np.ndarray  # (2, 2): the directions in which a texture runs
    axes: np.ndarray | None = None  # of a ball (3, 3), turned

    def find_top(self):
        """The depth of its nearest point, or a little more."""
        reach = 0 if self.axes is None else np.linalg.norm(self.axes[2])
        return self.points[:, 2].max() + reach


def project(part, turn):
    """The Projection of a part after the turn (3, 3)."""
    points = part.points @ turn.T
    if part.kind == "ball":
        return project_ball(part, points, turn)
    if part.kind == "limb":
        return project_limb(part, points, turn)
    return Projection(part, points, points[:, :2], turn[:2, :2].T)


def project_ball(part, points, turn):
    """The outline of an ellipsoid is the ellipse of P Sigma P^T."""
    axes = turn @ part.axes  # (3, 3)
    covariance = axes[:2] @ axes[:2].T
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(2))
    longest_first = np.argsort(-(axes[:2] ** 2).sum(0))
    grain = axes[:2].T[longest_first[:2]]
    return Projection(part, points, points[0, :2] + CIRCLE @ root.T, grain, axes)


def project_limb(part, points, turn):
    """Half a circle at either end, joined; where one end covers the other, its circle."""
    (start, end), (start_radius, end_radius) = points[:, :2], part.radii
    along, length = end - start, np.hypot(*(end - start))
    if length <= abs(start_radius - end_radius) + 1e-6:
        middle = start if start_radius > end_radius else end
        outline = middle + CIRCLE * max(start_radius, end_radius)
        return Projection(part, points, outline, turn[:2, :2].T)
    u = along / length
    grain = np.stack([u, [-u[1], u[0]]])  # (2, 2)
    front = end + FRONT_HALF @ grain * end_radius
    rear = start + REAR_HALF @ grain * start_radius
    return Projection(part, points, np.concatenate([front, rear]), grain)


def find_inside(points, corners):
    """Which of `points` (K, 2) lie inside the polygon of `corners` (n, 2): even-odd rule. (K,)"""
    (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, 0).T
    x, y = points[:, :1], points[:, 1:]
    crosses = (y0 > y) != (y1 > y)  # (K, n)
    height = np.where(y1 == y0, 1, y1 - y0)
    to_the_left = x < x0 + (y - y0) * (x1 - x0) / height
    return (crosses & to_the_left).sum(1) % 2 == 1

"""Looks of animals on four legs: how each category differs from the others.

animals.py builds an individual from a look.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from drawings.shapes import BLACK, BROWN, CREAM, PINK, WHITE, Texture


class Ear(NamedTuple):
    kind: str  # "point", or one of EAR_SHAPES
    size: float


class Tail(NamedTuple):
    length: float
    rise: float  # angle over the horizontal at its root, in radians
    curl: float  # what each of its four links adds to that angle
    root: float  # radius where it begins
    end: float  # radius where it ends


class Mane(NamedTuple):
    kind: str  # "crest" along the neck, "ruff" around the head
    colour: tuple


@dataclass(frozen=True)
class AnimalLook:
    """Lengths and radii in object units. A colour of None is that of the coat, or no such mark."""

    coat: tuple = BROWN
    legs: float = 0.36  # length
    body: float = 0.5  # length
    girth: float = 0.13  # radius of the trunk
    thick: float = 0.045  # radius of the legs
    neck: float = 0.14  # length
    neck_up: float = 0.7  # angle over the horizontal, in radians
    head: float = 0.095  # radius
    snout: float = 0.11  # length
    muzzle: float = 0.55  # radius of the snout's end, in units of the head
    ear: Ear = Ear("point", 0.09)
    tail: Tail = Tail(0.25, -0.6, -0.1, 0.02, 0.015)
    horn: str | None = None  # "antler", "curved", "upright", "rhino" or "trunk"
    mane: Mane | None = None
    sits: float = 0.25  # how often it sits or lies
    texture: Texture | None = None
    limbs: tuple | None = None
    hoof: tuple | None = None
    belly: tuple | None = None
    saddle: tuple | None = None
    face: tuple | None = None
    mask: tuple | None = None  # around the eyes
    ear_colour: tuple | None = None
    tip: tuple | None = None  # of the tail


ANIMAL = AnimalLook()
CAT = AnimalLook(
    legs=0.28, body=0.5, girth=0.1, thick=0.036, neck=0.1, head=0.095, snout=0.035, muzzle=0.5,
    ear=Ear("point", 0.09), tail=Tail(0.4, -0.3, 0.25, 0.022, 0.02), sits=0.5,
)
BEAR = AnimalLook(
    legs=0.28, body=0.5, girth=0.19, thick=0.07, neck=0.1, neck_up=0.3, head=0.13, snout=0.08,
    ear=Ear("round", 0.09), tail=Tail(0.04, -0.5, 0, 0.03, 0.03), sits=0.5,
)
HOOFED = AnimalLook(hoof=BLACK, ear=Ear("side", 0.08), sits=0.1)
RODENT = AnimalLook(
    legs=0.14, body=0.4, girth=0.14, thick=0.03, neck=0.05, neck_up=0.4, head=0.11, snout=0.06,
    muzzle=0.4, ear=Ear("round", 0.08), sits=0.4,
)
LONG = AnimalLook(
    legs=0.14, body=0.6, girth=0.09, thick=0.032, neck=0.14, neck_up=0.5, head=0.08, snout=0.05,
    ear=Ear("round", 0.05), sits=0.3,
)

LOOKS = {
    "horse_body": replace(
        HOOFED, coat=(135, 75, 40), legs=0.46, girth=0.135, neck=0.27, neck_up=0.9, snout=0.17,
        head=0.08, limbs=(70, 45, 35), ear=Ear("point", 0.07), mane=Mane("crest", BLACK),
        tail=Tail(0.38, -0.9, -0.15, 0.03, 0.05), tip=BLACK,
    ),
    "dog_body": AnimalLook(
        coat=(205, 165, 100), legs=0.32, girth=0.11, neck=0.14, head=0.1, snout=0.1,
        ear=Ear("flop", 0.1), tail=Tail(0.28, 0.5, 0.3, 0.025, 0.015), sits=0.5, belly=CREAM,
    ),
    "panda_body": replace(BEAR, coat=WHITE, limbs=BLACK, ear_colour=BLACK, mask=BLACK, girth=0.2),
    "hamster_body": replace(
        RODENT, coat=(225, 170, 105), belly=WHITE, legs=0.1, girth=0.17, body=0.34,
        tail=Tail(0.03, 0, 0, 0.015, 0.01),
    ),
    "panther_body": replace(
        CAT, coat=(42, 42, 50), ear=Ear("round", 0.07), girth=0.12, face=(60, 60, 68),
    ),
    "pig_body": replace(
        HOOFED, coat=(235, 175, 170), legs=0.22, girth=0.18, neck=0.06, neck_up=0.2, head=0.12,
        snout=0.1, muzzle=0.6, ear=Ear("point", 0.11), tail=Tail(0.16, 0.9, 1.3, 0.012, 0.01),
        face=(225, 150, 150),
    ),
    "cat_body": replace(
        CAT, coat=(165, 150, 140), texture=Texture("stripes", (100, 88, 80)),
        tail=Tail(0.4, 0.6, 0.3, 0.02, 0.02),
    ),
    "bobcat_body": replace(
        CAT, coat=(190, 150, 105), texture=Texture("dots", (110, 80, 50)),
        tail=Tail(0.08, 0.1, 0.2, 0.025, 0.025), ear=Ear("point", 0.13), legs=0.33, belly=CREAM,
    ),
    "elephant_body": AnimalLook(
        coat=(135, 132, 138), legs=0.42, girth=0.22, body=0.55, thick=0.085, neck=0.08, neck_up=0.4,
        head=0.15, snout=0.03, ear=Ear("fan", 0.17), horn="trunk",
        tail=Tail(0.25, -1.2, -0.1, 0.014, 0.012), sits=0,
    ),
    "deer_body": replace(
        HOOFED, coat=(170, 110, 65), legs=0.46, girth=0.11, neck=0.22, neck_up=1.0, head=0.07,
        snout=0.09, horn="antler", thick=0.034, belly=CREAM, tail=Tail(0.07, 0.2, 0, 0.025, 0.015),
        muzzle=0.4,
    ),
    "rabbit_body": replace(
        RODENT, coat=(175, 155, 135), ear=Ear("long", 0.14), tail=Tail(0.03, 0.3, 0, 0.045, 0.045),
        tip=WHITE, legs=0.18, belly=CREAM, snout=0.04,
    ),
    "bison_body": replace(
        HOOFED, coat=(95, 62, 40), legs=0.3, girth=0.2, neck=0.09, neck_up=-0.2, head=0.13,
        snout=0.1, mane=Mane("ruff", (55, 36, 26)), horn="curved",
        tail=Tail(0.22, -1.1, -0.1, 0.014, 0.02), limbs=(60, 40, 30),
    ),
    "rhino_body": AnimalLook(
        coat=(150, 145, 140), legs=0.28, girth=0.2, body=0.6, thick=0.075, neck=0.1, neck_up=0.0,
        head=0.11, snout=0.14, horn="rhino", tail=Tail(0.16, -1.1, 0, 0.014, 0.012), sits=0.05,
        ear=Ear("point", 0.08),
    ),
    "squirrel_body": replace(
        RODENT, coat=(175, 95, 45), belly=WHITE, girth=0.1, tail=Tail(0.55, 0.9, 0.3, 0.05, 0.1),
        ear=Ear("point", 0.08), sits=0.7, legs=0.2,
    ),
    "gorilla_body": AnimalLook(
        coat=(62, 60, 66), legs=0.38, girth=0.19, body=0.42, thick=0.07, neck=0.1, neck_up=0.8,
        head=0.13, snout=0.03, muzzle=0.6, face=(40, 38, 42), ear=Ear("round", 0.05),
        tail=Tail(0.02, -0.5, 0, 0.02, 0.02), sits=0.5, saddle=(120, 120, 125),
    ),
    "sheep_body": replace(
        HOOFED, coat=(236, 230, 215), limbs=(60, 52, 50), face=(60, 52, 50), girth=0.2, body=0.45,
        legs=0.26, neck=0.12, neck_up=0.5, thick=0.032, tail=Tail(0.1, -1.0, 0, 0.035, 0.03),
        texture=Texture("dots", (215, 208, 192)), ear_colour=(60, 52, 50),
    ),
    "spider_monkey_body": AnimalLook(
        coat=(75, 55, 45), legs=0.5, girth=0.09, body=0.4, thick=0.032, neck=0.1, head=0.085,
        snout=0.02, face=(200, 165, 140), ear=Ear("round", 0.05),
        tail=Tail(0.6, 0.5, 0.7, 0.022, 0.015), sits=0.4,
    ),
    "otter_body": replace(
        LONG, coat=(105, 75, 55), belly=(190, 165, 135), girth=0.11,
        tail=Tail(0.35, -0.2, 0, 0.055, 0.015), muzzle=0.65,
    ),
    "leopard_body": replace(
        CAT, coat=(220, 175, 95), texture=Texture("spots", (70, 50, 30)), ear=Ear("round", 0.08),
        girth=0.12,
    ),
    "hippo_body": AnimalLook(
        coat=(150, 115, 120), legs=0.17, girth=0.22, body=0.6, thick=0.08, neck=0.06, neck_up=0.1,
        head=0.12, snout=0.15, muzzle=1.0, ear=Ear("round", 0.06),
        tail=Tail(0.08, -1, 0, 0.018, 0.01), sits=0.1, belly=(205, 160, 155),
    ),
    "zebra_body": replace(
        HOOFED, coat=WHITE, texture=Texture("stripes", BLACK), legs=0.42, girth=0.14, neck=0.23,
        neck_up=0.85, snout=0.14, head=0.08, face=(70, 65, 65), ear=Ear("point", 0.07),
        mane=Mane("crest", BLACK), tail=Tail(0.32, -1.0, 0, 0.015, 0.03),
    ),
    "antelope_body": replace(
        HOOFED, coat=(200, 140, 80), legs=0.48, girth=0.11, neck=0.2, neck_up=0.9, head=0.07,
        snout=0.1, horn="upright", belly=WHITE, saddle=(120, 75, 45), thick=0.03,
        tail=Tail(0.15, -1.0, 0, 0.012, 0.018),
    ),
    "fox_body": AnimalLook(
        coat=(215, 105, 40), limbs=(60, 40, 35), belly=WHITE, legs=0.27, girth=0.085, thick=0.03,
        head=0.085, snout=0.1, muzzle=0.3, ear=Ear("point", 0.12),
        tail=Tail(0.45, -0.4, 0.1, 0.04, 0.065), tip=WHITE, sits=0.35,
    ),
    "skunk_body": AnimalLook(
        coat=(38, 36, 40), saddle=WHITE, legs=0.16, girth=0.11, body=0.42, thick=0.032, neck=0.06,
        head=0.08, snout=0.07, muzzle=0.35, ear=Ear("round", 0.05),
        tail=Tail(0.45, 0.8, 0.25, 0.05, 0.09), tip=WHITE, sits=0.1,
    ),
    "giraffe_body": replace(
        HOOFED, coat=(230, 190, 120), texture=Texture("patches", (150, 90, 45)), legs=0.56,
        body=0.4, girth=0.12, neck=0.55, neck_up=1.15, head=0.065, snout=0.1, thick=0.034,
        horn="upright", tail=Tail(0.25, -1.2, 0, 0.012, 0.02),
    ),
    "lion_body": replace(
        CAT, coat=(210, 160, 95), mane=Mane("ruff", (125, 70, 35)), girth=0.125, head=0.1,
        ear=Ear("round", 0.08), tip=(80, 50, 35), snout=0.05, legs=0.32,
    ),
    "polar_bear_body": replace(
        BEAR, coat=(240, 236, 222), neck=0.18, head=0.1, ear=Ear("round", 0.06), legs=0.3,
    ),
    "cheetah_body": replace(
        CAT, coat=(230, 190, 115), texture=Texture("dots", BLACK), legs=0.4, girth=0.095, head=0.07,
        ear=Ear("round", 0.06), sits=0.3,
    ),
    "cow_body": replace(
        HOOFED, coat=WHITE, texture=Texture("patches", (50, 42, 40)), legs=0.32, girth=0.18,
        body=0.58, neck=0.15, neck_up=0.5, snout=0.13, horn="curved", face=(230, 180, 170),
        tail=Tail(0.35, -1.3, 0, 0.012, 0.02),
    ),
    "rat_body": replace(
        RODENT, coat=(125, 115, 110), tail=Tail(0.5, -0.2, 0.1, 0.015, 0.008), tip=PINK, girth=0.11,
        body=0.42, snout=0.1, muzzle=0.25, hoof=PINK,
    ),
    "raccoon_body": replace(
        RODENT, coat=(135, 130, 125), mask=BLACK, tail=Tail(0.32, -0.2, 0.2, 0.05, 0.045),
        tip=BLACK, legs=0.2, limbs=(80, 75, 75), ear=Ear("point", 0.08), muzzle=0.3, face=WHITE,
    ),
    "beaver_body": replace(
        RODENT, coat=(110, 70, 42), girth=0.17, tail=Tail(0.25, -0.3, 0.05, 0.05, 0.085),
        tip=(60, 50, 48), legs=0.12, muzzle=0.55, ear=Ear("round", 0.04),
    ),
    "weasel_body": replace(
        LONG, coat=(165, 105, 60), belly=WHITE, girth=0.065, head=0.06,
        tail=Tail(0.22, 0, 0.1, 0.02, 0.02), thick=0.022,
    ),
    "wolf_body": AnimalLook(
        coat=(150, 148, 145), saddle=(85, 85, 88), belly=(215, 212, 205), legs=0.37, girth=0.12,
        head=0.1, snout=0.12, muzzle=0.4, ear=Ear("point", 0.1),
        tail=Tail(0.32, -0.9, 0.1, 0.04, 0.05), sits=0.2,
    ),
    "macaque": AnimalLook(
        coat=(165, 135, 100), legs=0.36, girth=0.12, body=0.4, thick=0.038, neck=0.09, neck_up=0.8,
        head=0.105, snout=0.03, face=(225, 165, 150), ear_colour=(215, 160, 145),
        ear=Ear("round", 0.075), tail=Tail(0.2, 0.3, 0.4, 0.02, 0.015), sits=0.55,
        hoof=(215, 160, 145),
    ),
}

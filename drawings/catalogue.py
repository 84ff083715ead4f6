"""Which template builds which category: {definition: template}, {category: look}.

A template takes a random generator, and the look where categories of its definition differ.
"""

from functools import partial

from drawings import animal_faces, animal_looks, birds, vehicles
from drawings.animal_faces import build_animal_face
from drawings.animals import build_animal_body, build_macaque
from drawings.birds import build_bird
from drawings.clothes import build_garment, build_legwear, build_skirt
from drawings.furniture import build_bed, build_chair, build_sofa, build_swivel_chair, build_table
from drawings.insects import build_fly, build_locust
from drawings.people import (
    build_human_body,
    build_human_face_19,
    build_human_face_68,
    build_human_hand,
)
from drawings.vehicles import build_vehicle

TEMPLATES = {
    "animal_body": build_animal_body,
    "macaque": build_macaque,
    "animal_face": build_animal_face,
    "bird": build_bird,
    "locust": build_locust,
    "fly": build_fly,
    "human_face_19": build_human_face_19,
    "human_face_68": build_human_face_68,
    "human_body": build_human_body,
    "human_hand": build_human_hand,
    "sling": partial(build_garment, strap=True),
    "sling_dress": partial(build_garment, strap=True, dress=True),
    "vest": build_garment,
    "vest_dress": partial(build_garment, dress=True),
    "short_sleeved_shirt": partial(build_garment, sleeves="short"),
    "short_sleeved_dress": partial(build_garment, sleeves="short", dress=True),
    "short_sleeved_outwear": partial(build_garment, sleeves="short", coat=True),
    "long_sleeved_shirt": partial(build_garment, sleeves="long"),
    "long_sleeved_dress": partial(build_garment, sleeves="long", dress=True),
    "long_sleeved_outwear": partial(build_garment, sleeves="long", coat=True),
    "skirt": build_skirt,
    "shorts": partial(build_legwear, long=False),
    "trousers": partial(build_legwear, long=True),
    "chair": build_chair,
    "swivelchair": build_swivel_chair,
    "sofa": build_sofa,
    "bed": build_bed,
    "table": build_table,
    "vehicle": build_vehicle,
}
LOOKS = {**animal_looks.LOOKS, **animal_faces.LOOKS, **birds.LOOKS, **vehicles.LOOKS}


def find_template(category):
    """The function of a random generator alone that builds figures of a category, an entry of
    descriptions/mp100.json."""
    template = TEMPLATES[category["definition"]]
    look = LOOKS.get(category["name"])
    return partial(template, look=look) if look else template

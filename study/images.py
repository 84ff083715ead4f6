"""Which images an evaluation is of, and the words that describe their keypoints.

    images = choose_images("data/mp100", split=1, part="test", descriptions="descriptions")
"""

from typing import NamedTuple

import data
from study import pairs


class Images(NamedTuple):
    """The images of one part, and which of them are asked about.

    names: {category id: name}; described: {category id: its keypoints}; supports: of
    pairs.count_supports, None without --pairs; pool, chosen: positions of the instances to choose
    from, and of those that are chosen.
    """

    instances: list
    names: dict
    described: dict
    supports: dict | None
    pool: list
    chosen: list


def choose_images(
    folder, split, part, descriptions, names_from=None, as_pairs=False, limit=None
):
    """The Images of a data folder's part. ValueError if there is nothing to measure."""
    instances, names = data.read_split(folder, split, part)
    if not instances or (limit is not None and limit < 1):
        raise ValueError(
            f"nothing to measure: {len(instances)} instances in the {part} part of {folder}, "
            f"--limit {limit}"
        )
    described = data.describe(instances, names, descriptions)
    if names_from:
        for category, others in data.describe(instances, names, names_from).items():
            renamed = zip(described[category], others, strict=True)
            described[category] = [k._replace(name=other.name) for k, other in renamed]
    supports, pool = None, list(range(len(instances)))
    if as_pairs:
        # Nobody asks for an image that no episode draws.
        order = pairs.read_order(folder, split, part, instances)
        supports = pairs.count_supports(instances, described, order)
        pool = sorted(supports)
    count = min(limit or len(pool), len(pool))
    chosen = [pool[n * len(pool) // count] for n in range(count)]
    return Images(instances, names, described, supports, pool, chosen)

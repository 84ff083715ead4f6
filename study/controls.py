"""Controls: what a model scores that does not look, or does not read (and Figure 4: occlusion).

A PCK that looks good proves little by itself: a keypoint's average place scores, too. So the same
images are scored with the average place of each keypoint in training, and asked again with another
image, or another keypoint's text, of the same definition: a model that looks and reads falls then.
Occlusion covers a share of the object's box with grey rectangles.
"""

import random
from typing import NamedTuple

import numpy as np
import torch

import data
from study.metrics import find_definitions
from support.coco import PARTS
from support.photos import PIXEL_MEAN, PIXEL_STD

# Mid-grey, normalised as pixels are.
COVER_COLOUR = (0.5 - PIXEL_MEAN) / PIXEL_STD


class Control(NamedTuple):
    """What an image is controlled with.

    mean: (K, 2), average places of its keypoints relative to the crop, NaN where nothing is known;
    other: another instance of its definition, itself if there is none; exchange: {keypoint: another
    one of the category}.
    """

    mean: np.ndarray
    other: data.Instance
    exchange: dict


def prepare_controls(folder, split, part, instances, names, described):
    """A Control for each of the instances, which are those of this part of a data folder.

    Also returns the definitions without an instance in training. Their average place is from
    other parts, or from the measured images themselves, which favours this control.
    """
    definition = find_definitions(names)
    pools = collect_pools(folder, split, part, definition, described)
    means = {name: average_places(parts) for name, parts in pools.items()}
    others = pair_within([definition[i.category] for i in instances])
    exchanges = {c: derange(keypoints, definition[c]) for c, keypoints in described.items()}
    controls = []
    for n, instance in enumerate(instances):
        mean = means[definition[instance.category]]
        controls.append(Control(mean, instances[others[n]], exchanges[instance.category]))
    return controls, sorted(name for name, (training, *_) in pools.items() if not training)


def collect_pools(folder, split, part, definition, described):
    """{definition: its instances in each part}: training first, the measured part last.

    definition: {category: its definition}. Only the measured part must be there.
    """
    sizes = {definition[category]: len(keypoints) for category, keypoints in described.items()}
    pools = {name: [] for name in sizes}
    for other in sorted(PARTS, key=lambda name: (name != "train", name == part)):
        try:
            instances, names = data.read_split(folder, split, other)
        except FileNotFoundError:
            instances, names = [], {}
        of = find_definitions(names)
        for name, K in sizes.items():
            same = [i for i in instances if of[i.category] == name and len(i.keypoints) == K]
            pools[name].append(same)
    return pools


def average_places(parts):
    """Average places (K, 2) of keypoints relative to the crop.

    parts: lists of instances; a keypoint's place is from the first part that labels it.
    """
    mean = np.nan
    for instances in parts:
        if not instances:
            continue
        places = []
        for i in instances:
            place = data.map_to_crop(i.keypoints[:, :2], data.make_affine(i.bbox, 1), 1)
            places.append(np.where(i.keypoints[:, 2:] > 0, place, np.nan))
        stacked = np.stack(places)  # (instances, K, 2)
        with np.errstate(invalid="ignore"):  # 0 / 0: labelled nowhere in this part
            found = np.nansum(stacked, 0) / (~np.isnan(stacked)).sum(0)
        mean = np.where(np.isnan(mean), found, mean)
    return mean


def pair_within(kinds):
    """{position: another position of the same kind}; kinds: of each position."""
    others = {}
    for kind in dict.fromkeys(kinds):
        members = [n for n, other in enumerate(kinds) if other == kind]
        others |= derange(members, kind)
    return others


def derange(items, seed):
    """{item: another item}: each is followed by the next of a seeded shuffle.

    A single item is left with itself.
    """
    order = random.Random(seed).sample(items, len(items))
    return dict(zip(order, order[1:] + order[:1], strict=True))


def draw_covers(bbox, size, shares, rng):
    """For each share, ascending, (share, mask): random rectangles over that share of the box.

    mask: (size, size) bool, of the box's crop. A larger share keeps the rectangles of a smaller
    one. shares: in (0, 1); the last row drawn may exceed them.
    """
    w, h = (max(1, round(size * side / max(bbox[2:]))) for side in bbox[2:])
    x, y = (size - w) // 2, (size - h) // 2
    mask = np.zeros((size, size), bool)
    box = mask[y : y + h, x : x + w]
    shares = sorted(shares)
    while shares:
        width = max(1, int(w * rng.uniform(0.1, 0.4)))
        height = max(1, int(h * rng.uniform(0.1, 0.4)))
        left = x + rng.randrange(w) - width // 2
        top = y + rng.randrange(h) - height // 2
        for row in range(max(0, top), min(size, top + height)):
            mask[row, max(0, left) : left + width] = True
            while shares and box.mean() >= shares[0]:
                yield shares.pop(0), mask.copy()


def cover_pixels(pixels, mask):
    """pixels (3, S, S), grey under the mask (S, S)."""
    return torch.where(torch.from_numpy(mask).to(pixels.device), COVER_COLOUR.to(pixels), pixels)


def find_covered(mask, points):
    """Which of the points (K, 2), relative to the crop, lie under the mask (S, S)."""
    at = np.floor(points * len(mask)).astype(int)
    inside = ((at >= 0) & (at < len(mask))).all(1)
    x, y = at.clip(0, len(mask) - 1).T
    return mask[y, x] & inside

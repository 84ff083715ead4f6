"""From an annotation to pixels, token ids and labels (Sections 3.2, 3.3 and 4.1).

    instances, names = read_split("data/mp100", split=1, part="train")
    keypoints = read_descriptions("descriptions/bird.txt")  # support/descriptions.py
    pixels, points = load_crop(instances[0], size=224)
    ids, labels, _ = write_conversation(tokenizer, codec, [(keypoints[0], (0.25, 0.5))])

Nothing here knows the model: the tokenizer and the digit codec are arguments.
"""

import functools
import itertools
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from study.instructions import BECAUSE, INSTRUCTIONS, REPLACED, TELL, TELL_NOTHING
from support import check, launch, photos
from support.coco import Instance, find_annotations, read_coco

# F401: others read descriptions through this file.
from support.descriptions import Keypoint, read_descriptions, read_mp100  # noqa: F401
from support.passes import check_pair_length
from support.photos import PIXEL_MEAN, PIXEL_STD

MAX_TOKENS = 2048  # of [BOS; V; T], as in the authors' published code: the paper does not say
IGNORE = -100  # the label of a token that carries no loss


def read_annotations(folder, split=1, part="train") -> list[Instance]:
    """Every annotation of one part, in order. FileNotFoundError or ValueError name the fault."""
    return read_coco(find_annotations(folder, split, part), Path(folder) / "images")


def read_split(folder, split=1, part="train"):
    """The usable instances of one part, and the names of their categories {id: name}."""
    instances = [i for i in read_annotations(folder, split, part) if i.usable]
    return instances, {i.category: i.name for i in instances}


def make_affine(bbox, size, scale=1.0, angle=0.0) -> np.ndarray:
    """The 2x3 matrix from crop pixels to image pixels, for the box made square (longest side).

    bbox: x, y, w, h; size: the crop's side in pixels; scale > 1 shows more; angle in radians.
    """
    x, y, w, h = bbox
    s = max(w, h) * scale / size
    c, d = s * np.cos(angle), s * np.sin(angle)
    # The crop's centre (size / 2, size / 2) goes to the box's.
    cx, cy = x + w / 2, y + h / 2
    return np.array([[c, -d, cx - (c - d) * size / 2], [d, c, cy - (d + c) * size / 2]])


def cut_crop(image: Image.Image, affine, size) -> torch.Tensor:
    """Pixels (3, size, size), bilinear, normalised as DINOv2 expects."""
    image = photos.convert_to_rgb(image)
    # Much larger originals are averaged over boxes first; beyond 256 x 256 Pillow's sums are off.
    reduce = min(int(np.hypot(affine[0, 0], affine[1, 0])), 256)
    if reduce > 1:
        image, affine = image.reduce(reduce), affine / reduce
    bilinear = Image.Resampling.BILINEAR
    image = image.transform((size, size), Image.Transform.AFFINE, affine.ravel(), bilinear)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (pixels - PIXEL_MEAN) / PIXEL_STD


def map_to_image(points, affine, size) -> np.ndarray:
    """Relative crop coordinates (..., 2) to image pixels."""
    return np.asarray(points) * size @ affine[:, :2].T + affine[:, 2]


def map_to_crop(points, affine, size) -> np.ndarray:
    """Image pixels (n, 2) to relative crop coordinates; inside the crop they lie in [0, 1)."""
    return (np.asarray(points) - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T / size


def load_crop(instance: Instance, size, scale=1.0, angle=0.0):
    """An instance's pixels (3, size, size) and keypoints (n, 3): x, y relative to the crop, and v.

    Pixels are read as stored, EXIF rotation ignored: MP-100 was annotated on the raw pixels. An
    image stored larger or smaller than annotated, by one factor, is resampled as if it were not.
    """
    affine = make_affine(instance.bbox, size, scale, angle)
    image, factor = photos.open_annotated(instance, max(instance.bbox[2:]) * scale, size)
    pixels = cut_crop(image, affine * factor, size)
    points = map_to_crop(instance.keypoints[:, :2], affine, size)
    return pixels, np.concatenate([points, instance.keypoints[:, 2:]], 1)


def draw_augmentation(rng):
    """The authors': scale clip(1 + 0.3 N(0, 1), 0.7, 1.3); half of the time within 40 degrees."""
    scale = min(max(1 + 0.3 * rng.gauss(0, 1), 0.7), 1.3)
    angle = np.deg2rad(rng.uniform(-40, 40)) if rng.random() < 0.5 else 0.0
    return scale, angle


def load_augmented(instance, size, rng):
    """load_crop as the authors show an image in training, and the keypoint that each point is."""
    pixels, points = load_crop(instance, size, *draw_augmentation(rng))
    return pixels, points, range(len(points))


class Conversation(NamedTuple):
    """Token ids and labels. The label is the id for answer tokens, IGNORE for all others."""

    ids: list
    labels: list
    points: tuple = ()  # (x, y) of each answer


def write_question(tokenizer, keypoint: Keypoint, instruction="base") -> list[int]:
    """Token ids of one question, as asked at inference."""
    chosen = INSTRUCTIONS[instruction]
    words = fill_words(keypoint, chosen.replaced == 1)
    return encode_text(tokenizer, chosen.rounds[0].question, words, start=True)


def write_conversation(
    tokenizer, codec, rounds, instruction="base", category="object", keypoints=(), visible=(),
    rng=None,
) -> Conversation:
    """Rounds of (Keypoint, (x, y)); rng draws phrasings and replaced descriptions.

    category, its keypoints and those visible, in the same order, are for the opening.
    """
    chosen = INSTRUCTIONS[instruction]
    ids, labels, _ = write_opening(tokenizer, codec, instruction, category, keypoints, visible)
    for keypoint, point in rounds:
        turn, is_replaced = chosen.rounds[0], chosen.replaced == 1
        if rng and len(chosen.rounds) > 1:
            turn = rng.choice(chosen.rounds)
        if rng and 0 < chosen.replaced < 1:
            is_replaced = rng.random() < chosen.replaced
        more = write_turn(tokenizer, codec, turn, fill_words(keypoint, is_replaced), point)
        ids += more.ids
        labels += more.labels
    return Conversation(ids, labels, tuple((float(x), float(y)) for _, (x, y) in rounds))


def write_opening(tokenizer, codec, instruction, category, keypoints, visible) -> Conversation:
    """What stands before the rounds. keypoints: all of the category's; visible: of these."""
    words = {
        "category": category.replace("_", " "),
        "list": ", ".join(k.name for k in keypoints),
        "visible": ", ".join(k.name for k in visible),
    }
    ids, labels = [], []
    for turn in INSTRUCTIONS[instruction].opening:
        more = write_turn(tokenizer, codec, turn, words)
        ids += more.ids
        labels += more.labels
    return Conversation(ids, labels)


def fill_words(keypoint, is_replaced=False):
    """What fills a round's template; is_replaced: REPLACED is its description (Table 7)."""
    description = REPLACED if is_replaced else keypoint.description
    because = description[:1].lower() + description[1:]
    return {"name": keypoint.name, "description": description, "because": because}


def write_turn(tokenizer, codec, turn, words, point=None) -> Conversation:
    """A question without loss, and its answer, if any, with the end-of-text token."""
    question = encode_text(tokenizer, turn.question, words, start=True, codec=codec, point=point)
    answer = []
    if turn.answer:
        answer = encode_text(tokenizer, turn.answer, words, start=False, codec=codec, point=point)
        answer += [codec.eos_id]
    return Conversation(question + answer, [IGNORE] * len(question) + answer)


def encode_text(tokenizer, template, words, start, codec=None, point=None):
    """Token ids of a template; start: it begins a turn. codec, point: fill in {point}."""
    # The user gave no description.
    if words.get("description") == "":
        template = template.replace(TELL, TELL_NOTHING).replace(BECAUSE, ".")
    # The words are data: no special token comes out of them.
    first, *rest = template.split("{point}")
    first = first.format(**words)
    # Text follows `ASSISTANT:` after a space, coordinates follow at once.
    if first and not start:
        first = f" {first}"
    ids = list(encode_cached(tokenizer, first, start))
    for part in rest:
        ids += codec.point(*point) + encode_cached(tokenizer, part.format(**words), False)
    return ids


# The same questions are asked of thousands of images.
@functools.lru_cache(16384)
def encode_cached(tokenizer, text, start):
    return tokenizer.encode(text) if start else tokenizer.encode_continuation(text)


def group_fixed(askable, k, rng, lengths, room):
    """Shuffle all keypoints into groups of k (Section 3.3); used ones fill the last group up.

    Then those that cannot be asked fall out, as in the authors' code: groups shrink or vanish.
    lengths has an entry for each keypoint of the category; fewer than k are one group.
    """
    order = rng.sample(range(len(lengths)), len(lengths))
    groups = [order[i:i + k] for i in range(0, len(order), k)]
    if len(groups) > 1:
        groups[-1] += rng.sample(order[:-len(groups[-1])], k - len(groups[-1]))
    asked = []
    for group in groups:
        asked.append([j for j in group if j in askable])
    return [group for group in asked if group]


def group_dynamic(askable, k, rng, lengths, room):
    """Shuffle askable keypoints into groups of varying size, each keypoint in one (Section 3.3).

    A size is uniform in 1 ... as many as are left and fit: lengths[j] tokens for keypoint j, room
    for all of a group. If all fit, a keypoint is in a group of each size equally often: groups
    are distributed as the cycles of a random permutation.
    """
    order, groups = rng.sample(list(askable), len(askable)), []
    while order:
        totals = itertools.accumulate(lengths[j] for j in order)
        size = rng.randint(1, sum(total <= room for total in totals))
        groups.append(order[:size])
        order = order[size:]
    return groups


def group_locllm(askable, k, rng, lengths, room):
    """One random subset of k askable keypoints, or all of fewer: LocLLM's way (Section 3.3)."""
    return [rng.sample(list(askable), min(k, len(askable)))]


GROUPINGS = {"fixed": group_fixed, "dynamic": group_dynamic, "locllm": group_locllm}


class View(NamedTuple):
    """An image and its augmentation: pairs of one view can share it."""

    position: int  # of the instance
    seed: float


class PlannedPair(NamedTuple):
    position: int  # of the instance
    group: list  # keypoints that are asked
    view: View


class Pair(NamedTuple):
    pixels: torch.Tensor  # (3, H, W)
    conversation: Conversation
    view: View


class Pairs(torch.utils.data.Dataset):
    """The Pairs of one epoch of training: `rounds` groups every image's keypoints anew.

    k: rounds of a pair (fixed, locllm); trunk: tokens before the conversation, 1 + patches; share:
    images are shuffled, not pairs, and all pairs of an image have one view; augment: what loads a
    view (None: the plain crop) and says which keypoint each point is, in a mirror another one.
    Groups and views depend on (seed, epoch, instance) alone. A view that shows none of a group's
    keypoints gives way to the plain crop. ValueError if a pair can exceed MAX_TOKENS, unmirrored.
    """

    def __init__(
        self, instances, described, tokenizer, codec, size, k=4, seed=42, augment=load_augmented,
        rounds="fixed", trunk=257, instruction="base", share=False,
    ):
        self.instances, self.described = instances, described
        self.tokenizer, self.codec, self.size = tokenizer, codec, size
        self.k, self.seed, self.augment, self.rounds = k, seed, augment, rounds
        self.instruction, self.share = instruction, share
        self.loaded_view = self.loaded = None  # loaded once for neighbours that share it
        self.opening, self.lengths = {}, {}
        for c, name in {i.category: i.name for i in instances}.items():
            keypoints = described[c]
            opening = write_opening(tokenizer, codec, instruction, name, keypoints, keypoints)
            self.opening[c] = len(opening.ids)
            self.lengths[c] = [self.measure_round(keypoint) for keypoint in keypoints]
        # Keypoints that are labelled and inside the plain crop.
        self.askable = []
        for i in instances:
            points = map_to_crop(i.keypoints[:, :2], make_affine(i.bbox, size), size)
            inside = codec.has_code(points).all(1)
            self.askable.append(np.flatnonzero(inside & (i.keypoints[:, 2] > 0)).tolist())
            self.refuse_long(i, self.askable[-1], trunk)
        self.room = {c: MAX_TOKENS - trunk - tokens for c, tokens in self.opening.items()}
        self.set_epoch(0)

    def measure_round(self, keypoint):
        """The most tokens that a round about this keypoint can take."""
        chosen = INSTRUCTIONS[self.instruction]
        most = 0
        for turn in chosen.rounds:
            for is_replaced in (False, chosen.replaced > 0):
                words = fill_words(keypoint, is_replaced)
                turn_ids = write_turn(self.tokenizer, self.codec, turn, words, (0, 0)).ids
                most = max(most, len(turn_ids))
        return most

    def refuse_long(self, instance, askable, trunk):
        """ValueError if the longest conversation about an instance exceeds MAX_TOKENS."""
        c = instance.category
        longest = sorted((self.lengths[c][j] for j in askable), reverse=True)
        n = 1 if self.rounds == "dynamic" else min(self.k, len(longest))
        tokens = trunk + self.opening[c] + sum(longest[:n])
        check_pair_length(instance, n, tokens, MAX_TOKENS)

    def set_epoch(self, epoch):
        """Group the keypoints of this epoch, and shuffle."""
        blocks = []  # what is shuffled: a pair each, or all pairs of an image
        for n, instance in enumerate(self.instances):
            if not self.askable[n]:
                continue
            c = instance.category
            rng = random.Random(f"{self.seed} {epoch} {c} {instance.id}")
            make_groups = GROUPINGS[self.rounds]
            groups = make_groups(self.askable[n], self.k, rng, self.lengths[c], self.room[c])
            seeds = [rng.random() for _ in groups]
            if self.share:
                seeds = seeds[:1] * len(groups)
            views = [View(n, seed) for seed in seeds]
            plans = [PlannedPair(n, *plan) for plan in zip(groups, views, strict=True)]
            if self.share:
                blocks.append(plans)
            else:
                blocks += [[plan] for plan in plans]
        random.Random(f"{self.seed} {epoch}").shuffle(blocks)
        self.plans = list(itertools.chain.from_iterable(blocks))
        # {view: all groups that it shows}
        self.groups = {}
        for plan in self.plans:
            self.groups.setdefault(plan.view, []).append(plan.group)

    def count_tokens(self, i):
        """How many tokens item i's conversation has at most; nothing is loaded."""
        plan = self.plans[i]
        c = self.instances[plan.position].category
        return self.opening[c] + sum(self.lengths[c][j] for j in plan.group)

    def __len__(self):
        return len(self.plans)

    def __getitem__(self, i) -> Pair:
        n, group, view = self.plans[i]
        instance = self.instances[n]
        if view != self.loaded_view:
            self.loaded_view, self.loaded = view, self.load_view(instance, view)
        pixels, points, called = self.loaded
        keypoints = self.described[instance.category]
        rounds = [(keypoints[called[j]], points[j, :2]) for j in group if points[j, 2] > 0]
        visible = sorted(called[j] for j in np.flatnonzero(points[:, 2] > 0))
        rng = random.Random(f"{view.seed} {group}")
        conversation = write_conversation(
            self.tokenizer, self.codec, rounds, self.instruction, instance.name, keypoints,
            [keypoints[j] for j in visible], rng,
        )
        return Pair(pixels, conversation, view)

    def load_view(self, instance, view):
        """Pixels, points (n, 3), v > 0 where they can be asked, and the keypoint that each is."""
        if self.augment:
            pixels, points, called = self.augment(instance, self.size, random.Random(view.seed))
            self.hide_unaskable(points)
            if all((points[group, 2] > 0).any() for group in self.groups[view]):
                return pixels, points, called
        pixels, points = load_crop(instance, self.size)
        self.hide_unaskable(points)
        return pixels, points, range(len(points))

    def hide_unaskable(self, points):
        points[:, 2] *= self.codec.has_code(points[:, :2]).all(1)


if __name__ == "__main__":
    launch.run("data.py", lambda: check.main(load_crop))

"""Which pairs make which step of training, and which process computes which of them together.

A step averages the loss over `batch` pairs of an image and a conversation (Section 4.1: 128, as 4
GPUs x 1 pair x 32 accumulated passes). Each process computes its share in passes of at most
`micro_batch` pairs, and gradients add up. What a step holds follows from the pairs and the step's
number alone: a run that is resumed goes on with the pairs that it would have had.

Six pairs for 2 processes in passes of at most 2, as an example. They are sorted by length first, so
that a pass needs little padding; `d` has 60 tokens, `b` has 10:

    >>> groups = [["d"], ["f"], ["a"], ["c"], ["e"], ["b"]]
    >>> list_pass_sizes(batch=6, world=2, micro_batch=2)        # as many passes for each process
    [1, 1, 2, 2]
    >>> passes = fill_passes(groups, sizes=[1, 1, 2, 2])
    >>> passes
    [['d'], ['f'], ['a', 'c'], ['e', 'b']]
    >>> deal_passes(passes, rank=0, world=2)                    # dealt there ...
    [['d'], ['e', 'b']]
    >>> deal_passes(passes, rank=1, world=2)                    # ... and back: an equal load
    [['f'], ['a', 'c']]

With --share-image, pairs of one view (an image and its augmentation) are a group and stay together
if they fit, so that a pass computes their image once. Here `d` and `b` are of one view, `f` and
`a` of another:

    >>> fill_passes([["f", "a"], ["d", "b"], ["c"], ["e"]], sizes=[1, 1, 2, 2])
    [['c'], ['e'], ['f', 'a'], ['d', 'b']]
"""

import math
import sys
from collections import defaultdict
from copy import copy
from functools import partial
from itertools import count, islice
from typing import NamedTuple

import torch

from support.launch import list_first
from support.parallel import gather_lists
from support.signals import ignore_signals


class Division(NamedTuple):
    """How the pairs of a step are divided over processes, of which this one is number `rank`."""

    batch: int
    micro_batch: int
    rank: int
    world: int

    def list_own_sizes(self):
        """Pairs in each pass of this process; an empty pass has 0."""
        sizes = list_pass_sizes(self.batch, self.world, self.micro_batch)
        return deal_passes(sizes, self.rank, self.world)


class Place(NamedTuple):
    """Where a pair is found: the epoch, and its index among that epoch's pairs."""

    epoch: int
    index: int


class Pass(NamedTuple):
    """What goes through the model at once."""

    pixels: torch.Tensor  # (B, 3, S, S)
    conversations: list  # one an image or, if images are shared, a list of them an image
    tokens: int  # of all conversations


class Stream(torch.utils.data.Dataset):
    """The pairs of all epochs in a row; an item is asked for by its Place."""

    def __init__(self, pairs):
        # A copy: setting its epoch does not change the caller's.
        self.pairs = copy(pairs)
        self.epoch = None

    def open_epoch(self, epoch):
        """The pairs of an epoch: dynamic rounds make another number of them each time."""
        if epoch != self.epoch:
            self.pairs.set_epoch(epoch)
            self.epoch = epoch
        return self.pairs

    def __getitem__(self, place):
        return self.open_epoch(place.epoch)[place.index]

    def list_places(self, first):
        """The places of the pairs from number `first` on, without end."""
        for epoch in count():
            n = len(self.open_epoch(epoch))
            for index in range(first, n):
                yield Place(epoch, index)
            first = max(0, first - n)


def list_pass_sizes(batch, world, micro_batch):
    """Pairs in each pass of a step, of all processes.

    Each process has as many passes, as even in size as can be. If processes outnumber pairs,
    some passes are empty.
    """
    passes = world * math.ceil(batch / (world * micro_batch))
    return [(batch + i) // passes for i in range(passes)]


def deal_passes(passes, rank, world):
    """The passes of one process, dealt in turn, there and back.

    Sorted by length they are an equal load, and at any one time all processes compute passes of
    like length.
    """
    own = []
    for first in range(0, len(passes), world):
        turn = passes[first:first + world]
        is_way_back = first // world % 2 == 1
        own.append(turn[world - 1 - rank] if is_way_back else turn[rank])
    return own


def fill_passes(groups, sizes):
    """Fill passes of these sizes with the pairs of the groups, in the order given.

    A pass takes the first group that fits whole into the room left. Only if none does, it takes
    what fits of the first group; the rest of that group stays first in line.
    """
    waiting, passes = list(groups), []
    for size in sizes:
        filled = []
        while len(filled) < size:
            room = size - len(filled)
            fitting = (n for n, group in enumerate(waiting) if len(group) <= room)
            group = waiting.pop(next(fitting, 0))
            filled += group[:room]
            if len(group) > room:
                waiting.insert(0, group[room:])
        passes.append(filled)
    return passes


def group_by_view(stream, places):
    """Lists of places, each of the pairs of one view, those with most tokens first."""
    groups, tokens = defaultdict(list), defaultdict(int)
    for place in places:
        pairs = stream.open_epoch(place.epoch)
        view = pairs.plans[place.index].view
        groups[view].append(place)
        tokens[view] += pairs.count_tokens(place.index)
    longest_first = sorted(groups, key=tokens.get, reverse=True)
    return [groups[view] for view in longest_first]


def plan_passes(pairs, division, step):
    """The places of the pairs in each pass of this process, from `step` on, without end.

    An empty pass holds the step's shortest pair instead, which weighs nothing: processes wait for
    each other, so each must compute as many passes.
    """
    stream = Stream(pairs)
    places = stream.list_places(step * division.batch)
    sizes = list_pass_sizes(division.batch, division.world, division.micro_batch)
    while True:
        groups = group_by_view(stream, islice(places, division.batch))
        shortest = groups[-1][-1]
        for own in deal_passes(fill_passes(groups, sizes), division.rank, division.world):
            yield own or [shortest]


def collate_pairs(pairs):
    """A Pass of pairs, each an image and its conversation."""
    pixels = torch.stack([pair.pixels for pair in pairs])
    conversations = [pair.conversation for pair in pairs]
    return Pass(pixels, conversations, sum(len(c.ids) for c in conversations))


def collate_views(pairs):
    """A Pass of pairs of which some share a view: each image once, with a list of conversations."""
    pixels, branches = {}, defaultdict(list)
    for pair in pairs:
        pixels[pair.view] = pair.pixels
        branches[pair.view].append(pair.conversation)
    tokens = sum(len(pair.conversation.ids) for pair in pairs)
    return Pass(torch.stack([*pixels.values()]), [*branches.values()], tokens)


def end_run(step, measured, pairs, division):
    """End a run whose loss or gradient is not finite, before it spoils the weights.

    One process reports it and names samples: those of the passes, of all processes, whose losses
    are not finite; if only the gradient is not, those of all passes. measured: a step's loss,
    gradient, and losses, one for each pass of this process.
    """
    what = f"loss is {measured.loss}"
    chosen = [not math.isfinite(loss) for loss in measured.losses]
    if math.isfinite(measured.loss):
        what = f"gradient is {measured.gradient}"
        chosen = [True] * len(measured.losses)
    stream, names = Stream(pairs), []
    places = plan_passes(pairs, division, step)
    for size, is_chosen in zip(division.list_own_sizes(), chosen, strict=True):
        own = next(places)[:size]
        if is_chosen:
            names += [name_sample(stream.open_epoch(place.epoch), place.index) for place in own]
    names = gather_lists(names, division.world)
    if division.rank > 0:
        sys.exit(2)
    samples = list_first(list(dict.fromkeys(names)))
    raise ValueError(
        f"the {what} at step {step + 1}, from {samples}: look at these, or continue with a lower "
        "--lr from the last checkpoint in another --out with --init"
    )


def name_sample(pairs, i):
    """Which sample item i of an epoch's pairs is, for messages."""
    instance = pairs.instances[pairs.plans[i].position]
    return f"{instance.image} (annotation {instance.id}, {instance.name})"


def count_steps(pairs, epochs, batch):
    """Optimiser steps of so many epochs, which may be a fraction; at least 1."""
    stream, whole = Stream(pairs), int(epochs)
    count = sum(len(stream.open_epoch(epoch)) for epoch in range(whole))
    count += (epochs - whole) * len(pairs)
    return max(1, round(count / batch))


def collate_as_array(collate, pairs):
    """A Pass whose pixels are an array: workers send it through a pipe.

    Tensors go through /dev/shm, of which containers have little: a worker that finds it full drops
    its pass, and the process waits for ever.
    """
    collated = collate(pairs)
    return collated._replace(pixels=collated.pixels.numpy())


def prepare_worker(_):
    """A worker leaves when its process does.

    torchrun and terminals signal both, and the process still has a step to finish.
    """
    ignore_signals()


def load_passes(pairs, division, step, share_image, workers, device):
    """This process's passes from `step` on, without end; `workers` processes load their images."""
    collate = collate_views if share_image else collate_pairs
    loader = torch.utils.data.DataLoader(
        Stream(pairs),
        batch_sampler=plan_passes(pairs, division, step),
        collate_fn=partial(collate_as_array, collate),
        num_workers=workers,
        worker_init_fn=prepare_worker,
        # A generator of its own: the random numbers of dropout must not depend on the workers.
        generator=torch.Generator(),
    )
    for arrays in loader:
        pixels = torch.from_numpy(arrays.pixels)
        yield arrays._replace(pixels=pixels.pin_memory() if device.type == "cuda" else pixels)

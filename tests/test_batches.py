"""Which pairs make which step: every pair once, evenly dealt, those of one image together."""

import doctest
import itertools
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import data
from capellm import CapeLLM
from skirts import write_skirts
from support import batches
from support.batches import Division, Place
from support.descriptions import describe_categories
from support.parallel import Loss

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_skirts(folder)
    return folder


@pytest.fixture
def model(model_folder):
    return CapeLLM.from_pretrained(model_folder, merge=False)


def read_pairs(folder, model, **options):
    instances, names = data.read_split(folder)
    described = describe_categories(instances, names, folder)
    return data.Pairs(instances, described, model.tokenizer, model.codec, 28, **options)


def test_the_worked_example():
    found = doctest.testmod(batches)
    assert found.attempted >= 5 and found.failed == 0


@pytest.mark.parametrize(
    "batch, world, micro",
    [
        (8, 1, 1),
        (8, 1, 4),
        (8, 2, 2),
        (8, 4, 2),
        (128, 3, 1),
        (10, 4, 2),
        (3, 4, 1),
        (7, 2, 3),
    ],
)
def test_the_processes_share_each_steps_pairs(batch, world, micro):
    shares = [Division(batch, micro, rank, world).list_own_sizes() for rank in range(world)]
    assert sum(map(sum, shares)) == batch
    assert max(map(max, shares)) <= micro
    assert {len(share) for share in shares} == {math.ceil(batch / (world * micro))}
    assert max(map(max, shares)) - min(map(min, shares)) <= 1
    count = len(shares[0]) * world
    dealt = [batches.deal_passes(range(count), rank, world) for rank in range(world)]
    assert sorted(n for share in dealt for n in share) == list(range(count))


@given(st.data())
def test_filling_passes(draw):
    """Every pair once, in passes of the sizes asked for; a group is cut only at the end of a pass,
    where no other fits."""
    lengths = draw.draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    groups = [[(n, i) for i in range(length)] for n, length in enumerate(lengths)]
    world, micro = draw.draw(st.integers(1, 4)), draw.draw(st.integers(1, 10))
    sizes = batches.list_pass_sizes(sum(lengths), world, micro)
    found = batches.fill_passes(groups, sizes)
    everything = [pair for group in groups for pair in group]
    assert [len(part) for part in found] == sizes
    assert sorted(pair for part in found for pair in part) == everything
    for m, part in enumerate(found):
        left = [pair for later in found[m:] for pair in later]  # what this pass could choose from
        pieces = {n: [pair for pair in part if pair[0] == n] for n, _ in part}
        assert part == [pair for piece in pieces.values() for pair in piece]  # side by side
        sizes_left = {n: sum(pair[0] == n for pair in left) for n, _ in left}
        cut = [n for n, piece in pieces.items() if len(piece) < sizes_left[n]]
        assert len(cut) <= 1
        if cut:
            assert part[-1][0] == cut[0]
            others = [size for n, size in sizes_left.items() if n not in pieces]
            assert all(size > len(pieces[cut[0]]) for size in others)  # none fitted whole
    if max(lengths) == 1:
        assert [pair for part in found for pair in part] == everything  # as ordered


class Epochs:
    """Pairs whose number varies from epoch to epoch: 5, 3, 4, 5, 3, 4 ..., of 0 to 4 tokens, each
    with an image of its own."""

    def set_epoch(self, epoch):
        self.plans = [data.PlannedPair(i, [], (epoch, i)) for i in range([5, 3, 4][epoch % 3])]

    def count_tokens(self, i):
        return 7 * (i + 2) % 5

    def __len__(self):
        return len(self.plans)


def name_pair(place):
    return f"{place.epoch}.{place.index}"


def count_tokens(place):
    return 7 * (place.index + 2) % 5


@pytest.mark.parametrize("world, micro, batch", [(1, 1, 4), (2, 1, 4), (3, 2, 7), (4, 1, 3)])
@pytest.mark.parametrize("first", range(4))
def test_every_pair_of_every_epoch_once_wherever_a_run_continues(world, micro, batch, first):
    order = [f"{epoch}.{i}" for epoch in range(9) for i in range([5, 3, 4][epoch % 3])]
    names = {step: [] for step in range(first, 4)}
    lengths = {}
    for rank in range(world):
        division = Division(batch, micro, rank, world)
        passes = batches.plan_passes(Epochs(), division, first)
        sizes = division.list_own_sizes()
        for step in range(first, 4):
            for n, size in enumerate(sizes):
                places = next(passes)
                assert len(places) == max(1, size)  # an empty pass computes something, too
                names[step] += map(name_pair, places[:size])
                lengths.setdefault((step, n), []).extend(map(count_tokens, places[:size]))
    for step, found in names.items():
        assert sorted(found) == sorted(order[step * batch : (step + 1) * batch])
        for n in range(len(sizes) - 1):  # at any one time all are of like length
            assert min(lengths[step, n]) >= max(lengths[step, n + 1])


@pytest.mark.parametrize(
    "epochs, batch, steps", [(3, 4, 3), (1.5, 1, 8), (0.1, 100, 1), (4, 1, 17)]
)
def test_steps_of_epochs(epochs, batch, steps):
    """Epochs of 5, 3, 4, 5 pairs; a fraction is of the first's."""
    pairs = Epochs()
    pairs.set_epoch(0)
    assert batches.count_steps(pairs, epochs, batch) == steps


def test_images_of_equal_ids_stay_apart(folder, model):
    """Two exports that both count from 0: every pair has the pixels of its own image, pairs of an
    image side by side or not."""
    instances, names = data.read_split(folder)
    described = describe_categories(instances, names, folder)
    swapped = []
    for instance, other in itertools.pairwise(instances):
        swapped.append(instance._replace(image=other.image))
    everything = instances + swapped
    for share in (False, True):
        pairs = data.Pairs(everything, described, model.tokenizer, model.codec, 28, share=share)
        stream = batches.Stream(pairs)
        passes = batches.plan_passes(pairs, Division(16, 16, 0, 1), 0)
        for place in itertools.chain(*itertools.islice(passes, 3)):
            plan = stream.open_epoch(place.epoch).plans[place.index]
            n, seed = plan.view
            augmented = data.draw_augmentation(random.Random(seed))
            views = [data.load_crop(everything[n], 28, *how)[0] for how in (augmented, ())]
            assert any(torch.equal(stream[place].pixels, view) for view in views)


@pytest.mark.parametrize("share", [False, True])
def test_a_pass_holds_an_image_for_each_pair_or_for_each_view(folder, model, share):
    pairs = read_pairs(folder, model, share=share)
    stream = batches.Stream(pairs)
    items = [stream[Place(0, i)] for i in range(8)]
    views = list(dict.fromkeys(item.view for item in items))
    if not share:
        found = batches.collate_pairs(items)
        assert found.conversations == [item.conversation for item in items]
        assert torch.equal(found.pixels, torch.stack([item.pixels for item in items]))
    else:
        found = batches.collate_views(items)
        assert 1 < len(views) < 8 and len(found.pixels) == len(found.conversations) == len(views)
        for view, pixels, conversations in zip(
            views, found.pixels, found.conversations, strict=True
        ):
            own = [item for item in items if item.view == view]
            assert conversations == [item.conversation for item in own]
            assert all(torch.equal(item.pixels, pixels) for item in own)
    assert found.tokens == sum(len(item.conversation.ids) for item in items)


def compute_gradients(model, share_image, passes):
    """The loss and gradients summed over [(pixels, conversations, weight)], as train.py does."""
    model.zero_grad()
    total, compute_loss = 0.0, Loss(model, share_image, autocast=False)
    for pixels, conversations, weight in passes:
        loss, _ = compute_loss(pixels, conversations)
        (loss * weight).backward()
        total += float(loss.detach()) * weight
    trained = {n: p for n, p in model.named_parameters() if p.grad is not None}
    return total, {n: p.grad.clone() for n, p in trained.items()}


@pytest.mark.parametrize("rounds", ["fixed", "dynamic"])
@pytest.mark.parametrize("world, micro", [(1, 10), (2, 3)])
def test_shared_images_change_no_gradient(folder, model, rounds, world, micro):
    """A step of shared images is the mean over its pairs of each one's loss alone, however it is
    cut into passes."""
    for name in model.adapter():
        model.get_parameter(name).requires_grad_(True)
    pairs = read_pairs(folder, model, rounds=rounds, share=True)
    stream = batches.Stream(pairs)
    shared, images = [], 0
    for rank in range(world):
        division = Division(10, micro, rank, world)
        passes = batches.plan_passes(pairs, division, 0)
        for size in division.list_own_sizes():
            found = batches.collate_views([stream[place] for place in next(passes)])
            shared.append((found.pixels, found.conversations, size / 10))
            images += len(found.pixels)
    assert images < 10
    alone = []
    for i in range(10):
        found = batches.collate_pairs([stream[Place(0, i)]])
        alone.append((found.pixels, found.conversations, 1 / 10))
    loss, gradients = compute_gradients(model, True, shared)
    expected_loss, expected = compute_gradients(model, False, alone)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys() and len(expected) > 4
    for name, gradient in gradients.items():
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(
            gradient, expected[name], atol=1e-5 * largest, rtol=1e-3, msg=name
        )

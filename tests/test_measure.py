"""measure.py: models that know the truth by what they are shown and asked."""

import numpy as np
import pytest
import torch

import data
import evaluations
from evaluations import NAMES
from study import controls
from study.conclude import conclude_evaluation
from study.images import Images
from study.measure import Asking, Shown, check_records, measure_images
from support.passes import Answers
from support.records import make_key


@pytest.fixture
def folder(tmp_path):
    return evaluations.write_kites_and_boats(tmp_path / "data")


class Oracle:
    """Knows the truth by the pixels it is shown and the name it is asked.

    What a control exchanges, it gets wrong.
    """

    def __init__(self, truths):
        self.truths = truths

    def answer_together(self, images, *_):
        found = []
        for asked in images:
            places = [self.truths[int(asked.pixels[0, 0, 0])][k.name] for k in asked.keypoints]
            found.append(Answers(places, [1.0] * len(places), [0.1] * len(places)))
        return found


def name_pixels(instance):
    """Pixels that tell the id of an instance."""
    return torch.full((3, 28, 28), float(instance.id))


def test_who_looks_and_reads_is_right_and_falls_with_the_controls(folder):
    instances, described = evaluations.read_test(folder)
    prepared, _ = evaluations.prepare_controls(folder)
    truths = {}
    for i in instances:
        relative = data.map_to_crop(i.keypoints[:, :2], data.make_affine(i.bbox, 28), 28)
        places = zip(described[i.category], relative, strict=True)
        truths[i.id] = {k.name: place for k, place in places}
    records = []
    for i, control in zip(instances, prepared, strict=True):
        other = name_pixels(control.other)
        shown = Shown(i, described[i.category], name_pixels(i), control, other)
        records += measure_images(Oracle(truths), [shown], Asking())
    images = Images(instances, {500: "kite", 501: "boat"}, described, None, [], [])
    found = conclude_evaluation(dict(enumerate(records)), images, 1)
    assert [found[name] for name in NAMES] == [1] * 5
    assert [found["definitions"]["kite"][name] for name in NAMES] == [1] * 5
    assert found["AUC"] > 0.999 and found["NME"] < 1e-3
    assert found["controls"]["other image"]["mPCK"] < 0.9
    assert found["controls"]["other text"]["mPCK"] < 0.9
    # A score per image and control, restated for the first one: another image's places, mapped
    # into this one's box.
    i, control = instances[0], prepared[0]
    side, (x, y, w, h) = max(i.bbox[2:]), i.bbox
    corner = np.array([x + w / 2 - side / 2, y + h / 2 - side / 2])
    exchanged = [control.exchange[k].name for k in described[500]]
    for name, relative in (
        ("mean", control.mean),
        ("other image", [truths[control.other.id][k.name] for k in described[500]]),
        ("other text", [truths[i.id][k] for k in exchanged]),
    ):
        predictions = np.array(relative) * side + corner
        keypoints = i.keypoints.astype(float)
        expected = evaluations.pck_in_loops(
            predictions, keypoints[:, :2], keypoints[:, 2], side
        )
        scores = records[0]["controls"][name]
        assert [scores[metric] for metric in NAMES] == pytest.approx(expected)


def grey_at(pixels, point):
    x, y = (int(v * pixels.shape[-1]) for v in point)
    return bool((pixels[:, y, x] == controls.COVER_COLOUR[:, 0, 0]).all())


class Finder:
    """Sees where a keypoint is unless grey covers it. Tells how it was asked."""

    def __init__(self, instance, keypoints):
        places = data.map_to_crop(instance.keypoints[:, :2], data.make_affine(instance.bbox, 1), 1)
        self.truths = dict(zip(keypoints, places, strict=True))
        self.calls = []

    def answer_together(self, images, decoding, cumulative):
        (asked,) = images
        self.calls.append((asked, decoding, cumulative))
        places = []
        for k in asked.keypoints:
            hidden = grey_at(asked.pixels, self.truths[k])
            places.append((0.0, 0.0) if hidden else self.truths[k])
        return [Answers(places, [0.5] * len(places), [0.1] * len(places))]


def show(instance, described):
    return Shown(instance, described[instance.category], data.load_crop(instance, 56)[0])


def test_occluded_keypoints_are_told_from_those_in_sight(folder):
    instances, described = evaluations.read_test(folder)
    falls = 0
    for i in instances:
        keypoints = described[i.category]
        model = Finder(i, keypoints)
        asking = Asking(seed=3, occlude=(0.6, 0.3))
        (record,) = measure_images(model, [show(i, described)], asking)
        for (asked, *_), share in zip(model.calls[1:], ("30%", "60%"), strict=True):
            seen = [not grey_at(asked.pixels, model.truths[k]) for k in asked.keypoints]
            scores = record["controls"][f"{share} covered"]
            assert scores["PCK@0.05"] == pytest.approx(np.mean(seen))
            in_sight = record["controls"].get(f"{share} covered, keypoints in sight")
            assert (in_sight is not None) == any(seen)
            if any(seen):
                names = [k.name for k, s in zip(asked.keypoints, seen, strict=True) if s]
                assert list(in_sight["distances"]) == names
                assert in_sight["PCK@0.05"] == 1
            falls += not all(seen)
        again = Finder(i, keypoints)
        measure_images(again, [show(i, described)], Asking(seed=3, occlude=(0.3, 0.6)))
        for (asked, *_), (same, *_) in zip(model.calls, again.calls, strict=True):
            assert torch.equal(asked.pixels, same.pixels)
    assert falls > 3


def test_how_to_answer_reaches_the_model_with_a_seed_for_each_image(folder):
    instances, described = evaluations.read_test(folder)
    seeds = []
    for i in instances[:3] * 2:
        keypoints = described[i.category]
        model = Finder(i, keypoints)
        told = len(seeds) < 3
        asking = Asking("top-3", cumulative=True, seed=5, true_category=told)
        (record,) = measure_images(model, [show(i, described)], asking)
        ((asked, *how),) = model.calls
        seeds.append(asked.seed)
        assert how == ["top-3", True]
        assert asked.category == (i.name if told else None) and asked.listed == keypoints
        # All of them: who is asked does not tell which are labelled.
        assert asked.keypoints == keypoints
        assert list(record["predictions"]) == evaluations.list_labelled(i)
        # Each answer is compared with its own truth.
        assert record["PCK@0.05"] == 1
    assert seeds[:3] == seeds[3:] and len(set(seeds)) == 3


def test_in_single_rounds_only_what_is_labelled_is_asked(folder):
    instances, described = evaluations.read_test(folder)
    for i in instances:
        model = Finder(i, described[i.category])
        (record,) = measure_images(model, [show(i, described)], Asking())
        ((asked, *_),) = model.calls
        names = [k.name for k in asked.keypoints]
        assert names == evaluations.list_labelled(i) == list(record["distances"])
        assert asked.listed == described[i.category] and record["controls"] == {}


@pytest.mark.parametrize("more", [{}, {"occlude": (0.4,)}, {"cumulative": "confidence"}])
@pytest.mark.parametrize("at_once", [2, 4, 16])
def test_images_asked_together_have_the_records_of_images_asked_alone(
    folder, model, more, at_once
):
    """With all controls, and with random numbers of their own."""
    instances, described = evaluations.read_test(folder)
    prepared, _ = evaluations.prepare_controls(folder)
    images = []
    for i, control in zip(instances, prepared, strict=True):
        pixels, other = (data.load_crop(n, 28)[0] for n in (i, control.other))
        images.append(Shown(i, described[i.category], pixels, control, other))
    asking = Asking("sampling", seed=4, **more)
    together = measure_images(model, images, asking._replace(images_per_pass=at_once))
    alone = [record for shown in images for record in measure_images(model, [shown], asking)]
    for a, b in zip(together, alone, strict=True):
        assert a.pop("probabilities") == pytest.approx(b.pop("probabilities"), rel=1e-3, abs=1e-5)
        assert a == b


@pytest.mark.parametrize("truth, expected", [([0.5, 0.5], True), ([0.5, 1.5], False)])
def test_a_density_says_how_likely_the_truth_was_if_it_has_an_answer(folder, truth, expected):
    instances, described = evaluations.read_test(folder)
    i = instances[0]
    names = evaluations.list_labelled(i)
    images = Images([i], {}, described, None, [], [])
    for given in ([], ["nll"], ["level"], ["nll", "level"]):
        numbers = {name: {"truth": truth} | dict.fromkeys(given, 0.5) for name in names}
        record = dict.fromkeys(["distances", "predictions", "probabilities"], numbers)
        records = {make_key(i): record | {"density": numbers}}
        if bool(given) == expected and len(given) != 1:
            check_records(records, images, folder)
        else:
            with pytest.raises(ValueError, match="density: .* are not of its labelled keypoints"):
                check_records(records, images, folder)

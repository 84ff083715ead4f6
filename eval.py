"""Measure CapeLLM on a part of MP-100, or of one's own data: PCK (Section 4, Tables 2, 3, 8, 9).

    python eval.py --model nano --data data/figures --controls
    torchrun --nproc_per_node 4 eval.py --model runs/capellm/step-0001000 --data data/mp100 \\
        --split 1 --pairs --out out/split-1
    python eval.py --average out/split-*
    python eval.py --compare out/tables-200/base out/tables-200/decoding-*

What is asked about one image, and what is scored, is in study/measure.py; here is what leads to it
and what follows. A PCK that looks good proves little by itself: a keypoint's average place scores,
too. --controls measures that on the same images, and exchanges the image, or the words, for others
of the same definition: a model that looks and reads falls then.
"""

import sys
from contextlib import closing

import torch
from tqdm import tqdm

import data
from capellm import CapeLLM
from study import compare, controls, measure, paper, report
from study.conclude import conclude_evaluation
from study.digits import DECODING
from study.images import choose_images
from study.paper import Way
from support import eval_options, launch, records
from support.ahead import load_ahead, take_groups
from support.coco import get_sorted_id
from support.fingerprints import fingerprint_evaluation
from support.folders import read_model_config
from support.json_files import format_json
from support.pictures import draw_sheet

# The arguments that decide an answer: a resumed evaluation has the same.
DECIDES = ["model", "data", "split", "part", "controls", "occlude", "density", "instruction"]
DECIDES += ["true_category", "decoding", "cumulative", "image_size", "names", "seed"]
# Those of them that may differ between the evaluations that --average takes.
MAY_DIFFER = ["model", "split", "controls", "occlude", "density"]
# --cumulative, as `CapeLLM.answer` calls it.
CUMULATIVE = {None: False, "fixed": True, "confidence": "confidence"}
# Images that share a pass, if --images-per-pass does not say.
IN_SINGLE_ROUNDS, IN_CHAINS = 1, 8


def describe_inputs(model_folder, images, device):
    """What besides the arguments decides an answer."""
    return {
        "precision": str(launch.choose_dtype(device)).removeprefix("torch."),
        "weights, words, annotations": fingerprint_evaluation(
            model_folder, images.described, images.instances
        ),
    }


def load_model(folder, instruction, image_size, device):
    """The model, and the side of its crops in pixels. ValueError if it cannot read them."""
    model = CapeLLM.from_pretrained(folder, launch.choose_dtype(device), device)
    model.config.instruction = instruction or model.config.instruction
    size, unit = image_size or model.config.image_size, model.vision.unit
    if size < unit or size % unit:
        fits = max(1, size // unit) * unit
        raise ValueError(
            f"--image-size {size}: the vision encoder reads multiples of {unit}; "
            f"{fits} or {fits + unit} fits"
        )
    return model, size


def measure_share(model, size, images, positions, prepared, asking, file, bar):
    """Measure some of the images: {key: record}, and texts: which cannot be read, and why.

    size: the side of the crops in pixels; positions: of the instances; prepared: of
    controls.prepare_controls, or None; file: gets each record at once; bar: counts images.
    """
    found, unreadable = {}, set()

    def load_pixels(instance):
        try:
            return data.load_crop(instance, size)[0].to(model.device)
        except (ValueError, FileNotFoundError) as error:
            unreadable.add(str(error))

    def show(n):
        instance, other = images.instances[n], None
        control = prepared[n] if prepared else None
        keypoints, pixels = images.described[instance.category], load_pixels(instance)
        if pixels is not None and control and control.other is not instance:
            other = load_pixels(control.other)
        return measure.Shown(instance, keypoints, pixels, control, other)

    # Images are decoded while the model answers about those before.
    with closing(load_ahead(show, positions, asking.images_per_pass)) as loaded:
        for group in take_groups(loaded, asking.images_per_pass):
            readable = [shown for shown in group if shown.pixels is not None]
            records_of_group = measure.measure_images(model, readable, asking)
            for shown, record in zip(readable, records_of_group, strict=True):
                instance, keypoints = shown.instance, shown.keypoints
                if asking.cumulative:
                    tokens = measure.count_chain_tokens(model, keypoints, instance.name, size)
                    record["tokens"] = tokens
                found[records.make_key(instance)] = record
                records.write_line(file, record)
            bar.update(len(group))
    return found, unreadable


def label_progress(known, world):
    words = [f"{known} answered before"] if known else []
    if world > 1:
        words.append(f"the first of {world} processes")
    return ", ".join(words) or None


def pick_measured(found, images, unreadable):
    """{position of a chosen instance: its record}. ValueError if there is none.

    found: {key: record}; unreadable: texts, what is wrong with which image.
    """
    measured = {n: found[images.keys[n]] for n in images.chosen if images.keys[n] in found}
    if not measured:
        raise ValueError(
            f"none of the {len(images.chosen)} images can be read; the first: {unreadable[0]}"
        )
    return measured


def write_answer_sheet(path, images, measured):
    """Draw {position of an instance: its record}. Returns texts, what is wrong with which."""
    sheet = [(images.instances[n], record) for n, record in measured.items()]
    page, faults = draw_sheet(sheet, data.load_crop)
    records.save_picture(path, page)
    return [f"left empty in {path.name}: {fault}" for fault in faults]


def print_summary(to_average, to_compare, out):
    """Print, and write if there is a folder `out`, a table of earlier evaluations' folders."""
    if to_average:
        same = [name for name in DECIDES if name not in MAY_DIFFER]
        name, found = "average", compare.average_evaluations(to_average, ["precision", *same])
        text = report.format_average(found)
    else:
        name, found = "compare", compare.compare_evaluations(to_compare)
        text = report.format_comparison(found)
    print(text, end="")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        records.write_text_file(out / f"{name}.json", format_json(found.numbers, indent=1))
        records.write_text_file(out / f"{name}.md", text)


def measure_chosen(options, images, prepared, settings, process):
    """Answers to the chosen images, but for those that an earlier evaluation has.

    Returns {key: record} and messages about images that cannot be read, of all processes.
    """
    rank, world, device = process
    together = IN_CHAINS if options.cumulative else IN_SINGLE_ROUNDS
    asking = measure.Asking(
        options.decoding,
        CUMULATIVE[options.cumulative],
        options.seed,
        options.occlude,
        options.density,
        options.true_category,
        options.images_per_pass or together,
    )
    shape = measure.describe_record(asking)
    earlier = records.continue_earlier(
        options.out, settings, shape, options.resume, rank, world, device
    )
    measure.check_records(earlier.records, images, options.out)
    todo = [n for n in images.chosen if images.keys[n] not in earlier.records]
    found, unreadable = {}, set()
    if todo:
        model, size = load_model(options.model, options.instruction, options.image_size, device)
        label = label_progress(len(images.chosen) - len(todo), world)
        # Images of one category, which share passes, leave no gaps: their questions are the same.
        todo.sort(key=lambda n: get_sorted_id(images.instances[n].category))
        share = todo[rank::world]
        with (
            records.open_part(options.out, earlier.free + rank, settings) as file,
            tqdm(desc=label, total=len(share), disable=rank > 0, unit="image") as bar,
        ):
            found, unreadable = measure_share(
                model, size, images, share, prepared, asking, file, bar
            )
    found, unreadable = records.gather_records(found, unreadable, world)
    return earlier.records | found, unreadable


def conclude_images(options, images, measured, favoured):
    """The numbers of {position of an image: its record}, and their report."""
    config = read_model_config(options.model)
    way = Way(
        asked=options.instruction or config.instruction,
        decoding=options.decoding,
        cumulative=options.cumulative,
        image_size=options.image_size,
        descriptions=options.descriptions,
        names=options.names,
    )
    published = paper.find_counterpart(way, config, images, options.split, options.part)
    about = {name: getattr(options, name) for name in ("model", "data", "split", "part", "limit")}
    numbers = about | conclude_evaluation(measured, images, options.split, published)
    return numbers, report.format_report(numbers, way, len(images.pool), favoured)


def main():
    options = eval_options.read_options(__doc__.split("\n")[0], DECODING)
    eval_options.check_options(options)
    if options.average or options.compare:
        print_summary(options.average, options.compare, options.out)
        return
    process = launch.setup()
    if process.world > 1 and process.device.type == "cpu":
        torch.set_num_threads(1)

    where = options.data, options.split, options.part
    images = choose_images(
        *where, options.descriptions, options.names, options.pairs, options.limit
    )
    prepared, favoured = None, []
    if options.controls:
        prepared, favoured = controls.prepare_controls(
            *where, images.instances, images.names, images.described
        )
    settings = {name: getattr(options, name) for name in DECIDES}
    settings |= describe_inputs(options.model, images, process.device)
    found, unreadable = measure_chosen(options, images, prepared, settings, process)
    if process.rank > 0:
        return

    measured = pick_measured(found, images, unreadable)
    numbers, text = conclude_images(options, images, measured, favoured)
    print(text, end="")
    faults = [f"left out: {fault}" for fault in unreadable]
    if options.out:
        numbers |= {"unreadable": unreadable, "settings": settings}
        # Records of images that are not measured now, but were before, follow the others.
        lines = {images.keys[n]: record for n, record in measured.items()} | found
        records.write_results(options.out, numbers, text, faults, lines.values())
    if options.sheet:
        faults += write_answer_sheet(options.out / "sheet.png", images, measured)
    # The exit code is 1 if there are any.
    sys.exit("\n".join(f"eval.py: {fault}" for fault in faults) or 0)


if __name__ == "__main__":
    launch.run("eval.py", main)

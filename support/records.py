"""What an evaluation leaves in its folder, and how it continues from there.

A record is what was measured of one image, a dict. Every process writes its records, one JSON line
each, to a file of its own, instances.part*.jsonl, as soon as it has them; the first line holds the
settings. At the end results.json, results.md and instances.jsonl replace these files. So an
evaluation that is interrupted can be resumed, and one that is done can be resumed for more images.
"""

import json
import os
from contextlib import contextmanager
from typing import NamedTuple

import torch.distributed as dist

from support import meeting
from support.files import write_whole

PART = "instances.part"


class Earlier(NamedTuple):
    """records: {key: record} of what is answered; free: the number of the next part file."""

    records: dict
    free: int


def make_key(instance):
    """What tells an instance from all others, in records, too."""
    return instance.category, instance.id, str(instance.image)


def continue_earlier(out, settings, resume, rank, world, device):
    """The Earlier of an evaluation that is to be written to a folder, on all processes.

    out: the folder, or None. Raises ValueError as `find_earlier`, before the work and not after it.
    """
    found = [Earlier({}, 0)]
    # Rank 0 alone looks: by the time others did, it might be writing.
    if out and rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        found = [find_earlier(out, settings, resume)]
    if world > 1:
        dist.broadcast_object_list(found, device=device)
    return found[0]


def gather_records(records, unreadable, world):
    """The records of all processes, and a sorted list of what is wrong with which images.

    Records, not averages: the processes have unequal shares of the images.
    """
    gathered = [(records, unreadable)]
    if world > 1:
        meeting.wait()
        gathered = [None] * world
        dist.all_gather_object(gathered, (records, unreadable))
    everything, faults = {}, set()
    for found, wrong in gathered:
        everything |= found
        faults |= wrong
    return everything, sorted(faults)


def find_earlier(out, settings, resume):
    """What an evaluation in this folder, interrupted or done, has answered, as Earlier.

    settings: what decides an answer. Raises ValueError if an interrupted evaluation is there but
    `resume` is not set, or if the evaluation to be resumed has other settings. If an interrupted
    evaluation and a finished one differ in their settings, the interrupted one alone is resumed.
    """
    parts = sorted(out.glob(f"{PART}*.jsonl"))
    if parts and not resume:
        raise ValueError(
            f"{out} holds an interrupted evaluation: --resume continues it; "
            f"or remove its {PART}*"
        )
    records = {}
    for file in parts:
        before, answered = read_part(file)
        check_settings(file, before or settings, settings)
        records |= answered
    results, finished = out / "results.json", out / "instances.jsonl"
    if resume and results.exists() and finished.exists():
        before, answered = read_finished(results, finished)
        if not parts:
            check_settings(results, before, settings)
        if not list_differences(before, settings):
            records |= answered
    numbers = [int(file.stem.removeprefix(PART)) for file in parts]
    return Earlier(records, 1 + max(numbers, default=-1))


def read_part(file):
    """The settings and {key: record} of a part file, (None, {}) if it holds no line."""
    lines = read_lines(file)
    if not lines:
        return None, {}
    try:
        return json.loads(lines[0])["settings"], parse_records(lines[1:])
    except (ValueError, KeyError, TypeError) as e:
        raise explain_damage(file, e) from None


def read_finished(results, instances):
    """The settings and {key: record} of an evaluation that is done."""
    try:
        return json.loads(results.read_bytes())["settings"], parse_records(read_lines(instances))
    except (ValueError, KeyError, TypeError) as e:
        raise explain_damage(instances, e) from None


def read_lines(file):
    """The lines of a file that are complete: a crash cuts the last one short."""
    return file.read_text(encoding="utf-8").split("\n")[:-1]


def parse_records(lines):
    records = [json.loads(line) for line in lines]
    return {(r["category"], r["id"], r["file"]): r for r in records}


def explain_damage(file, e):
    return ValueError(
        f"{file} is damaged ({type(e).__name__}: {e}): remove it; --resume asks again"
    )


def list_differences(before, settings):
    return [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in settings.items()
        if before.get(name) != value
    ]


def check_settings(file, before, settings):
    different = list_differences(before, settings)
    if different:
        raise ValueError(
            f"{file} is of other settings: {'; '.join(different)}. Resume as started, or choose "
            "another --out"
        )


@contextmanager
def open_part(out, number, settings):
    """The part file of this number, open to write to; nothing is kept if there is no folder."""
    path = out / f"{PART}{number}.jsonl" if out else os.devnull
    with open(path, "w", encoding="utf-8") as file:
        write_line(file, {"settings": settings})
        yield file


def write_line(file, record):
    """Write a record to an open part file, at once."""
    print(json.dumps(record, allow_nan=False), file=file, flush=True)


def write_results(out, numbers, text, faults, records):
    """Write results.json, results.md and instances.jsonl, and remove the part files.

    numbers: what results.json holds, "settings" among it; text: what results.md shows, before a
    list of faults; records: in the order in which they are written.
    """
    lines = [json.dumps(record, allow_nan=False) for record in records]
    write_text_file(out / "instances.jsonl", "\n".join(lines))
    items = [f"\n- {fault}\n" for fault in faults]
    write_text_file(out / "results.md", text + "".join(items))
    write_text_file(out / "results.json", json.dumps(numbers, indent=1, allow_nan=False))
    for file in out.glob(f"{PART}*.jsonl"):
        file.unlink()


def write_text_file(path, text):
    """Write a text that ends with one line break, complete or not at all."""
    with write_whole(path) as partial:
        partial.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def save_picture(path, picture):
    """Write a PIL image, complete or not at all."""
    with write_whole(path) as partial:
        picture.save(partial)

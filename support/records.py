"""What an evaluation leaves in its folder, and how it continues from there.

A record is what was measured of one image, a dict. Every process writes its records, one JSON line
each, to a file of its own, instances.part*.jsonl, as soon as it has them; the first line holds the
settings. At the end results.json, results.md and instances.jsonl replace these files. So an
evaluation that is interrupted can be resumed, and one that is done can be resumed for more images.
"""

import os
import re
from contextlib import contextmanager
from typing import NamedTuple

import torch.distributed as dist

from support import meeting
from support.files import refuse_special, write_whole
from support.json_files import format_json, read_json, read_json_lines
from support.quote import cut
from support.shapes import OBJECT

PART = "instances.part"
# What an evaluation writes at its end.
WRITTEN = ("results.json", "results.md", "instances.jsonl", "sheet.png")
SETTINGS = {"settings": OBJECT}


class Earlier(NamedTuple):
    """records: {key: record} of what is answered; free: the number of the next part file."""

    records: dict
    free: int


def make_key(instance):
    """What tells an instance from all others, in records, too."""
    return instance.category, instance.id, str(instance.image)


def continue_earlier(out, settings, shape, resume, rank, world, device):
    """The Earlier of an evaluation that is to be written to a folder, on all processes.

    out: the folder, or None; shape: of a record, as of support.json_files. Raises ValueError as
    `find_earlier`, before the work and not after it.
    """
    found = [Earlier({}, 0)]
    # Rank 0 alone looks: by the time others did, it might be writing.
    if out and rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        found = [find_earlier(out, settings, shape, resume)]
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


def find_earlier(out, settings, shape, resume):
    """What an evaluation in this folder, interrupted or done, has answered, as Earlier.

    settings: what decides an answer. Raises ValueError if an interrupted evaluation is there but
    `resume` is not set, if the evaluation to be resumed has other settings, or if a file is
    damaged. If an interrupted evaluation and a finished one differ in their settings, the
    interrupted one alone is resumed.
    """
    for name in WRITTEN:
        refuse_special(out / name)
    parts = list_part_files(out)
    if parts and not resume:
        raise ValueError(
            f"{out} holds an interrupted evaluation: --resume continues it; "
            f"or remove its {PART}*"
        )
    records = {}
    for file in parts.values():
        before, answered = read_part(file, shape)
        check_settings(file, before or settings, settings)
        records |= answered
    results, finished = out / "results.json", out / "instances.jsonl"
    if resume and results.exists() and finished.exists():
        before = read_json(results, SETTINGS, explain_removal(results))["settings"]
        if not parts:
            check_settings(results, before, settings)
        if not list_differences(before, settings):
            remedy = explain_removal(finished)
            records |= key_records(read_json_lines(finished, shape, remedy))
    return Earlier(records, 1 + max(parts, default=-1))


def list_part_files(out):
    """{number: part file} of a folder."""
    numbers = {file: file.stem.removeprefix(PART) for file in out.glob(f"{PART}*.jsonl")}
    found = {int(text): file for file, text in numbers.items() if re.fullmatch("[0-9]+", text)}
    return dict(sorted(found.items()))


def read_part(file, shape):
    """The settings and {key: record} of a part file, (None, {}) if it holds no line."""
    lines = read_json_lines(file, shape, explain_removal(file), first=SETTINGS)
    if not lines:
        return None, {}
    return lines[0]["settings"], key_records(lines[1:])


def key_records(records):
    return {(r["category"], r["id"], r["file"]): r for r in records}


def explain_removal(file):
    """What to do about a file that is damaged."""
    return f"remove {file.name}, and --resume asks again"


def list_differences(before, settings):
    return [
        f"{name} was {cut(before.get(name))}, is {cut(value)}"
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
    print(format_json(record), file=file, flush=True)


def write_results(out, numbers, text, faults, records):
    """Write results.json, results.md and instances.jsonl, and remove the part files.

    numbers: what results.json holds, "settings" among it; text: what results.md shows, before a
    list of faults; records: in the order in which they are written.
    """
    lines = [format_json(record) for record in records]
    write_text_file(out / "instances.jsonl", "\n".join(lines))
    items = [f"\n- {fault}\n" for fault in faults]
    write_text_file(out / "results.md", text + "".join(items))
    write_text_file(out / "results.json", format_json(numbers, indent=1))
    for file in list_part_files(out).values():
        file.unlink()


def write_text_file(path, text):
    """Write a text that ends with one line break, complete or not at all."""
    with write_whole(path) as partial:
        partial.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def save_picture(path, picture):
    """Write a PIL image, complete or not at all."""
    with write_whole(path) as partial:
        picture.save(partial)

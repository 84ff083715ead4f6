"""Damage what users hand over, at random, and watch how the commands end.

    PYTHONPATH=. python tests/fuzz.py --seed 1 --inputs 10000
    PYTHONPATH=. python tests/fuzz.py --seed 1 --only 4711      # one input, and all that it prints

An input is a copy of a small folder (a model, data, a run, evaluations) with one file damaged or
one option odd, and a command that reads it, in a process forked from this one. Whatever is handed
over, a command answers (exit code 0 or 1), or refuses it in one line that names it (2), at once;
what it leaves are whole files and strict JSON.
"""

import argparse
import hashlib
import json
import os
import random
import re
import resource
import runpy
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HOME = Path(__file__).parent.parent
sys.path[:0] = [str(HOME), str(HOME / "tests")]

import fuzz_inputs  # noqa: E402 (only found from here on)

SECONDS = 20  # after which a command hangs
MEMORY, FILE = 12 * 2**30, 2**28  # the most bytes that a command may ask for, and write to a file
LONGEST = 620  # characters of a message
BARS = re.compile(r"\d+%\||\d+it |\d+(image|step)|^[ \w]*: +0%|^$")


class Ended(NamedTuple):
    """code: the exit code, or minus a signal; out, error: what was printed."""

    code: int
    out: str
    error: str


def run_command(command, folder) -> Ended:
    """Run `python ...` in a folder, in a process forked from this one."""
    outputs = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]
    child = os.fork()
    if child == 0:
        run_child(command, folder, outputs)
    _, status = os.waitpid(child, 0)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    texts = []
    for file in outputs:
        file.seek(0)
        texts.append(file.read().decode(errors="backslashreplace"))
        file.close()
    return Ended(os.waitstatus_to_exitcode(status), *texts)


def run_child(command, folder, outputs):
    """What `python FILE ...` or `python -m MODULE ...` does, with its modules imported already."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(outputs[0].fileno(), 1)
        os.dup2(outputs[1].fileno(), 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        if command[0] == "-m":
            sys.argv = command[1:]
            sys.modules.pop(command[1], None)
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(str(HOME / command[0]), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def hash_files(folder):
    """{path: digest} of the regular files below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path] = hashlib.md5(path.read_bytes()).hexdigest()
    return found


def list_lines(error):
    """What was printed on stderr, without progress bars and a parser's usage."""
    lines = [line.rpartition("\r")[2] for line in error.split("\n")]
    lines = [line for line in lines if not BARS.search(line)]
    if lines and lines[0].startswith("usage:"):
        lines = [line for line in lines if ": error: " in line]
    return lines


def judge(case, ended, before, after):
    """What is wrong with how a command ended: short texts."""
    faults = []
    lines = list_lines(ended.error)
    if ended.code == -signal.SIGALRM:
        return ["hang"]
    if ended.code not in (0, 1, 2):
        faults.append(f"exit code {ended.code}")
    if "Traceback" in ended.error:
        return [*faults, f"traceback {find_place(ended.error)}"]
    if ended.code == 2:
        faults += judge_message(case, lines)
        changed = [str(path.name) for path in before if after.get(path) != before[path]]
        if changed:
            faults.append(f"refused, but changed {', '.join(sorted(changed))}")
    elif lines and ended.code == 0:
        faults.append("noise on stderr")
    partial = [path.name for path in after if "partial" in path.name or path.suffix == ".tmp"]
    if partial:
        faults.append("left half-written files")
    for path in after:
        if before.get(path) != after[path] and path.suffix in (".json", ".jsonl"):
            faults += judge_json(path)
    numbers = ended.out.partition("written: ")[0]
    if ended.code == 0 and re.search(r"(?i)[\s\[,](-?inf|nan)\b", numbers):
        faults.append("printed what is not finite")
    return faults


def judge_message(case, lines):
    if not lines:
        return ["no message"]
    faults, text = [], "\n".join(lines)
    if len(lines) > 1:
        faults.append(f"{len(lines)} lines")
    if not all(line.isprintable() for line in lines):
        faults.append("unprintable characters")
    if len(text) > LONGEST:
        faults.append("long message")
    options = [word for word in case.command if word.startswith("--")]
    if not any(name in text for name in (*case.names, *options)):
        faults.append("names no file")
    return faults


def judge_json(path):
    texts = path.read_bytes().split(b"\n") if path.suffix == ".jsonl" else [path.read_bytes()]
    for text in texts:
        try:
            if text.strip():
                json.loads(text.decode(), parse_constant=int)
        except ValueError:
            return [f"wrote no strict JSON: {path.name}"]
    return []


def find_place(error):
    """Where an exception came from: the project's last line in a traceback, and the exception."""
    places = re.findall(r'File "([^"]+)", line (\d+)', error)
    own = [f"{Path(file).name}:{line}" for file, line in places if str(HOME) in file]
    last = [line for line in error.strip().split("\n") if line.strip()][-1]
    return f"{own[-1] if own else '?'} {last[:80]}"


def try_input(template, seed, number, kinds, place):
    """Make an input, run its command. Returns the Case, how it Ended, and what is wrong."""
    rng = random.Random(f"{seed} {number}")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place)
    home = os.getcwd()
    os.chdir(place)
    try:
        case = fuzz_inputs.KINDS[kinds[number % len(kinds)]](rng)
    finally:
        os.chdir(home)
    before = hash_files(place)
    ended = run_command(case.command, place)
    return case, ended, judge(case, ended, before, hash_files(place))


def simplify(text):
    """A message without what differs from input to input."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "#", text)[:60]


def show(number, case, ended, faults):
    command = " ".join(word[:60] for word in case.command)
    print(f"--- input {number}: {'; '.join(faults)}\n{ascii(command)}\n{ascii(case.damage)[:300]}")
    print(f"exit code {ended.code}; {ascii(ended.error[-700:])}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=1000, help="how many")
    parser.add_argument("--kind", choices=fuzz_inputs.KINDS, action="append", help="default: all")
    parser.add_argument("--only", type=int, metavar="N", help="try input N alone")
    options = parser.parse_args()
    kinds = options.kind or list(fuzz_inputs.KINDS)
    with tempfile.TemporaryDirectory() as scratch:
        template, place = Path(scratch) / "template", Path(scratch) / "input"
        fuzz_inputs.make_template(template, run_command)
        if options.only is not None:
            show(options.only, *try_input(template, options.seed, options.only, kinds, place))
            return
        found, codes = Counter(), Counter()
        for number in range(options.inputs):
            case, ended, faults = try_input(template, options.seed, number, kinds, place)
            codes[ended.code] += 1
            if sum(codes.values()) % 500 == 0:
                print(f"{sum(codes.values())} inputs", flush=True)
            for fault in faults:
                key = f"{kinds[number % len(kinds)]}: {fault}"
                if not fault.startswith("traceback"):
                    key += f": {simplify((list_lines(ended.error) or [''])[-1])}"
                found[key] += 1
                if found[key] == 1:
                    show(number, case, ended, [key])
    print("\n".join(f"{count:5} {key}" for key, count in found.most_common()))
    print(f"{sum(codes.values())} inputs, exit codes {dict(codes)}; {len(found)} kinds of findings")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

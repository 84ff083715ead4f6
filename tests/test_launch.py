"""Commands: a user's error is one line and a code, and what is long is cut."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from support import launch
from support.files import ROOT


def stop(error):
    """A command that ends with this error."""

    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, text",
    [
        (ValueError("bad\n  box"), 2, "x.py: bad box\n"),
        (FileNotFoundError("no photo"), 2, "x.py: no photo\n"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, ""),
        (SystemExit(7), 7, ""),
        (SystemExit("one image is missing"), 1, "one image is missing\n"),
    ],
)
def test_errors_are_a_line_and_an_exit_code(error, code, text, capsys):
    with pytest.raises(SystemExit) as end:
        launch.run("x.py", stop(error))
    assert end.value.code == code
    assert capsys.readouterr() == ("", text)


def test_a_gpu_is_set_up_without_the_attention_of_cudnn(monkeypatch):
    """Under torchrun each process takes the GPU of its own number."""
    chosen, was_enabled = [], torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        process = launch.setup()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)
    assert process == launch.Process(0, 1, torch.device("cuda", 3))
    assert chosen == [3]
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


def test_success_is_silent(capsys):
    for main in (lambda: 5, stop(SystemExit()), stop(SystemExit(0))):
        assert launch.run("x.py", main) is None
    assert capsys.readouterr() == ("", "")


def test_a_mistake_of_the_code_is_not_hidden(capsys):
    with pytest.raises(SystemExit) as end:
        launch.run("x.py", lambda: 1 / 0)
    assert end.value.code == 1
    assert capsys.readouterr().err.endswith("ZeroDivisionError: division by zero\n")


NO_ROOM = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
KILLED = "DataLoader worker (pid 7) is killed by signal: Killed."


@pytest.mark.parametrize(
    "error, text",
    [
        (MemoryError(), "x.py: too little memory (MemoryError): take less\n"),
        (
            RuntimeError(f"[enforce fail] {NO_ROOM}"),
            "x.py: too little memory (can't allocate memory: you tried to allocate 9 bytes. Error "
            "code 12): take less\n",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            "x.py: too little memory (CUDA out of memory. Tried to allocate 2 GiB.): take less\n",
        ),
        (
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            "x.py: too little memory ([Errno 12] Cannot allocate memory): take less\n",
        ),
        (
            RuntimeError(KILLED),
            "x.py: a process that loads images was ended, mostly by a system that is short of "
            f"memory ({KILLED}): use --workers 0 or more memory, and --resume\n",
        ),
        *[
            (
                RuntimeError(text),
                f"x.py: another process is gone or stuck ({text}): where it says nothing itself, "
                "the system has ended it, mostly for want of memory. Go on with --resume\n",
            )
            for text in (
                "[pair.cc:1] Connection closed by peer [127.0.0.1]:1",
                "[buffer.cc:1] Timed out waiting 5000ms for recv operation to complete",
            )
        ],
        (
            RuntimeError("f_cuda does not have a deterministic implementation, but you set 'x'."),
            "x.py: --deterministic does not go with this on a GPU (f_cuda does not have a "
            "deterministic implementation, but you set 'x'.): leave it out\n",
        ),
    ],
)
def test_what_is_no_mistake_of_the_code_has_a_remedy(error, text, capsys):
    with pytest.raises(SystemExit) as end:
        launch.run("x.py", stop(error), "take less")
    assert end.value.code == 2 and capsys.readouterr() == ("", text)


class Sleeper(torch.utils.data.Dataset):
    """Its workers ignore what asks them to end, as those of training do."""

    def __len__(self):
        return 100

    def __getitem__(self, i):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return i


ENDINGS = {
    "exit": "sys.exit(3)",
    "wrong input": "raise ValueError('x')",
    "mistake": "raise ZeroDivisionError",
    "memory": "raise MemoryError",
    "interrupt": "raise KeyboardInterrupt",
    "success": "pass",
}
CODES = {"exit": 3, "wrong input": 2, "mistake": 1, "memory": 2, "interrupt": 130, "success": 0}


@pytest.mark.parametrize("how", ENDINGS)
def test_workers_end_with_their_command(how):
    """Whatever ends it, within seconds: they are not asked but killed."""
    script = f"""if True:
        import multiprocessing, sys, torch
        from test_launch import Sleeper
        from support import launch

        def main():
            batches = iter(torch.utils.data.DataLoader(Sleeper(), num_workers=2))
            next(batches)
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            {ENDINGS[how]}

        launch.run("x.py", main)
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == CODES[how], done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, i):
        raise ValueError("boat.jpg is damaged: replace the file")


def test_an_error_of_a_worker_is_its_last_line():
    """As torch's own DataLoader sends it, with a traceback."""
    loader = torch.utils.data.DataLoader(Broken(), num_workers=1)
    with pytest.raises(ValueError, match="Original Traceback") as error:
        next(iter(loader))
    assert launch.describe_error(error.value) == "boat.jpg is damaged: replace the file"


@pytest.mark.parametrize("count", [0, 1, 5, 6, 100])
def test_a_long_list_is_cut(count):
    names = [f"n{i}" for i in range(count)]
    text = launch.list_first(names)
    listed, _, more = text.partition(" and ")
    shown = listed.split(", ") if listed else []
    assert shown == names[:5]
    assert len(shown) + int(more.removesuffix(" more") or 0) == count


def test_alone_a_process_is_the_first_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for there, expected in ((False, "cpu"), (True, "mps")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=there: there)
        assert launch.setup() == (0, 1, torch.device(expected))
    # Processes cannot share it.
    assert launch.take_device(1, world=2) == torch.device("cpu")


def test_a_process_has_a_gpu_of_its_own(monkeypatch):
    """And says so to the group, whose start would otherwise guess it."""
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    taken, started = [], {}
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(launch.meeting, "meet", lambda *_: "store")

    def start(backend, **options):
        started.update(options, backend=backend)

    monkeypatch.setattr(torch.distributed, "init_process_group", start)
    gpu = torch.device("cuda", 1)
    assert launch.setup() == (5, 8, gpu) and taken == [1]
    assert (started["backend"], started["device_id"], started["rank"]) == ("nccl", gpu, 5)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="this machine has 2: torchrun --nproc_per_node 2"):
        launch.setup()


def test_the_first_who_leaves_decides():
    """Workers that a second Ctrl-C kills raise in the main thread: neither a line nor a code."""
    script = """if True:
        import os, threading, time
        from support import launch

        def end_slowly():
            launch.LEAVING.acquire()
            begun.set()
            time.sleep(0.5)
            os._exit(130)

        def main():
            threading.Thread(target=end_slowly).start()
            begun.wait()
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

        begun = threading.Event()
        launch.run("x.py", main)
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("name", ["x" * 5000, "\x1b[31mred", "\udcff.png", "a b"])
def test_a_file_that_the_system_refuses_is_named_not_at_length(name, capsys):
    with pytest.raises(SystemExit) as end:
        launch.run("x.py", stop(OSError(errno.ENAMETOOLONG, "File name too long", name)))
    line = capsys.readouterr().err.rstrip("\n")
    assert end.value.code == 2 and line.isprintable() and len(line) < 300
    assert line.startswith(f"x.py: File name too long: {ascii(name)[1:50].rstrip(chr(39))}")


def test_names_that_are_no_text_are_printed():
    code = "from support.launch import run; run('x.py', lambda: print('written: \\udcff.png'))"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "written: \\udcff.png\n", "")


def run_torchrun(tmp_path, main, processes=2):
    """What x.py of several processes prints to stderr, but for torchrun's own words; its exit code;
    the seconds that it took from "begun" on. main: text of a function."""
    script = tmp_path / "x.py"
    script.write_text(f"""if True:
        import os, sys, time, torch, torch.distributed as dist
        from datetime import timedelta
        from pathlib import Path
        from support import launch, meeting, options

        def main():
            {main}

        launch.run("x.py", main)
    """)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        + ["--nproc_per_node", str(processes), str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    ours, _, after = done.stderr.partition("failed (exitcode: ")
    lines = [line for line in ours.splitlines() if not line.startswith(("W1", "E1", "W0", "E0"))]
    return lines, after.partition(")")[0], done.stdout


SETUP = "process = launch.setup(); "
BOTH_FAIL = {
    "options": (
        "options.Parser(usage='x.py').parse_args(['--wrong'])",
        ["usage: x.py", "x.py: error: unrecognized arguments: --wrong"],
    ),
    "before": ("raise ValueError('no photo')", ["x.py: no photo"]),
    "after": (SETUP + "raise ValueError('no photo')", ["x.py: no photo"]),
}


@pytest.mark.parametrize("how", BOTH_FAIL)
def test_an_error_of_all_processes_is_said_once(tmp_path, how):
    """Above what torchrun prints."""
    main, expected = BOTH_FAIL[how]
    lines, code, _ = run_torchrun(tmp_path, main)
    assert (lines, code) == (expected, "2")


def test_a_mistake_of_the_code_is_shown_once(tmp_path):
    lines, code, _ = run_torchrun(tmp_path, SETUP + "1 / 0", processes=3)
    assert lines.count("ZeroDivisionError: division by zero") == 1 and code == "1"
    assert lines[0] == "Traceback (most recent call last):"


WAITS = {
    "in a collective": "dist.all_reduce(torch.ones(1))",
    "at a meeting": "meeting.wait()",
    # As in training: the signal that torchrun sends is noted only.
    "deaf": "import signal; signal.signal(signal.SIGTERM, lambda *_: None); time.sleep(100)",
}


@pytest.mark.parametrize("wait", WAITS)
def test_all_end_with_the_one_that_fails(tmp_path, wait):
    """Within seconds, and only that one says why."""
    main = SETUP + f"""
            if process.rank == 1:
                Path({str(tmp_path / "began")!r}).write_text(str(time.time()))
                raise ValueError("no photo")
            {WAITS[wait]}"""
    lines, code, _ = run_torchrun(tmp_path, main)
    # Gloo may log that the other one was gone before it had connected.
    lines = [line for line in lines if "ProcessGroupGloo.cpp" not in line]
    assert (lines, code) == (["x.py: no photo"], "2")
    assert time.time() - float((tmp_path / "began").read_text()) < 10


def test_a_process_that_does_not_come_is_told_of(tmp_path):
    """A hang ends after launch.COLLECTIVE, which is minutes."""
    assert launch.COLLECTIVE.total_seconds() <= 600
    main = "launch.COLLECTIVE = timedelta(seconds=3)" + """
            process = launch.setup()
            if process.rank == 1:
                time.sleep(100)
            dist.all_reduce(torch.ones(1))"""
    lines, code, _ = run_torchrun(tmp_path, main)
    assert len(lines) == 1 and code == "2"
    assert lines[0].startswith("x.py: another process is gone or stuck (")

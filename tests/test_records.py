"""records.py: what is found again on disk, and what is refused."""

import pytest

from damage import check_message, make_special
from evaluations import read_json, read_lines
from support import records
from support.shapes import NAME, TEXT

SHAPE = {"category": NAME, "id": NAME, "file": TEXT}
SETTINGS = {"seed": 0, "decoding": "greedy"}


def record(id):
    return {"category": 1, "id": id, "file": f"{id}.png"}


def key(id):
    return 1, id, f"{id}.png"


def write_part(out, number, ids, settings=SETTINGS):
    with records.open_part(out, number, settings) as file:
        for id in ids:
            records.write_line(file, record(id))


def write_finished(out, ids, settings=SETTINGS):
    numbers = {"settings": settings}
    records.write_results(out, numbers, "text\n", [], [record(id) for id in ids])


def find(out, resume=True, settings=SETTINGS):
    return records.find_earlier(out, settings, SHAPE, resume)


def test_an_empty_folder_has_nothing(tmp_path):
    assert find(tmp_path) == find(tmp_path, resume=False) == ({}, 0)


def test_records_of_all_processes_are_found(tmp_path):
    write_part(tmp_path, 0, [3, 4])
    write_part(tmp_path, 1, [5])
    found = find(tmp_path)
    assert list(found.records) == [key(3), key(4), key(5)] and found.free == 2
    assert found.records[key(5)] == record(5)
    with pytest.raises(ValueError, match="holds an interrupted evaluation: --resume continues it"):
        find(tmp_path, resume=False)


def test_a_line_that_was_cut_short_is_left_out(tmp_path):
    write_part(tmp_path, 0, [3, 4])
    path = tmp_path / "instances.part0.jsonl"
    path.write_text(path.read_text()[:-5])
    assert list(find(tmp_path).records) == [key(3)]
    # Cut before its settings were complete, it holds nothing.
    path.write_text('{"settings"')
    assert find(tmp_path) == ({}, 1)


def test_what_is_done_is_found_if_it_is_resumed(tmp_path):
    write_part(tmp_path, 0, [3])
    write_finished(tmp_path, [3, 4])
    assert not list(tmp_path.glob("instances.part*"))
    assert list(find(tmp_path).records) == [key(3), key(4)]
    assert find(tmp_path, resume=False) == ({}, 0)


def test_other_settings_are_refused(tmp_path):
    write_part(tmp_path, 0, [3], {"seed": 1})
    message = "part0.jsonl is of other settings: seed was 1, is 0; decoding was None, is greedy"
    with pytest.raises(ValueError, match=message):
        find(tmp_path)


def test_other_settings_of_what_is_done_are_refused(tmp_path):
    write_finished(tmp_path, [3], SETTINGS | {"seed": 1})
    with pytest.raises(ValueError, match="results.json is of other settings: seed was 1, is 0"):
        find(tmp_path)


def test_an_interrupted_evaluation_has_replaced_one_of_other_settings(tmp_path):
    write_finished(tmp_path, [3], SETTINGS | {"seed": 1})
    write_part(tmp_path, 0, [4])
    assert list(find(tmp_path).records) == [key(4)]


@pytest.mark.parametrize("line", ["no JSON", "{}", "[1]", "null"])
def test_damage_is_named(tmp_path, line):
    write_part(tmp_path, 0, [3])
    with open(tmp_path / "instances.part0.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="part0.jsonl, line 3: .*: remove .*, and --resume asks"):
        find(tmp_path)
    (tmp_path / "instances.part0.jsonl").unlink()
    write_finished(tmp_path, [3])
    (tmp_path / "instances.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="instances.jsonl, line 1: .*: remove instances.jsonl"):
        find(tmp_path)


def test_results_are_written_with_their_faults(tmp_path):
    numbers = {"mPCK": 0.5, "settings": SETTINGS}
    records.write_results(tmp_path, numbers, "a text\n", ["left out: x"], [record(1), record(2)])
    assert read_json(tmp_path / "results.json") == numbers
    assert read_lines(tmp_path / "instances.jsonl") == [record(1), record(2)]
    assert (tmp_path / "results.md").read_text() == "a text\n\n- left out: x\n"
    assert len(list(tmp_path.iterdir())) == 3


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_part(None, 0, [3])
    assert records.continue_earlier(None, SETTINGS, SHAPE, False, 0, 1, "cpu") == ({}, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", [*records.WRITTEN, "instances.part0.jsonl"])
def test_what_is_no_file_is_refused_before_the_work(tmp_path, name, kind):
    write_finished(tmp_path, [3])
    make_special(tmp_path / name, kind)
    with pytest.raises(ValueError, match=f"{name} is no regular file"):
        find(tmp_path)


def test_names_that_only_look_like_parts_are_none(tmp_path):
    for name in ("x", "²", "0.old", ""):
        (tmp_path / f"instances.part{name}.jsonl").write_text("mine")
    assert find(tmp_path, resume=False) == find(tmp_path) == ({}, 0)
    write_part(tmp_path, 10, [4])
    write_part(tmp_path, 9, [3])
    assert list(find(tmp_path).records) == [key(3), key(4)] and find(tmp_path).free == 11
    write_finished(tmp_path, [3])
    assert len(list(tmp_path.glob("instances.part*"))) == 4


def test_settings_are_quoted_briefly(tmp_path):
    write_part(tmp_path, 0, [3], {"seed": "\n\x1b" * 5000, "decoding": ["x"] * 5000})
    with pytest.raises(ValueError) as error:
        find(tmp_path)
    check_message(str(error.value), tmp_path / "instances.part0.jsonl")

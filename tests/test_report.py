"""report.py: every number stands in its row, tables are aligned, sentences say what was done."""

import pytest

import data
from evaluations import record
from study import calibration, metrics, report
from study.compare import Average, Comparison
from study.conclude import conclude_evaluation
from study.images import Images
from study.paper import Way
from support.descriptions import DESCRIPTIONS, read_mp100
from test_calibration import NAMES, draw_records

WAY = Way("base")


def find_rows(text):
    """{label: cells} of the tables in a text; of equal labels the last."""
    rows = [row.strip("|\n").split("|") for row in text.splitlines() if row.startswith("| ")]
    return {label.strip(): [cell.strip() for cell in cells] for label, *cells in rows}


def is_aligned(table):
    lengths = {len(row) for row in table.splitlines() if row.startswith("|")}
    return len(lengths) == 1


def test_a_table_is_markdown_that_is_aligned():
    table = report.format_table("what", ["  a", "bcde"], [("one", ["1", "2.5"]), ("two", ["3"])], 6)
    assert table.splitlines() == [
        "| what   |   a | bcde |",
        "|--------|----:|-----:|",
        "| one    |   1 |  2.5 |",
        "| two    |   3 |      |",
    ]


@pytest.fixture
def numbers():
    """Of three horses and a bed, which training has not seen; beside them the paper's number."""
    ids = {c["name"]: c["id"] for c in read_mp100()["categories"]}
    horse, bed = ids["horse_body"], ids["bed"]
    records = [record(horse, value) for value in (1.0, 0.5, 0.0)] + [record(bed, 0.1)]
    records[3]["controls"]["mean"] = dict.fromkeys(metrics.METRICS, 0.7)
    images = Images([], {horse: "horse_body", bed: "bed"}, {}, None, [], [])
    about = {"model": "nano", "data": "d", "split": 1, "part": "test", "limit": None}
    return about | conclude_evaluation(dict(enumerate(records)), images, 1, {"PCK@0.20": 0.9698})


def test_a_report_shows_averages_intervals_and_the_paper(numbers):
    text = report.format_report(numbers, WAY, pool=4)
    rows = find_rows(text)
    assert rows["in percent"] == ["images", *metrics.COLUMNS]
    assert rows["all (2 categories)"][:2] == ["4", "40.0"]
    assert rows["all (2 categories)"][7] == "30.0"
    low, high = numbers["intervals"]["NME"]
    assert rows["- 95% interval, from"][9] == f"{100 * low:.1f}"
    assert rows["- 95% interval, to"][9] == f"{100 * high:.1f}"
    # Over categories there is no interval.
    assert rows["- 95% interval, to"][7] == rows["- 95% interval, to"][0] == ""
    assert rows[report.PAPER] == ["", "", "", "", "97.0", "", "", "", "", ""]
    assert rows["- mean"][:2] == ["1", "70.0"]
    assert rows["definition new (1 category)"][:2] == ["1", "10.0"]
    assert rows["definition seen in training (1 category)"][:2] == ["3", "50.0"]
    assert rows["animal_body (1 category)"][:2] == ["3", "50.0"]
    assert is_aligned(text)


def test_a_report_of_one_group_has_no_rows_of_groups():
    images = Images([], {500: "kite"}, {}, None, [], [])
    about = {"model": "nano", "data": "d", "split": 1, "part": "test", "limit": None}
    numbers = about | conclude_evaluation({0: record(500, 0.5)}, images, 1)
    rows = find_rows(report.format_report(numbers, WAY, pool=1))
    assert "not in MP-100 (1 category)" not in rows and report.PAPER not in rows
    assert rows["kite (1 category)"][1] == "50.0"


def test_the_first_sentence_says_how_it_was_measured(numbers):
    first = report.format_report(numbers, WAY, pool=9).splitlines()[0]
    part = "nano on d, split 1, test part: 4 of 9 images"
    assert first == f"{part}, single round, greedy, instruction base."
    way = Way("list", "top-3", "confidence", 56, str(DESCRIPTIONS / "vague"), "names")
    first = report.format_report(numbers, way, pool=9).splitlines()[0]
    how = "cumulative (confidence), top-3, 56 pixels, instruction list"
    assert first == f"{part}, {how}, {DESCRIPTIONS / 'vague'}, names of names."


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"chained anew": 3}, f"Beyond {data.MAX_TOKENS} tokens a chain began anew"),
        ({"pairs": 5, "pairs left out": 2}, "Counted as 5 support-query pairs; 2 more have no"),
        ({"limit": 4}, "A quick look (--limit)"),
        ({"limit": 9}, None),
    ],
)
def test_sentences_say_what_is_particular(numbers, more, sentence):
    plain = report.format_report(numbers, WAY, pool=9)
    text = report.format_report(numbers | more, WAY, pool=9)
    if sentence is None:
        assert text == plain
    else:
        assert sentence in text and sentence not in plain and len(text.splitlines()[1]) < 100


def test_favoured_definitions_are_named(numbers):
    text = report.format_report(numbers, WAY, 4, ["bed", "sofa"])
    assert text.endswith("`mean`, from other parts or these images, is favoured on bed, sofa.\n")


def test_points_of_densities_are_shown_with_their_gain():
    points = calibration.average_points(draw_records(40))
    text = report.format_points(points)
    rows = find_rows(text)
    gain = points["PCK-optimal minus greedy"]
    assert rows["PCK-optimal minus greedy"][2] == f"{100 * gain['PCK@0.10']:.1f}"
    assert rows["- 95% interval, to"][2] == f"{100 * gain['intervals']['PCK@0.10'][1]:.1f}"
    assert {"greedy", "mean", "PCK-optimal"} <= rows.keys() and is_aligned(text)


def test_densities_are_shown_beside_gaussians():
    found = calibration.compare_with_gaussians(draw_records(16), NAMES) | {"prefixes": 3520.44}
    text = report.format_densities(found)
    table = [row.strip("|").split("|") for row in text.splitlines() if row.startswith("| ")]
    labels = [label.strip() for label, *_ in table]
    assert labels[1:4] == ["density", "- 95% interval, from", "- 95% interval, to"]
    shares = [f"{100 * found['holds'][q]:.1f}" for q in calibration.LEVELS]
    expected = [f"{found['nll']:.2f}", f"{found['entropy']:.2f}", *shares]
    assert [cell.strip() for cell in table[1][1:]] == expected
    low = found["intervals"]["holds"][0.9][0]
    assert table[2][5].strip() == f"{100 * low:.1f}"
    one = found["Gaussian"]
    assert labels[4] == f"Gaussian, sigma {one['sigma']:.1%} of the crop"
    differences = [one["nll"], one["difference"], *one["interval of the difference"]]
    assert [row[1].strip() for row in table[4:8]] == [f"{value:.2f}" for value in differences]
    assert "Densities at 44 truths; 4 more" in text and is_aligned(text)
    assert "Read for a density: 3,520.4 prefixes" in text
    none = {"truths": 0, "truths outside of the crop": 3, "prefixes": 7.0}
    assert "not compared" in report.format_densities(none)


def test_an_average_shows_its_splits_in_order():
    split = dict.fromkeys(metrics.COLUMNS, 0.1) | {"instances": 10, "paper": {"PCK@0.20": 0.9057}}
    how = {"data": "d", "part": "test", "protocol": "only query images", "decoding": "greedy"}
    how |= {"cumulative": None, "limit": 7}
    numbers = dict.fromkeys(metrics.COLUMNS, 0.3) | {"paper": {}, "splits": {2: split, 3: split}}
    text = report.format_average(Average(how, numbers))
    assert text.startswith("d, test part, only query images, greedy, single round.\nA quick look")
    assert text.index("split 2") < text.index("split 3") < text.index("average of 2")
    rows = find_rows(text)
    assert rows["split 3"][:2] == ["10", "10.0"] and rows["average of 2"][:2] == ["", "30.0"]
    assert rows[report.PAPER][4] == "90.6" and text.count(report.PAPER) == 2 and is_aligned(text)


def test_a_comparison_marks_differences_that_leave_out_nothing():
    scores = dict.fromkeys(metrics.COLUMNS, 0.5) | {"instances": 4, "keypoints": 9}
    scores["interval"] = [0.4, 0.6]
    clear = {"difference": 0.05, "interval of the difference": [0.01, 0.09]}
    vague = {"difference": -0.05, "interval of the difference": [-0.1, 0.01]}
    numbers = {"base": scores, "a": scores | clear, "a, 30% covered": scores | vague}
    how = {"data": "d", "split": 1, "part": "test", "limit": None}
    text = report.format_comparison(Comparison(how, "base", 4, numbers))
    assert text.startswith("d, split 1, test part: the same 4 images.\nDifference: in mPCK, from b")
    rows = find_rows(text)
    assert rows["base"] == ["4", "9", *["50.0"] * 4, "40.0 to 60.0", "", ""]
    assert rows["a"][7:] == ["+5.0 *", "1.0 to 9.0"]
    assert rows["a, 30% covered"][7:] == ["-5.0", "-10.0 to 1.0"] and is_aligned(text)

"""conclude.py: averages of all images, of groups and of definitions."""

import pytest

from study import metrics
from study.conclude import conclude
from study.images import Part
from support.descriptions import read_mp100
from test_metrics import record


def test_averages_over_images_over_categories_and_by_training():
    ids = {c["name"]: c["id"] for c in read_mp100()["categories"]}
    records = [
        *(record(ids["horse_body"], value) for value in (1.0, 0.5, 0.0)),
        record(ids["bed"], 0.1),
    ]
    records[3]["controls"]["mean"] = dict.fromkeys(metrics.METRICS, 0.7)
    r, table = metrics.report(
        records, {ids[n]: n for n in ("horse_body", "bed")}, 1, {"PCK@0.20": 0.9698}
    )
    assert r["mPCK"] == r["AUC"] == pytest.approx(1.6 / 4) and r[
        "mPCK over categories"
    ] == pytest.approx((0.5 + 0.1) / 2)
    facts = read_mp100()
    trained = {
        c["definition"] for c in facts["categories"] if c["id"] in facts["splits"]["1"]["train"]
    }
    assert "animal_body" in trained and "bed" not in trained
    assert r["groups"]["definition seen in training"]["instances"] == 3
    assert r["groups"]["definition new"]["mPCK"] == pytest.approx(0.1)
    assert r["categories"][ids["bed"]]["name"] == "bed" and r["definitions"]["animal_body"][
        "mPCK"
    ] == pytest.approx(0.5)
    assert r["controls"]["mean"]["instances"] == 1 and r["controls"]["mean"][
        "NME"
    ] == pytest.approx(0.7)
    assert "definition new (1 category)" in table and " 40.0 |" in table
    assert "paper, default config, MP-100 photographs" in table and " 97.0 |" in table
    assert len({len(row) for row in table.splitlines()}) == 1

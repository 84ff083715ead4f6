"""Whether an effect that nano shows is the paper's: in its direction, and in its size.

    find_base(row, rows)        # the row that an effect is measured from
    find_paper_effect(row, base)            # PaperEffect("mPCK", -5.32)
    judge_effect(Effect(-57.2, -60.1, -54.0), -5.32)        # "-57.2, paper -5.3"
"""

from typing import NamedTuple

from study.paper import find_published

# In points: an effect of the paper that is smaller is none that nano could show.
SMALL = 0.5
# How many times one effect may be as large as the other.
FACTOR = 3
RULE = (
    "Differences and effects are against the first row; in Table 3 against the same model's single "
    "answers, in Table 7 against the same model asked as it was trained, in Table 13 that with the "
    "true category against the same model that names it itself, in Table 14 against DINOv2, in "
    "Table 17 against the same instruction in text. *as in the paper*: the effect on "
    "mPCK (on PCK@0.20 where the paper has no mPCK): *yes* if both have the same sign and differ "
    f"by a factor of at most {FACTOR}, or are both below {SMALL} points; *not seen* if the 95% "
    "interval of nano's includes 0 and the paper's is not that small; otherwise both effects."
)


class Effect(NamedTuple):
    """nano's, in points, and its 95% interval."""

    points: float
    low: float
    high: float


class PaperEffect(NamedTuple):
    """The paper's, in points of a column of its table."""

    column: str
    points: float


def find_base(row, rows):
    """The row of a recipe that a row is compared with; None if it is its own base.

    It is the first one, unless the row names another.
    """
    by_name = {other.name: other for other in rows}
    base = by_name[row.against] if row.against else rows[0]
    return None if base is row else base


def find_paper_effect(row, base):
    """The PaperEffect of a row against its base."""
    own, first = find_published(**row.paper), find_published(**base.paper)
    column = "mPCK" if "mPCK" in own and "mPCK" in first else "PCK@0.20"
    return PaperEffect(column, round(100 * (own[column] - first[column]), 2))


def judge_effect(nano, paper):
    """A verdict in few words. nano: an Effect; paper: the paper's, in points."""
    sizes = sorted((abs(nano.points), abs(paper)))
    both = f"{format_points(nano.points)}, paper {format_points(paper)}"
    if sizes[1] < SMALL:
        return "yes"
    if abs(paper) >= SMALL and nano.low <= 0 <= nano.high:
        return f"not seen: {both}"
    if nano.points * paper > 0 and sizes[1] <= round(FACTOR * sizes[0], 6):
        return "yes"
    if nano.points * paper < 0 and sizes[0] >= SMALL:
        return f"reverse: {both}"
    return both


def format_points(points):
    """With its sign; what rounds to 0 has none."""
    return f"{points:+.1f}" if round(points, 1) else "0.0"

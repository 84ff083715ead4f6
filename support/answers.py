"""What sample.py shows of answers: a table, numbers for its JSON, circles for its picture."""

# Circles are drawn where they are large, relative to the longest side of the box.
LARGE = 0.15


def format_answers(names, points, box, is_calibrated):
    """Lines to print: each keypoint's place and radius, in the photo's pixels and of the box.

    points: list of capellm.Point; box: x, y, w, h in pixels.
    """
    width = max(len("keypoint"), *map(len, names))
    lines = [f"{'keypoint':<{width}}  {'x':>7}  {'y':>7}  {'within':>7}  {'share':>6}"]
    side = max(box[2:])
    for name, (x, y, _, radius) in zip(names, points, strict=True):
        within, share = "-", "-"
        if radius is not None:
            within, share = f"{radius:.1f}", f"{radius / side:.1%}"
        lines.append(f"{name:<{width}}  {x:7.1f}  {y:7.1f}  {within:>7}  {share:>6}")
    if points and points[0].radius is not None:
        lines.append(
            "nine times out of ten the truth lies within so many pixels, such a share of the box"
        )
        if not is_calibrated:
            lines.append("by the model itself, not calibrated: see python -m study.coverage -h")
    return lines


def describe_answers(names, points, box, is_calibrated):
    """The same for the JSON: a dict for each keypoint, radii also as a share of the box."""
    side, found = max(box[2:]), []
    for name, point in zip(names, points, strict=True):
        share = None if point.radius is None else point.radius / side
        found.append({"name": name, **point._asdict(), "radius_of_box": share})
    return {"radius_is_calibrated": is_calibrated, "keypoints": found}


def choose_circles(points, box):
    """The radius of each point that is worth a circle, None of the others."""
    least = LARGE * max(box[2:])
    return [p.radius if p.radius is not None and p.radius >= least else None for p in points]

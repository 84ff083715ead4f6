"""What docs/ is written from: tables, as the recipes print them, and quoted code."""

import ast
import textwrap

MOST_LINES = 10  # of code at once


def write_table(heads, rows, words=1):
    """A Markdown table; its first columns, of words, to the left and the others to the right."""
    rule = "|" + "---|" * words + "---:|" * (len(heads) - words)
    lines = ["| " + " | ".join(heads) + " |", rule]
    for row in rows:
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def quote_code(root, file, name, first="", last=""):
    """A function of a file without its docstring, or the part of it from a line to a line.

    name: of the function, `Class.method` in a class; first, last: what the first and the last line
    of the part contain. ValueError if the file has no such function or lines, or they are many.
    """
    source = (root / file).read_text(encoding="utf-8")
    node = ast.parse(source)
    for part in name.split("."):
        node = next((n for n in node.body if getattr(n, "name", None) == part), None)
        if node is None:
            raise ValueError(f"{file} has no {name}")
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    if ast.get_docstring(node):
        docstring = node.body[0]
        del lines[docstring.lineno - node.lineno : docstring.end_lineno - node.lineno + 1]
    if last:
        start = next((i for i, line in enumerate(lines) if first in line), len(lines))
        end = next((i for i in range(start, len(lines)) if last in lines[i]), None)
        if end is None:
            raise ValueError(f"{file}, {name} has no lines from {first!r} to {last!r}")
        lines = lines[start : end + 1]
    if not 3 <= len(lines) <= MOST_LINES:
        raise ValueError(f"{file}, {name}: {len(lines)} lines, expected 3 to {MOST_LINES}")
    where = f"# {file}, {'in ' if last else ''}{name}"
    return "\n".join(["```py", where, textwrap.dedent("\n".join(lines)), "```"])

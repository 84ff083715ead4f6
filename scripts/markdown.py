"""Tables in Markdown, as docs/ has them and the recipes print them."""


def write_table(heads, rows, words=1):
    """A Markdown table; its first columns, of words, to the left and the others to the right."""
    rule = "|" + "---|" * words + "---:|" * (len(heads) - words)
    lines = ["| " + " | ".join(heads) + " |", rule]
    for row in rows:
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"

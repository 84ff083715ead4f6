"""Recipes that measure what docs/ reports, for those who want to measure it again.

`make tables`, `trained`, `faces` and `bench` call them. `collect` writes what they left in out/
into results/, `document` writes the tables of docs/ and of the README from that; `walk` writes
docs/walkthrough.md. A reader of the method needs none of it.
"""

"""MP-100 redrawn, so that everything runs with no download; `python -m drawings.scene` writes it."""

"""What the paper studies around the method: instructions, densities, metrics and protocols,
controls, tables. `eval.py` uses it, and whoever repeats the paper's tables; `train.py` for few
photographs.
"""

"""MP-100 redrawn: the same 100 categories, keypoints and splits as drawings, so that everything
runs with no download; `python -m drawings --out data/figures` writes them. Training without
photographs, the embedded model and the tests need them; a reader of the method does not. Read
shapes.py first, then one kind of things, such as birds.py, then scene.py, which draws them.
"""

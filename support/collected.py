"""What was annotated with another tool, collected on the way into this project's layout.

The readers of support/foreign.py fill a Collected; support/convert.py writes it.
"""

import functools
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from support import photos
from support.files import find_spelling
from support.quote import cut, quote

# Words in the names of folders and files that tell a part.
PART_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}
# Of photographs.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Photo(NamedTuple):
    path: Path
    stored: tuple  # width, height
    orientation: int  # as EXIF has it

    @property
    def size(self):
        """Width and height as a viewer shows it, which is what these tools annotate."""
        return self.stored[::-1] if self.orientation in photos.SIDEWAYS else self.stored


class Labelled(NamedTuple):
    """One object of a photo."""

    photo: Photo
    category: str
    points: dict  # {keypoint: (x, y, v)} of those that are labelled, in pixels
    box: tuple = ()  # x, y, w, h in pixels, if the tool states one
    size: tuple = ()  # the photo's width and height as annotated, if stated
    part: str = ""  # train, val or test, if the tool states one


class Search(NamedTuple):
    """What a photo was looked for by, and whether it lay where its name says."""

    name: str
    is_direct: bool


@dataclass
class Collected:
    """What was read from below a folder."""

    root: Path
    category: str  # of objects that the tool gives no name
    objects: list = field(default_factory=list)
    # {category: names of its keypoints in order}
    keypoints: dict = field(default_factory=lambda: defaultdict(list))
    known: dict = field(default_factory=dict)  # {path: Photo, or None if it cannot be read}
    searched: dict = field(default_factory=dict)  # {path: Search}
    claimed: dict = field(default_factory=dict)  # {path of a photo: where it is annotated}
    # {what is to be said: {where: None}}: of what was not used, of what was used with a doubt
    unused: dict = field(default_factory=lambda: defaultdict(dict))
    doubtful: dict = field(default_factory=lambda: defaultdict(dict))

    def leave_out(self, reason, where):
        self.unused[reason][cut(where)] = None

    def add(self, labelled, where):
        """Note an object, unless nothing says where it is. A box without extent is none."""
        box = labelled.box
        if box and (max(box[2:]) < 1 or min(box[2:]) < 0):
            labelled = labelled._replace(box=())
        places = {point[:2] for point in labelled.points.values()}
        if not places:
            self.leave_out("no labelled keypoint", where)
        elif not labelled.box and len(places) == 1:
            self.leave_out("no box, and a single place labelled", where)
        else:
            self.objects.append(labelled)

    def claim(self, photo, where):
        """ValueError if a photo is annotated elsewhere: a copy would double its objects."""
        other = self.claimed.setdefault(photo.path, where)
        if other != where:
            raise ValueError(
                f"{cut(photo.path)} is annotated twice, in {cut(other)} and {cut(where)}: take one "
                "of them away"
            )

    def name_keypoints(self, category, names, where):
        """Note the keypoints of a category. ValueError if it has others, or in another order."""
        known = self.keypoints[category]
        known += [] if known else names
        if known != names:
            raise ValueError(
                f"{where}: category {quote(category)} lists other keypoints than before, or in "
                "another order: rename it, or bring them into one"
            )

    @functools.cached_property
    def files(self):
        """{file name: paths} of the files below the folder that are not hidden."""
        found = defaultdict(list)
        for path in list_files(self.root):
            found[unify(path.name)].append(path)
        return found

    @functools.cached_property
    def photo_folders(self):
        paths = itertools.chain.from_iterable(self.files.values())
        return {path.parent for path in paths if path.suffix.lower() in SUFFIXES}

    def find_photo(self, name, file) -> Photo | None:
        """The photo that an annotation file calls so: beside the file, or the one below the root
        whose path is most like the name.

        None, which is noted, if there is none, or several, or Pillow cannot read it. ValueError if
        one photo would be two names'.
        """
        # Tools on Windows write backslashes.
        name = os.path.normpath(name.replace("\\", "/"))
        path = find_spelling(file.parent, name)
        is_direct = os.path.isfile(path)
        if not is_direct:
            same = self.search(name, file)
            if len(same) != 1:
                self.leave_out("several images of that name" if same else "image missing", name)
                return None
            path = same[0]
            parts = Path(name).parts
            is_elsewhere = Path(os.path.abspath(path)).parts[-len(parts):] != parts
            # Beside an annotation file with photographs one that is missing is somewhere else.
            is_astray = len(parts) == 1 and file.parent in self.photo_folders
            if is_elsewhere or is_astray:
                self.doubtful["found in another folder than it is said to be"][cut(name)] = None
        path = settle(path.parent) / path.name
        first = self.searched.setdefault(path, Search(name, is_direct))
        if first.name != name and not (first.is_direct and is_direct):
            raise ValueError(
                f"{cut(path)} is all there is of {quote(first.name)} and {quote(name)}: add the "
                "other image, or take its annotations away"
            )
        return self.read_photo(path)

    def search(self, name, file):
        """Paths below the root that end as a name does, with as many of its folders as possible.

        Of several the one beside the annotation file, or in a folder that the file is named after.
        """
        parts = [unify(part) for part in Path(name).parts]
        alike = self.files.get(unify(Path(name).name), [])
        for n in range(len(parts), 0, -1):
            same = [p for p in alike if [unify(part) for part in p.parts[-n:]] == parts[-n:]]
            if same:
                break
        else:
            return []
        beside = [p for p in same if p.parent == file.parent]
        called = [p for p in same if re.search(rf"(^|[_-]){re.escape(p.parent.name)}$", file.stem)]
        if len(same) > 1 and (beside or called):
            return beside or called
        return same

    def read_photo(self, path) -> Photo | None:
        """What is known of a photo; None, which is noted, if Pillow cannot read it."""
        if path not in self.known:
            self.known[path] = None
            try:
                with photos.explain_damage(path), Image.open(path) as image:
                    self.known[path] = Photo(path, image.size, photos.read_orientation(image))
            except (OSError, ValueError):
                self.leave_out("image that cannot be read", path)
        return self.known[path]


def unify(text):
    """A name as it is compared: systems store an accented letter in two ways."""
    return unicodedata.normalize("NFC", text)


def settle(path):
    """A path without links and "..", below the current folder as seen from there."""
    real, here = os.path.realpath(path), os.path.realpath(".")
    if real == here or real.startswith(here.rstrip(os.sep) + os.sep):
        return Path(os.path.relpath(real, here))
    return Path(real)


def list_files(folder, pattern="*"):
    """Files below a folder, also where folders are links, sorted; none that is hidden, or lies in
    a hidden folder."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [f for f in folders if not f.startswith(".")]
        if real not in seen:
            found += [Path(place, name) for name in names if not name.startswith(".")]
        seen.add(real)
    return sorted(path for path in found if path.match(pattern) and path.is_file())


def tell_part(path):
    """train, val or test, as the last part of a path says that says one of them; "" if none."""
    for name in reversed(Path(path).parts):
        words = re.split("[^a-z]+", name.lower())
        parts = {PART_WORDS[word] for word in words if word in PART_WORDS}
        if len(parts) == 1:
            return parts.pop()
    return ""

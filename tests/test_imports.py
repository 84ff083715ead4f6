"""Arrows point down: which file may import which."""

import ast
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent

# A name is a file, as in an import statement; "study.*" means all files of a folder. A file with a
# line of its own goes by that line, not by its folder's. What is missing from the right is not to
# be imported, also not inside of a function. Tests may import anything.
RULES = {
    # The method, from the bottom to the top.
    "lora": ["support.tensors"],
    "dino": ["support.*"],
    "llama": ["support.*"],
    "decode": ["llama", "study.digits", "support.passes", "support.tensors"],
    "data": ["study.instructions", "support.*"],
    "capellm": [
        "lora",
        "dino",
        "llama",
        "decode",
        "data",
        "study.category",
        "study.density",
        "study.encoders",
        "study.keypoint_token",
        "study.share_image",
        "support.*",
    ],
    # What is done with it.
    "train": ["capellm", "lora", "data", "decode", "study.*", "support.*"],
    "eval": ["capellm", "data", "decode", "study.*", "support.*"],
    "sample": ["capellm", "data", "decode", "study.*", "support.*"],
    # The rooms behind.
    "support.*": ["support.*", "study.instructions"],
    "study.instructions": [],
    "study.category": ["data", "llama", "study.instructions", "support.tensors"],
    "study.density": ["decode", "llama", "support.tensors"],
    "study.digits": [],
    "study.encoders": ["dino", "study.hiera", "support.*"],
    "study.explain": ["data", "decode", "llama", "study.density", "study.figure5", "support.*"],
    "study.hiera": ["support.*"],
    "study.keypoint_token": ["decode", "support.*"],
    "study.share_image": ["data", "support.tensors"],
    "study.validation": ["data", "lora", "study.metrics", "support.*"],
    "study.*": ["capellm", "data", "decode", "study.*", "support.*"],
    "drawings.*": ["drawings.*", "support.*"],
    # Recipes may use everything, train, eval and sample among it.
    "nano.*": ["*"],
    "scripts.*": ["*"],
}
FOLDERS = ("support", "study", "drawings", "nano", "scripts")


def list_modules():
    """{name as in an import statement: file} of the project, tests left out."""
    modules = {path.stem: path for path in HOME.glob("*.py")}
    for folder in FOLDERS:
        for path in (HOME / folder).rglob("*.py"):
            parts = path.relative_to(HOME).with_suffix("").parts
            modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


MODULES = list_modules()


def list_imported_names(path):
    """All dotted names that a file imports, wherever it does: `from a import b` may be a.b."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: `from .` hides which file is meant"
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def list_imports(module):
    """The project's files that a module imports. A folder counts only where it holds code."""
    found = {name for name in list_imported_names(MODULES[module]) if name in MODULES}
    return sorted(name for name in found if MODULES[name].name != "__init__.py")


def fits(module, pattern):
    if pattern.endswith("*"):
        return module.startswith(pattern.removesuffix("*"))
    return module == pattern


def find_rule(module):
    """What a module may import, by its own line of the table or its folder's."""
    folder = module.partition(".")[0]
    for name in (module, f"{folder}.*"):
        if name in RULES:
            return RULES[name]
    raise AssertionError(f"{module} has no line in the table of this test: where does it belong?")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_imports_what_the_table_allows(module):
    allowed = find_rule(module)
    for imported in list_imports(module):
        assert any(fits(imported, pattern) for pattern in allowed), f"{module} imports {imported}"


def test_the_table_names_files_that_exist():
    for name, allowed in RULES.items():
        for pattern in (name, *allowed):
            assert any(fits(module, pattern) for module in MODULES), pattern


def find_reachable(module, imports):
    """All that a module imports, directly or round a corner."""
    reachable, left = set(), list(imports[module])
    while left:
        name = left.pop()
        if name not in reachable:
            reachable.add(name)
            left += imports[name]
    return reachable


def find_circles(imports):
    """Sets of modules that all reach each other and themselves."""
    reachable = {module: find_reachable(module, imports) for module in imports}
    circles = []
    for module, names in reachable.items():
        circle = sorted(name for name in names if module in reachable[name])
        if circle and circle not in circles:
            circles.append(circle)
    return circles


def test_no_circle():
    assert find_circles({module: list_imports(module) for module in MODULES}) == []


def test_circles_are_found():
    """Two with a way between them, a module that imports itself, and one outside."""
    imports = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": ["e"], "e": ["d"], "f": ["f", "a"]}
    assert find_circles(imports | {"g": ["a"]}) == [["a", "b", "c"], ["d", "e"], ["f"]]


def test_imports_are_found_wherever_they_stand(tmp_path):
    text = (
        "import os, a.b as c\n"
        "def f():\n    from d import e\n"
        "try:\n    import g\nexcept ImportError:\n    pass\n"
    )
    (tmp_path / "x.py").write_text(text)
    found = list_imported_names(tmp_path / "x.py")
    assert sorted(found) == ["a.b", "d", "d.e", "g", "os"]


def test_no_file_is_named_as_a_module_of_python():
    """It would hide it."""
    for module in MODULES:
        assert module.partition(".")[0] not in sys.stdlib_module_names

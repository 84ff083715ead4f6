"""How long files, lines and functions may be: budgets for a reader's patience."""

import ast
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
# In reading order.
LINES = {
    "lora.py": 80,
    "dino.py": 180,
    "llama.py": 280,
    "capellm.py": 300,
    "decode.py": 260,
    "data.py": 380,
    "train.py": 320,
    "eval.py": 280,
    "sample.py": 140,
}
WIDTH = 100
FUNCTION = 60
FOLDERS = ("support", "study", "drawings", "nano", "scripts")


def list_files():
    """All Python files of the project, as paths relative to it."""
    files = list(HOME.glob("*.py"))
    for folder in (*FOLDERS, "tests"):
        files += (HOME / folder).rglob("*.py")
    return sorted(str(path.relative_to(HOME)) for path in files)


FILES = list_files()


@pytest.mark.parametrize("name, most", LINES.items())
def test_files_in_front_keep_their_budgets(name, most):
    assert len((HOME / name).read_text(encoding="utf-8").splitlines()) <= most


def test_the_files_in_front_are_these():
    assert sorted(path.name for path in HOME.glob("*.py")) == sorted(LINES)


@pytest.mark.parametrize("name", FILES)
def test_lines_fit_the_screen(name):
    lines = (HOME / name).read_text(encoding="utf-8").splitlines()
    wide = [number for number, line in enumerate(lines, 1) if len(line) > WIDTH]
    assert wide == []


def list_functions(text):
    """[(name, lines)] of all functions in a text, decorators included."""
    functions = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            functions.append((node.name, node.end_lineno - first + 1))
    return functions


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("tests")])
def test_functions_fit_a_screen(name):
    functions = list_functions((HOME / name).read_text(encoding="utf-8"))
    assert [(function, lines) for function, lines in functions if lines > FUNCTION] == []


def test_functions_are_measured_wherever_they_stand():
    text = "@d\ndef f():\n    def g(): pass\n    return g\n"
    text += "class C:\n    async def h(self):\n        pass\n"
    assert sorted(list_functions(text)) == [("f", 4), ("g", 1), ("h", 2)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_say_what_is_in_them(folder):
    """And hold no code there."""
    tree = ast.parse((HOME / folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) and len(tree.body) == 1


def test_every_folder_of_python_is_known():
    """A file of code outside of the rooms would be held to nothing."""
    folders = {path.parent.name for path in HOME.glob("*/*.py")}
    assert folders == {*FOLDERS, "tests"}


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("tests")])
def test_json_is_written_without_nan(name):
    """NaN and infinity are Python's own extension, which other readers of JSON refuse."""
    writes = []
    for node in ast.walk(ast.parse((HOME / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
            writes.append(ast.unparse(node))
    assert [text for text in writes if "allow_nan=False" not in text] == []

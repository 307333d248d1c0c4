"""Who may import whom: the direction of the packages, and front doors for those outside."""

import ast
import json
from pathlib import Path

import pytest
from tracked import tracked

from lib.config import REPO_ROOT

GROUND = {"config", "exceptions", "files", "locks"}
TOOLS = GROUND | {"system", "images", "metrics"}
MAY_IMPORT = {
    "config": GROUND,
    "exceptions": set(),
    "files": GROUND,
    "locks": GROUND,
    "system": GROUND,
    "images": GROUND,
    "metrics": GROUND,
    "plots": GROUND | {"metrics"},
    "models": GROUND | {"metrics", "system", "inference"},
    "phantoms": TOOLS,
    "runs": TOOLS,
    "inference": TOOLS,
    "datasets": TOOLS | {"phantoms"},
    "comparison": TOOLS | {"runs"},
    "examination": TOOLS | {"phantoms", "inference", "comparison", "plots"},
    "compression": TOOLS | {"inference", "models", "datasets", "runs", "comparison"},
    "stages": TOOLS | {"models", "datasets", "runs", "comparison"},
    "robustness": TOOLS | {"models", "datasets", "runs", "comparison", "stages"},
    "export": TOOLS | {"inference", "models", "datasets", "runs", "comparison", "compression"},
    "external": TOOLS | {"inference", "datasets", "runs", "comparison", "export"},
    "studies": TOOLS | {"phantoms", "runs", "datasets", "comparison", "plots"},
}
LIB = [path.relative_to(REPO_ROOT) for path in tracked("lib/**/*.py")]


def imports(code: str) -> list[tuple[str, str]]:
    """(module, name) of each import from lib, wherever it stands."""
    nodes = [
        node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom | ast.Import)
    ]
    found = [
        (node.module or "", alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    found += [
        (alias.name, "") for node in nodes if isinstance(node, ast.Import) for alias in node.names
    ]
    return [(module, name) for module, name in found if module.split(".")[0] == "lib"]


def test_packages_import_only_what_lies_below_them():
    assert len(LIB) > 40
    wrong = []
    for path in LIB:
        package = path.with_suffix("").parts[1]
        for module, name in imports((REPO_ROOT / path).read_text()):
            target = [*module.split("."), name][1]
            if package not in ("cli", "__init__", target) and target not in MAY_IMPORT[package]:
                wrong.append(f"{path} imports lib.{target}")
            if name.startswith("_") and target != package:
                wrong.append(f"{path} imports the private name {module}.{name}")
    assert not wrong


def code_of(path: Path) -> str:
    text = (REPO_ROOT / path).read_text()
    if path.suffix == ".py":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(cell["source"]) for cell in cells)


OUTSIDE = [
    path.relative_to(REPO_ROOT)
    for pattern in ("*/*.ipynb", "app/*.py")
    for path in tracked(pattern)
]


CLI = [path for path in LIB if path.parts[1] == "cli"]


@pytest.mark.parametrize("path", [*OUTSIDE, *CLI], ids=str)
def test_those_outside_use_front_doors(path):
    inner = [
        f"{module}.{name}"
        for module, name in imports(code_of(path))
        if module.count(".") > 1 and not (path in CLI and module.startswith("lib.cli."))
    ]
    assert not inner, "import these names from their package, and list them in its __all__"

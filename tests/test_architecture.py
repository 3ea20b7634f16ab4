"""Imports point down the floors of the design, without cycles; heavy libraries sit behind one file or folder each."""

import ast
from pathlib import Path

import pytest

from compress.engines import ENGINES
from compress.pose.approaches import APPROACHES

PACKAGE = Path(__file__).parent.parent / "compress"

# Longest matching prefix wins. A module imports from its own folder and from lower floors; crafts not one another.
FLOORS = {
    "compress": 14,  # the API by its names; everybody may read its version
    "compress.errors": -1,
    "compress.extensions": 0,
    "compress.data.normalisation": 0,  # a record that networks and pose code share; it imports nothing
    "compress.files": 0,
    "compress.progress": 0,
    "compress.pose.codec": 1,  # a record that recipes name; it imports nothing of the rest of compress.pose
    "compress.measure.limit": 1,  # likewise: records that recipes name
    "compress.measure.objective": 1,
    "compress.measure.target": 1,
    "compress.recipe": 2,
    "compress.networks": 3,
    "compress.data": 4,
    "compress.engines": 5,
    "compress.pose": 6,
    "compress.measure": 7,
    "compress.training": 8,
    "compress.pruning": 9,
    "compress.rewriting": 9,
    "compress.artefacts": 10,
    "compress.nas": 11,
    "compress.jobs": 12,
    "compress.report": 12,
    "compress.api": 13,
    "compress.cli": 13,
    "compress.__main__": 14,
}

# library → the only places that may import it
BEHIND = {
    "optuna": (
        "compress.nas.sampler",
        "compress.nas.predictor_sampler",
        "compress.nas.study",
        "compress.nas.trial_book",
    ),
    "sqlalchemy": ("compress.nas.study",),
    "sklearn": ("compress.nas.predictor",),
    "pycocotools": ("compress.pose.average_precision", "compress.data.coco"),
    "onnx": (
        "compress.engines",
        "compress.measure.timing",
        "compress.networks.onnx_file",
        "compress.networks.onnx_opsets",
    ),
    "onnxruntime": ("compress.engines", "compress.measure.timing", "compress.networks.onnx_file"),
    "onnxsim": ("compress.engines", "compress.networks.onnx_file"),
    "onnx2torch": ("compress.networks.onnx_file",),
    "ptflops": ("compress.measure.cross_check",),
    "ncnn": ("compress.engines",),
    "MNN": ("compress.engines",),
    "_tools": ("compress.engines",),
    "openvino": ("compress.engines",),
    "ai_edge_litert": ("compress.engines",),
    "pnnx": ("compress.engines",),
    "jinja2": ("compress.report.page",),
    "markupsafe": ("compress.report.page",),
    "vl_convert": ("compress.report.figures",),
    "typer": ("compress.cli",),
    "lightning_fabric": ("compress.training", "compress.nas.supernet", "compress.jobs"),
    "tensorboardX": ("compress.jobs.train",),
    "torch_pruning": ("compress.jobs.prune.compare",),
    "pydantic": (
        "compress.recipe",
        "compress.pose.codec",
        "compress.networks",
        "compress.artefacts.records",
        "compress.artefacts.metadata",
        "compress.data.coco",
    ),
    "rich": ("compress.report",),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name: str) -> list[str]:
    """Every module that the file imports, inside functions too; not what only type checkers import."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unread = {id(inside) for guard in guards for one in guard.body for inside in ast.walk(one)}
    found: list[str] = []
    for node in (node for node in ast.walk(tree) if id(node) not in unread):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append(whole if whole in MODULES else node.module)
    return found


def place(name: str) -> str:
    while name not in FLOORS:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    here = place(name)
    for imported in imports_of(name):
        if imported.partition(".")[0] != "compress":
            continue
        there = place(imported)
        if there not in (here, "compress"):
            assert FLOORS[there] < FLOORS[here], f"{name} imports {imported}, which is not on a lower floor"


@pytest.mark.parametrize("name", MODULES)
def test_heavy_libraries_sit_behind_one_place(name: str) -> None:
    for imported in imports_of(name):
        library = imported.partition(".")[0]
        if library in BEHIND:
            assert any(name == p or name.startswith(f"{p}.") for p in BEHIND[library]), f"{name} imports {library}"


def compared(name: str) -> set[object]:
    """Every constant that a module compares something with, alone or in a tuple, set or list, or matches."""
    found: set[object] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            values: list[ast.expr] = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            values = [node.value]
        else:
            continue
        for value in values:
            parts = value.elts if isinstance(value, ast.Tuple | ast.Set | ast.List) else [value]
            found |= {part.value for part in parts if isinstance(part, ast.Constant)}
    return found


@pytest.mark.parametrize("name", MODULES)
def test_no_code_outside_engines_asks_which_engine_it_has(name: str) -> None:
    """What an engine can do is an attribute of it; see compress.engines.engine.Engine."""
    if not name.startswith("compress.engines"):
        assert not compared(name) & ENGINES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_no_code_outside_its_file_asks_which_approach_a_network_has(name: str) -> None:
    """See compress.pose.approaches.approach.Approach. Architecture records say which one they have."""
    if not name.startswith(("compress.pose.approaches", "compress.networks")):
        assert not compared(name) & APPROACHES.keys()


def test_no_cycles() -> None:
    graph = {name: {i for i in imports_of(name) if i in MODULES} for name in MODULES}
    seen: dict[str, bool] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"cycle: {' → '.join((*path, name))}"
        if name in seen:
            return
        for imported in graph[name]:
            if imported != name:
                visit(imported, (*path, name))
        seen[name] = True

    for name in MODULES:
        visit(name, ())

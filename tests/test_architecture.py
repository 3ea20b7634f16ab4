"""Imports point down the floors of the design, without cycles; heavy libraries sit behind one file or folder each."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "compress"

# Longest matching prefix wins. Files of one craft (floor 2) may import one another inside their folder only.
FLOORS = {
    "compress": 0,
    "compress.errors": 0,
    "compress.data.keypoints": 0,
    "compress.measure.cost": 0,
    "compress.nas.space": 0,
    "compress.recipe": 0,
    "compress.nas.pareto": 0,
    "compress.data.limbs": 0,
    "compress.progress": 0,
    "compress.files": 0,
    "compress.data.memory": 0,
    "compress.networks": 1,
    "compress.data": 2,
    "compress.pose.decode": 2,
    "compress.pose.losses": 2,
    "compress.pose.average_precision": 2,
    "compress.pose.percent_correct": 2,
    "compress.pose.distillation": 2,
    "compress.pose.drawing": 2,
    "compress.measure": 2,
    "compress.engines": 2,
    "compress.pruning": 2,
    "compress.rewriting": 2,
    "compress.training.recalibration": 2,
    "compress.nas.supernet": 2,
    "compress.nas.sampler": 2,
    "compress.artefacts.run": 3,
    "compress.artefacts.artefact": 3,
    "compress.training.processes": 3,
    "compress.pose.objective": 3,
    "compress.pose.estimator": 3,
    "compress.jobs.profile.decoding_costs": 3,
    "compress.training.loop": 3,
    "compress.pose.scoring": 3,
    "compress.nas.space_table": 3,
    "compress.pruning.layer_costs": 3,
    "compress.artefacts.network": 3,
    "compress.nas.candidate": 3,
    "compress.jobs.search.request": 3,
    "compress.jobs.profile.site_costs": 3,
    "compress.jobs.finalise": 3,
    "compress.jobs.prune.choice": 3,
    "compress.jobs.rewrite.choice": 3,
    "compress.jobs": 4,
    "compress.report": 5,
    "compress.cli": 6,
    "compress.__main__": 7,
}

# library → the only places that may import it
BEHIND = {
    "optuna": ("compress.nas.sampler",),
    "pycocotools": ("compress.pose.average_precision", "compress.data.coco"),
    "onnx": ("compress.engines", "compress.measure", "compress.networks.onnx_file", "compress.networks.onnx_opsets"),
    "onnxruntime": ("compress.engines", "compress.measure", "compress.networks.onnx_file"),
    "onnxsim": ("compress.engines", "compress.networks.onnx_file"),
    "onnx2torch": ("compress.networks.onnx_file",),
    "ptflops": ("compress.measure.cross_check",),
    "ncnn": ("compress.engines",),
    "MNN": ("compress.engines",),
    "_tools": ("compress.engines",),
    "pnnx": ("compress.engines",),
    "altair": ("compress.report",),
    "vl_convert": ("compress.report",),
    "typer": ("compress.cli",),
    "lightning_fabric": (
        "compress.training.processes",
        "compress.training.loop",
        "compress.jobs.finalise",
        "compress.jobs",
    ),
    "tensorboardX": ("compress.jobs.train",),
    "pydantic": ("compress.recipe", "compress.networks"),
    "rich": ("compress.report",),
}

# The latency table is of an engine: measure may know engines, engines know nothing of measure.
ALLOWED_SIBLINGS = {("compress.measure", "compress.engines")}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name: str) -> list[str]:
    """Every module that the file imports, inside functions too."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found: list[str] = []
    for node in ast.walk(tree):
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
        if there == here or there == "compress" or (here, there) in ALLOWED_SIBLINGS:
            continue
        assert FLOORS[there] <= FLOORS[here], f"{name} imports {imported}, a higher floor"
        if FLOORS[here] == 2:
            assert FLOORS[there] < 2, f"{name} imports {imported}, another craft"


@pytest.mark.parametrize("name", MODULES)
def test_heavy_libraries_sit_behind_one_place(name: str) -> None:
    for imported in imports_of(name):
        library = imported.partition(".")[0]
        if library in BEHIND:
            assert any(name == p or name.startswith(f"{p}.") for p in BEHIND[library]), f"{name} imports {library}"


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

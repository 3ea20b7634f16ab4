"""Figures of the structure of the code, read from the source: sizes, imports, cycles, docstrings.

python -m benchmarks.structure [FOLDER]     FOLDER: of the repository; the one this file lies in by default

Nothing is imported or run but the standard library, so that any commit can be judged. Each line says what it counts.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

EDGES = (
    # command line, Python and recipes: keys by name
    "cli.py",
    "api.py",
    "recipe.py",
    "files.py",
    "report/",
    # JSON and YAML of runs and artefacts
    "artefacts/records.py",
    "artefacts/results.py",
    "artefacts/artefact.py",
    "artefacts/metadata.py",
    "artefacts/run.py",
    "artefacts/shown.py",
    # JSON of trials in a study's storage
    "nas/trial_book.py",
    # JSON of latency tables, of engines' profiles, and of the folder that runs on another device
    "measure/latency_table.py",
    "engines/onnxruntime_kernels.py",
    "engines/packed_run.py",
    # label files: COCO's entries, and what is scored as such
    "data/coco.py",
    "data/mpii.py",
    "data/detections.py",
    "data/folder.py",
    "data/picture.py",
    "data/sizes.py",
    "data/synthetic.py",
    "pose/average_precision.py",
    "pose/decode/poses.py",
)
"""Where JSON, YAML and command lines come in and go out, so that plain mappings are meant."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Modules = dict[str, tuple[Path, ast.Module]]


def read_package(root: Path) -> Modules:
    """Dotted name → file and syntax tree, of every module of the package `compress` under root."""
    modules = {}
    for file in sorted((root / "compress").rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = (file.relative_to(root / "compress"), ast.parse(file.read_text(encoding="utf-8")))
    return modules


def imports(modules: Modules, name: str) -> set[str]:
    """Modules of the package that this one imports, wherever the import stands; not what only type checkers import."""
    found, tree = set(), modules[name][1]
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unread = {id(inside) for guard in guards for one in guard.body for inside in ast.walk(one)}
    for node in (node for node in ast.walk(tree) if id(node) not in unread):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return (found & modules.keys()) - {name}


def direct(modules: Modules, name: str) -> set[str]:
    """As imports, without the packages that only lead to a module."""
    found = imports(modules, name)
    return {one for one in found if not any(other.startswith(f"{one}.") for other in found)}


def reached(modules: Modules, start: str, passed: str | None = None) -> set[str]:
    """Modules that can be reached from `start` by imports; passed: through those alone that import this one too."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen or (passed and name != start and passed not in imports(modules, name)):
            continue
        seen.add(name)
        waiting += imports(modules, name)
    return seen


def cycles(modules: Modules) -> int:
    """Modules that can be reached from themselves."""
    return sum(
        name in set().union(*(reached(modules, one) for one in direct(modules, name)), set()) for name in modules
    )


def functions(modules: Modules) -> Iterator[Function]:
    """Every function and method."""
    for _, tree in modules.values():
        yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def public(modules: Modules) -> Iterator[Function | ast.ClassDef | ast.Module]:
    """Modules, and the classes, functions and methods whose names and classes' names begin with no underscore."""

    def inside(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
        for node in body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                yield node
                if isinstance(node, ast.ClassDef):
                    yield from inside(node.body)

    for file, tree in modules.values():
        if tree.body or file.name != "__init__.py":
            yield tree
        yield from inside(tree.body)


def loose_mappings(modules: Modules, edges: tuple[str, ...] = ()) -> int:
    """Places outside the edges where `dict[str, Any]` or `Mapping[str, Any]` stands."""
    return sum(
        ast.unparse(node) in ("dict[str, Any]", "Mapping[str, Any]")
        for file, tree in modules.values()
        if not file.as_posix().startswith(edges)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
    )


def string_reads(modules: Modules, folder: str = "") -> int:
    """Places under the folder where something is read by a literal string: x["key"] or x.get("key")."""
    found = 0
    for file, tree in modules.values():
        for node in ast.walk(tree) if file.as_posix().startswith(folder) else ():
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                found += isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                found += bool(node.args) and isinstance(getattr(node.args[0], "value", None), str)
    return found


def parameter_count(function: Function) -> int:
    """Of a function, without self and cls."""
    given = function.args
    named = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def percentile(values: list[int], share: float) -> int:
    """The value that this share of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main(root: Path) -> None:
    """Prints one figure a line."""
    modules = read_package(root)
    lines = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions(modules)]
    parameters = [parameter_count(node) for node in functions(modules)]
    documented = [ast.get_docstring(node) is not None for node in public(modules)]
    top = [name for name, (file, _) in modules.items() if len(file.parts) == 1 and file.name != "__init__.py"]
    print(f"modules at the top of compress/                     {len(top)}")
    print(f"modules in all                                      {len(modules)}")
    print(f"dict[str, Any], Mapping[str, Any] everywhere        {loose_mappings(modules)}")
    print(f"dict[str, Any], Mapping[str, Any] outside edges     {loose_mappings(modules, EDGES)}")
    print(f"reads by a literal string, everywhere               {string_reads(modules)}")
    print(f"reads by a literal string in report/                {string_reads(modules, 'report/')}")
    for job in ("search", "prune", "rewrite"):
        name = next(one for one in (f"compress.jobs.{job}.{job}", f"compress.jobs.{job}") if one in modules)
        files = reached(modules, name, passed="compress.recipe") | direct(modules, name)
        print(f"files that {job + ' itself imports':<28} {len(direct(modules, name)):>15}")
        print(f"files that {job + ' imports, or a recipe goes through':<28} {len(files):>4}")
    print(f"modules in an import cycle                          {cycles(modules)}")
    print(f"lines of a function, median / p95                   {median(lines):g} / {percentile(lines, 0.95)}")
    print(f"parameters of a function, p95                       {percentile(parameters, 0.95)}")
    print(f"public docstrings                                   {sum(documented) / len(documented):.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent)

"""The plan of the house in docs/architecture.md, and the imports beside it: no circle, no arrow upwards, no module
that the plan does not know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "hybrid_encoder"
SOURCES = {PACKAGE: ROOT / "src" / PACKAGE, f"{PACKAGE}.adapters": ROOT / "adapters"}
PLAN = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def modules() -> dict[str, Path]:
    """Every module by its dotted name, packages included."""
    found = {}
    for package, folder in SOURCES.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = file
    return found


def imports(name: str, file: Path, known: set[str]) -> set[str]:
    """The modules of the package that a module imports, in functions and for types alone too."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for target in _targets(node, package):
            while target and target not in known:  # a class or function: its module
                target = target.rpartition(".")[0]
            found.add(target)
    # The package itself says its version; everything else is imported from where it is defined.
    return {target for target in found if target.startswith(PACKAGE)} - {name, PACKAGE}


def _targets(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join((*parents, base)).rstrip(".")
        yield from (f"{base}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    """The room of a module, or the module itself where it stands on the ground floor by itself."""
    return module.split(".")[1]


def graph() -> dict[str, set[str]]:
    found = modules()
    return {name: imports(name, file, set(found)) for name, file in found.items()}


def block(title: str) -> list[str]:
    """The lines of the first code block under a heading of the plan."""
    section = PLAN.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return re.search(r"```text\n(.*?)```", section, re.S)[1].strip().splitlines()  # type: ignore[index]


FLOORS = [line.split() for line in block("The order of arrows")]  # from the top down
NEIGHBOURS = {
    (start, end)
    for line in block("Arrows on one floor")
    for start, ends in [line.split(" -> ")]
    for end in ends.split(", ")
}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Every group of modules that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(arrows[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return found


def wrong_arrows(arrows: dict[str, set[str]]) -> list[str]:
    """Imports that the plan does not allow."""
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    wrong = []
    for start, ends in arrows.items():
        if start in (PACKAGE, f"{PACKAGE}.__main__"):
            continue
        for end in ends:
            a, b = room(start), room(end)
            if a == b:
                continue
            if floor[a] > floor[b] or (floor[a] == floor[b] and (a, b) not in NEIGHBOURS):
                wrong.append(f"{start} -> {end}")
    return sorted(wrong)


def unplanned(names: set[str]) -> set[str]:
    """Public modules that the map of the plan does not name."""
    section = PLAN.split("## The map\n", 1)[1].split("\n## ", 1)[0]
    mapped = set(re.findall(r"`([\w/]+\.py)`", section))
    public = set()
    for name, file in modules().items():
        if name in names and file.name != "__init__.py" and not file.name.startswith("_"):
            folder = ROOT if name.startswith(f"{PACKAGE}.adapters.") else SOURCES[PACKAGE]
            public.add(file.relative_to(folder).as_posix())
    assert mapped <= public, f"the map names modules that are not there: {sorted(mapped - public)}"
    return public - mapped


def test_no_circle_of_imports() -> None:
    assert circles(graph()) == []


def test_arrows_follow_the_plan() -> None:
    assert wrong_arrows(graph()) == []


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name in modules() if name.count(".")} - {"__main__"}
    assert rooms == {name for names in FLOORS for name in names}


def test_every_arrow_on_one_floor_that_the_plan_allows_is_used() -> None:
    used = {(room(start), room(end)) for start, ends in graph().items() if start.count(".") for end in ends}
    assert used >= NEIGHBOURS


def test_the_map_names_every_public_module() -> None:
    assert unplanned(set(modules())) == set()


def test_the_checks_find_what_they_look_for() -> None:
    arrows = {
        f"{PACKAGE}.models.a": {f"{PACKAGE}.losses.b"},
        f"{PACKAGE}.losses.b": {f"{PACKAGE}.geometry.c"},
        f"{PACKAGE}.geometry.c": {f"{PACKAGE}.models.a"},
        f"{PACKAGE}.checkpoints.d": {f"{PACKAGE}.towers.e"},
        f"{PACKAGE}.towers.e": set(),
    }
    assert circles(arrows) == [[f"{PACKAGE}.geometry.c", f"{PACKAGE}.losses.b", f"{PACKAGE}.models.a"]]
    assert wrong_arrows(arrows) == [
        f"{PACKAGE}.checkpoints.d -> {PACKAGE}.towers.e",
        f"{PACKAGE}.geometry.c -> {PACKAGE}.models.a",
    ]
    file = ROOT / "adapters" / "__init__.py"
    assert imports(f"{PACKAGE}.adapters", file, set(modules())) <= set(modules())

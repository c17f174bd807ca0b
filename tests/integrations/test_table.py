"""docs/integrations.md: what plugs in where; each row is the word of a test that ran the real library.

``python tests/integrations/test_table.py`` writes the rows anew.
"""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "integrations.md"
BEGIN, END = "<!-- rows: python tests/integrations/test_table.py -->\n", "<!-- end of rows -->\n"
VERBS = ("build", "run", "train", "save", "load", "export")


def rows() -> list[str]:
    """The table, read off the tests that are marked by ``plugs``."""
    found: dict[tuple[str, str], tuple[set[str], list[str]]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        constants = _constants(tree)
        for node in ast.walk(tree):
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "plugs":
                    library, what, *does = (_text(word, constants) for word in mark.args)
                    verbs, tests = found.setdefault((library, what), (set(), []))
                    verbs.update(does)
                    tests.append(f"`{file.relative_to(TESTS).as_posix()}`")
    lines = [f"| library | what | {' | '.join(VERBS)} | run by |", f"| --- | --- |{' :-: |' * len(VERBS)} --- |"]
    for (library, what), (verbs, tests) in sorted(found.items(), key=lambda row: (row[0][0].lower(), row[0][1])):
        cells = ["yes" if verb in verbs else "" for verb in VERBS]
        lines.append(f"| {library} | {what} | {' | '.join(cells)} | {', '.join(dict.fromkeys(tests))} |")
    return lines


def _constants(tree: ast.Module) -> dict[str, str]:
    """The texts that a test file gives a name, which marks may use."""
    named = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    return {
        to.id: str(ast.literal_eval(node.value)) for node in named for to in node.targets if isinstance(to, ast.Name)
    }


def _text(word: ast.expr, constants: dict[str, str]) -> str:
    return constants[word.id] if isinstance(word, ast.Name) else str(ast.literal_eval(word))


def test_the_table_says_what_the_tests_run() -> None:
    shown = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert shown.strip().splitlines() == rows(), f"renew the table: python {Path(__file__).relative_to(TESTS.parent)}"


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(rows()) + "\n\n" + END + rest.split(END)[1], encoding="utf-8")

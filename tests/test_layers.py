"""The shape of the package: what every module is called after, and what importing it costs.

That imports point down is checked by `lint-imports`; what the gateway must not import, by the suite of serving.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tidemill

SOURCE = Path(tidemill.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
NAMELESS = {"utils", "util", "common", "core", "base", "helpers", "helper", "manager", "misc"}
PURE = [*sorted((SOURCE / "strategy").glob("*.py")), *sorted((SOURCE / "stats").glob("*.py")), SOURCE / "records.py"]
NOT_PURE = {
    "time", "random", "threading", "asyncio", "socket", "subprocess", "pathlib", "os", "io", "sqlalchemy", "polars",
    "pyarrow", "duckdb", "sklearn", "torch"
}  # fmt: skip
HEAVY = {"numpy", "polars", "pyarrow", "duckdb", "sklearn", "torch", "sqlalchemy", "uvicorn", "onnxruntime"}


def imported(module: Path) -> set[str]:
    """Return the top packages that a module imports, anywhere in it."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_every_module_is_called_after_what_it_holds() -> None:
    found = [m for m in MODULES if {part.strip("_") for part in m.relative_to(SOURCE).with_suffix("").parts} & NAMELESS]
    assert len(MODULES) > 50 and found == []


@pytest.mark.parametrize("module", PURE, ids=lambda m: str(m.relative_to(SOURCE)))
def test_what_decides_and_what_computes_touches_no_clock_no_disk_and_no_framework(module: Path) -> None:
    assert imported(module) & NOT_PURE == set()


def test_only_the_stores_know_sql_and_file_formats() -> None:
    outside = [m for m in MODULES if "stores" not in m.relative_to(SOURCE).parts]
    found = {str(m.relative_to(SOURCE)): sorted(imported(m) & {"duckdb", "pyarrow", "alembic"}) for m in outside}
    assert {name: known for name, known in found.items() if known} == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [m for m in MODULES if not ast.get_docstring(ast.parse(m.read_text(encoding="utf-8")))]
    assert silent == []


def test_importing_tidemill_loads_nothing_else() -> None:
    code = "import sys, json, tidemill; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & HEAVY == set()


def test_who_keeps_several_gateways_loads_nothing_of_what_they_are_made_of() -> None:
    code = "import sys, json, tidemill.cli.serve; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & HEAVY == set()


def test_every_public_name_is_there_and_listed() -> None:
    for name in tidemill.__all__:
        assert getattr(tidemill, name) is not None
    assert set(tidemill.__all__) <= set(dir(tidemill))
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = tidemill.nothing_such

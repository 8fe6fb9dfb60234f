"""One SELECT that a person wrote, checked part by part before DuckDB runs it.

What it reads must be one of the tables given, and what it calls must be a function without side effects; DuckDB says of
its own functions which those are. The connection that runs it is shut in besides (see `fence`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb

from tidemill.errors import StoreError
from tidemill.stores.fence import Node, first_line, locked, parse

MAX_CHARS = 20_000
_TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series"})
_ALSO_PURE = frozenset({
    "now", "today", "current_date", "get_current_timestamp", "transaction_timestamp", "random", "ago", "date_add",
    "days_in_month", "fdiv", "fmod", "geomean", "if", "nullif", "split_part", "unnest", "wavg", "weighted_avg",
})  # fmt: skip
_NOT_FOR_PEOPLE = frozenset({
    "version", "json_serialize_sql", "json_serialize_plan", "json_deserialize_sql", "parse_duckdb_log_message",
    "hive_partition_component", "to_aggregate_state", "invoke",
})  # fmt: skip
_PURE_MACROS = ("list_", "array_", "json_")
_TABLE_TYPES = frozenset({
    "BASE_TABLE", "SUBQUERY", "JOIN", "EMPTY", "TABLE_FUNCTION", "EXPRESSION_LIST", "SHOW_REF", "PIVOT", "COLUMN_DATA"
})  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """A SELECT that may be run: the tables it reads, and the words in it that may be columns."""

    sql: str
    tables: frozenset[str]
    columns: frozenset[str]


def read_statement(sql: str, tables: Collection[str]) -> Statement:
    """Check that a text is one SELECT over `tables` and nothing else.

    Raises:
        StoreError: it is not; the message names the part, the hint what is allowed.
    """
    found = _Reading(tables)
    found.walk(_select(sql))
    return Statement(sql=sql, tables=frozenset(found.tables), columns=frozenset(found.columns))


def _select(sql: str) -> Node:
    if not sql.strip() or len(sql) > MAX_CHARS:
        raise StoreError(f"the query has {len(sql)} characters.", f"write a SELECT of 1 to {MAX_CHARS:,} characters")
    try:
        tree = parse(locked(), sql)
    except (duckdb.Error, RecursionError, UnicodeError) as error:
        raise StoreError(f"the query cannot be read: {first_line(error)}.", "write a simpler SELECT") from error
    if tree["error"]:
        reason = "is no SELECT" if tree["error_type"] == "not implemented" else f"is no SQL: {tree['error_message']}"
        raise StoreError(f"the query {reason}.", "write one SELECT; it only reads")
    if len(tree["statements"]) != 1:
        raise StoreError(f"the query has {len(tree['statements'])} statements.", "write one SELECT")
    node: Node = tree["statements"][0]
    return node


class _Reading:
    """Collects what a statement reads, and refuses what it may not."""

    def __init__(self, tables: Collection[str]) -> None:
        self._known = {name.lower() for name in tables}
        self._names = ", ".join(tables)
        self.tables: set[str] = set()
        self.columns: set[str] = set()

    def walk(self, part: Any, named: frozenset[str] = frozenset()) -> None:
        """Check a part and all below it; `named` are the tables that WITH has made there."""
        waiting = [(part, named)]
        while waiting:
            part, named = waiting.pop()
            if isinstance(part, dict):
                named = named | {entry["key"].lower() for entry in part.get("cte_map", {}).get("map", ())}
                if part.get("type") == "RECURSIVE_CTE_NODE":
                    named = named | {part["cte_name"].lower()}
                self._check(part, named)
            values = part.values() if isinstance(part, dict) else part
            waiting += [(value, named) for value in values if isinstance(value, dict | list)]

    def _check(self, node: Node, named: frozenset[str]) -> None:
        kind = node.get("type")
        if node.get("class") == "COLUMN_REF":
            self.columns.update(name.lower() for name in node["column_names"])
        elif node.get("class") == "FUNCTION" and not node["is_operator"]:
            self._call(node)
        elif "class" in node or "alias" not in node or "sample" not in node:
            return  # no table
        elif kind == "BASE_TABLE":
            self._table(node, named)
        elif kind == "SHOW_REF" and node["query"] is None:
            raise StoreError("the query asks what tables there are.", f"they are {self._names}")
        elif kind == "TABLE_FUNCTION":
            node["function"]["as_table"] = True
        elif kind not in _TABLE_TYPES:
            raise StoreError(f"the query reads a {kind}.", f"read {self._names}")

    def _table(self, node: Node, named: frozenset[str]) -> None:
        name = ".".join(filter(None, (node["catalog_name"], node["schema_name"], node["table_name"])))
        if name.lower() in named:
            return
        if name.lower() not in self._known:
            raise StoreError(f"there is no table {name!r}.", f"the tables are {self._names}")
        self.tables.add(name.lower())

    def _call(self, node: Node) -> None:
        name = node["function_name"].lower()
        allowed = _TABLE_FUNCTIONS if node.get("as_table") else _pure_functions()
        if name not in allowed or node["schema"] or node.get("catalog"):
            raise StoreError(
                f"the query calls {name!r}, which is not allowed there.",
                "call functions that compute from their arguments",
            )


@cache
def _pure_functions() -> frozenset[str]:
    """Return the functions that give the same for the same arguments, by what DuckDB says of them, and a few more."""
    rows = locked().execute("SELECT lower(function_name), function_type, stability FROM duckdb_functions()").fetchall()
    computing = {name for name, kind, stability in rows if kind != "macro" and stability == "CONSISTENT"}
    changing = {name for name, _, stability in rows if stability not in (None, "CONSISTENT")}
    macros = {name for name, kind, _ in rows if kind == "macro" and name.startswith(_PURE_MACROS)}
    pure = {name for name in computing | macros if not name.startswith("__")} - changing - _NOT_FOR_PEOPLE
    return frozenset(pure | _ALSO_PURE)

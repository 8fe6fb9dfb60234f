"""Cohort conditions: SQL expressions that people write, checked part by part before DuckDB runs them.

A condition such as `account_age_days < 30 AND app_version = 'v2'` is parsed by DuckDB's own parser, and every part of
the result must be on a list: columns of the frame, literals, operators and a few pure functions. Nothing that reads a
file, a table, a setting or the environment is on it; the connection that runs it can reach none of them either.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from tidemill.errors import ProjectError
from tidemill.schema import Array
from tidemill.stores.fence import Node, children, first_line, locked, parse

MAX_CHARS = 2000
Answer = Callable[[Mapping[str, str], pl.DataFrame], dict[str, Array]]
"""What `evaluate` is, here or in another process."""

_BATCH_ROWS, _BATCH_BYTES = 2_048, 64 << 10  # DuckDB holds what it makes of a batch: long texts come few at a time
_OPERATORS = frozenset({
    "+", "-", "*", "/", "//", "%", "**", "^", "||", "~~", "!~~", "~~*", "!~~*", "~~~", "^@", "like_escape",
    "ilike_escape"
})  # fmt: skip
_FUNCTIONS = frozenset({
    "abs", "ceil", "floor", "round", "trunc", "sign", "sqrt", "ln", "log10", "exp", "mod", "greatest", "least",
    "ifnull", "nullif", "if", "lower", "upper", "trim", "ltrim", "rtrim", "length", "left", "right", "substring",
    "substr", "reverse", "strip_accents", "contains", "starts_with", "ends_with", "position", "instr",
    "regexp_matches", "regexp_full_match"
})  # fmt: skip
_PLAIN_OPERATORS = frozenset({
    "OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "COMPARE_IN", "COMPARE_NOT_IN"
})  # fmt: skip
_TYPES = frozenset({
    "BOOLEAN", "BOOL", "INTEGER", "INT", "BIGINT", "DOUBLE", "FLOAT", "VARCHAR", "TEXT", "STRING", "DATE",
    "TIMESTAMP"
})  # fmt: skip
_TRUE_OR_FALSE = ("BOOLEAN", "TINYINT", "INTEGER", "BIGINT", "HUGEINT", "DOUBLE", "FLOAT", "DECIMAL", '"NULL"', "NULL")
_ALLOWED = (
    "use columns, literals, comparisons, AND, OR, NOT, IN, BETWEEN, IS NULL, LIKE, CASE, CAST, arithmetic, COALESCE and"
    f" the functions {', '.join(sorted(_FUNCTIONS))}"
)


def check_condition(sql: str, columns: Collection[str]) -> None:
    """Refuse a condition that is no expression over `columns`, or that uses anything but what is allowed.

    Raises:
        ProjectError: the message names the part, the hint what is allowed.
    """
    condition_columns(sql, columns)


def condition_columns(sql: str, columns: Collection[str]) -> list[str]:
    """Return those of `columns` that a condition reads, sorted.

    Raises:
        ProjectError: the condition is not allowed.
    """
    return _Condition(sql, "").read(columns)


def evaluate(conditions: Mapping[str, str], frame: pl.DataFrame) -> dict[str, Array]:
    """Return, by name, which of the N rows of `frame` meet each condition, as bool (N,).

    Where it is unknown (a value is NULL or NaN) the answer is False.

    Raises:
        ProjectError: a condition is not allowed, or cannot be computed on these rows; the message names it.
    """
    asked = [_Condition(sql, name) for name, sql in conditions.items()]
    columns = sorted({column for one in asked for column in one.read(frame.columns)})
    if len({name.lower() for name in columns}) < len(columns):
        return {one.name: _answers([one], frame, one.read(frame.columns))[0] for one in asked}
    return dict(zip(conditions, _answers(asked, frame, columns), strict=True))


def _answers(asked: Sequence[_Condition], frame: pl.DataFrame, columns: Sequence[str]) -> list[Array]:
    """Return the answer to each condition; the columns, which SQL can tell apart, are handed over once."""
    connection = locked()
    rows = frame.select(columns).fill_nan(None) if columns else pl.DataFrame({"": np.zeros(frame.height)})
    connection.register("rows", _in_batches(rows))
    try:
        return [one.evaluate(connection) for one in asked]
    finally:
        connection.unregister("rows")


def _in_batches(rows: pl.DataFrame) -> pa.Table:
    table = rows.to_arrow()
    at_once = _BATCH_BYTES * table.num_rows // max(table.nbytes, 1)
    if at_once >= _BATCH_ROWS:
        return table
    return pa.Table.from_batches(table.to_batches(max_chunksize=max(at_once, 1)), schema=table.schema)


@lru_cache(maxsize=1 << 10)
def _read(condition: _Condition, columns: frozenset[str]) -> list[str]:
    """Checking a condition takes longer than answering it for a few rows, and it is asked at every turn."""
    return condition.check(columns)


@dataclass(frozen=True)
class _Condition:
    sql: str
    name: str

    def refusal(self, problem: str, hint: str) -> ProjectError:
        who = f"condition {self.name!r}" if self.name else "the condition"
        shown = self.sql if len(self.sql) <= 200 else self.sql[:197] + "..."
        return ProjectError(f"{who}, {shown!r}, {problem}.", hint)

    @property
    def query(self) -> str:
        """What is parsed to be checked, and what is run: the very same text but for the table."""
        return f"SELECT ({self.sql}\n)"

    def read(self, columns: Collection[str]) -> list[str]:
        """Return the columns it reads."""
        return _read(self, frozenset(columns))

    def check(self, columns: Collection[str]) -> list[str]:
        """Check every part, and return the columns it reads."""
        found: set[str] = set()
        waiting = [self._parse()]
        while waiting:
            node = waiting.pop()
            if node["class"] == "COLUMN_REF":
                found.add(self._column(node, columns))
            elif not _RULES.get(node["class"], _never)(node):
                raise self.refusal(f"uses {self._text(node)!r}, which is not allowed there", _ALLOWED)
            waiting.extend(children(node))
        if len({name.lower() for name in found}) < len(found):
            raise self.refusal(f"reads {', '.join(sorted(found))}, which SQL cannot tell apart", "rename one of them")
        return sorted(found)

    def evaluate(self, connection: duckdb.DuckDBPyConnection) -> Array:
        """Answer it for the table `rows` of a connection."""
        try:
            result = connection.execute(f"{self.query} FROM rows")
            kind = str(result.description[0][1])
            (values,) = result.fetchnumpy().values()
        except duckdb.Error as error:
            raise self.refusal(f"fails: {first_line(error)}", "compare values of one type") from error
        if not kind.startswith(_TRUE_OR_FALSE):
            raise self.refusal(f"gives {kind}, not true or false", "compare it with a value")
        filled: Array = np.ma.filled(np.ma.asarray(values), 0).astype(bool)
        return filled

    def _parse(self) -> Node:
        if not self.sql.strip() or len(self.sql) > MAX_CHARS:
            raise self.refusal(f"has {len(self.sql)} characters", f"write an expression of 1 to {MAX_CHARS} characters")
        try:
            if any(kind == duckdb.token_type.comment for _, kind in duckdb.tokenize(self.sql)):
                raise self.refusal("holds a comment", "leave it out")
            tree = parse(locked(), self.query)
        except (duckdb.Error, RecursionError, UnicodeError) as error:
            raise self.refusal(f"cannot be read: {first_line(error)}", "write a simpler expression") from error
        if tree["error"]:
            raise self.refusal(f"is no expression: {tree['error_message']}", _ALLOWED)
        if not _is_one_expression(tree):
            raise self.refusal("is not one expression", _ALLOWED)
        node: Node = tree["statements"][0]["node"]["select_list"][0]
        return node

    def _column(self, node: Node, columns: Collection[str]) -> str:
        name: str = ".".join(node["column_names"])
        if len(node["column_names"]) > 1 or name not in columns:
            known = ", ".join(sorted(columns)) or "none"
            raise self.refusal(f"names the column {name!r}, which is not there", f"the columns are {known}")
        return name

    def _text(self, node: Node) -> str:
        """The part of the condition that `node` was read from; all of it where the parser does not say."""
        query, start = self.query.encode(), node.get("query_location", -1)
        part = query[start : start + node.get("query_location_length", 0)] if 0 <= start < len(query) else b""
        return part.decode(errors="replace").strip() or self.sql


def _is_one_expression(tree: Node) -> bool:
    """Say whether the text closed no bracket of ours to go on with FROM, WHERE, another column or statement."""
    node = dict(tree["statements"][0]["node"])
    if len(tree["statements"]) != 1 or node.pop("type") != "SELECT_NODE":
        return False
    plain = node.pop("aggregate_handling") == "STANDARD_HANDLING" and not node.pop("cte_map")["map"]
    alone = node.pop("from_table")["type"] == "EMPTY" and len(node.pop("select_list")) == 1
    return plain and alone and not any(node.values())


def _never(_: Node) -> bool:
    return False


def _always(_: Node) -> bool:
    return True


def _is_plain_operator(node: Node) -> bool:
    return node["type"] in _PLAIN_OPERATORS


def _is_pure_function(node: Node) -> bool:
    name = node["function_name"].lower()
    plain = not (node["filter"] or node["distinct"] or node["order_bys"]["orders"] or node["schema"] or node["catalog"])
    return plain and name in (_OPERATORS if node["is_operator"] else _FUNCTIONS)


def _is_simple_type(node: Node) -> bool:
    return node["type_name"].upper() in _TYPES and not (node["children"] or node["schema"] or node["catalog"])


_RULES: Mapping[str, Callable[[Node], bool]] = {
    "CONSTANT": _always,
    "COMPARISON": _always,
    "CONJUNCTION": _always,
    "BETWEEN": _always,
    "CASE": _always,
    "CAST": _always,
    "TYPE": _is_simple_type,
    "OPERATOR": _is_plain_operator,
    "FUNCTION": _is_pure_function,
}

"""What a person may ask in SQL, and what is refused before anything runs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import StoreError
from tidemill.stores.statement import MAX_CHARS, read_statement

TABLES = ("predictions", "feedback")


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("SELECT * FROM predictions", "predictions"),
        ("from predictions;", "predictions"),
        ("DESCRIBE predictions", "predictions"),
        ("SUMMARIZE feedback", "feedback"),
        ("SELECT 1", ""),
        ("WITH a AS (SELECT 1 x) SELECT * FROM a JOIN Predictions ON true", "predictions"),
        ("WITH predictions AS (SELECT 1) FROM predictions", ""),
        ("WITH RECURSIVE t(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM t WHERE a < 3) SELECT * FROM t", ""),
        ("SELECT unit, count(*) FILTER (kind = 'label'), avg(number), quantile_cont(number, 0.99) FROM feedback JOIN"
         " predictions USING (request_id) GROUP BY ALL HAVING count(*) > 1 ORDER BY 2 LIMIT 3", "feedback predictions"),
        ("SELECT row_number() OVER (PARTITION BY unit ORDER BY received_at) n, lag(decision) OVER w FROM predictions"
         " WINDOW w AS (ORDER BY received_at) QUALIFY n = 1", "predictions"),
        ("SELECT date_trunc('day', received_at), time_bucket(INTERVAL 1 hour, received_at), now() - INTERVAL 1 day,"
         " strftime(received_at, '%Y') FROM predictions", "predictions"),
        ("SELECT list_transform(scores, lambda s: s * 2), scores[1], {'a': 1}.a FROM predictions", "predictions"),
        ("SELECT u.x FROM predictions, unnest([1, 2]) u(x), range(3) r(i), (VALUES (1)) v(b)", "predictions"),
        ("SELECT 1 WHERE EXISTS (FROM feedback) UNION ALL SELECT 2", "feedback"),
        ("SELECT * EXCLUDE (salt), COLUMNS('a.*') FROM predictions TABLESAMPLE 10%", "predictions"),
        ("SELECT 'read_csv(''/etc/passwd'')' AS harmless", ""),
    ],
)  # fmt: skip
def test_a_select_is_read_and_tells_its_tables(query: str, tables: str) -> None:
    assert read_statement(query, TABLES).tables == set(tables.split())


def test_the_words_that_may_be_columns_are_told() -> None:
    found = read_statement("SELECT has_emoji, p.Unit FROM predictions p WHERE length(text) > 1", TABLES)
    assert {"has_emoji", "unit", "text"} <= found.columns
    assert "country" not in found.columns


@pytest.mark.parametrize(
    ("query", "named"),
    [
        # files
        ("SELECT * FROM read_csv('/etc/passwd')", "read_csv"),
        ("SELECT * FROM read_parquet('/x.parquet')", "read_parquet"),
        ("SELECT * FROM read_text('/etc/passwd')", "read_text"),
        ("WITH a AS (FROM read_blob('/etc/shadow')) SELECT * FROM a", "read_blob"),
        ("SELECT * FROM '/etc/passwd'", "/etc/passwd"),
        ("FROM 'log.parquet'", "log.parquet"),
        ("SUMMARIZE 'a.csv'", "a.csv"),
        ("DESCRIBE SELECT * FROM read_csv('x')", "read_csv"),
        ("SELECT * FROM glob('/*')", "glob"),
        ("SELECT * FROM sniff_csv('/etc/passwd')", "sniff_csv"),
        ("SELECT (SELECT content FROM read_text('/etc/passwd'))", "read_text"),
        ("SELECT * FROM predictions WHERE unit IN (SELECT content FROM read_text('/etc/passwd'))", "read_text"),
        ("SELECT * FROM predictions ORDER BY (SELECT content FROM read_text('/x')) LIMIT (SELECT 1)", "read_text"),
        ("SELECT * FROM predictions LIMIT (SELECT count(*) FROM glob('/*'))", "glob"),
        ("SELECT '/etc/passwd'.read_text()", "read_text"),
        ("SELECT p.read_text('/etc/passwd') FROM predictions p", "read_text"),
        ("SELECT * FROM predictions JOIN parquet_scan('x') USING (unit)", "parquet_scan"),
        ("COPY predictions TO '/tmp/x.csv'", "no SELECT"),
        ("COPY (SELECT 1) TO '/tmp/x'", "no SELECT"),
        ("EXPORT DATABASE '/tmp/x'", "no SELECT"),
        ("ATTACH '/tmp/x.db'", "no SELECT"),
        ("IMPORT DATABASE '/tmp/x'", "no SELECT"),
        # environment, settings, catalogue
        ("SELECT getenv('HOME')", "getenv"),
        ("VALUES (getenv('HOME'))", "getenv"),
        ("SELECT current_setting('threads')", "current_setting"),
        ("SELECT getvariable('x')", "getvariable"),
        ("SELECT version()", "version"),
        ("SET threads = 1", "no SELECT"),
        ("SET lock_configuration = false", "no SELECT"),
        ("RESET memory_limit", "no SELECT"),
        ("PRAGMA version", "no SELECT"),
        ("CALL pragma_version()", "no SELECT"),
        ("SELECT * FROM pragma_version()", "pragma_version"),
        ("SELECT * FROM duckdb_settings()", "duckdb_settings"),
        ("SELECT * FROM duckdb_secrets()", "duckdb_secrets"),
        ("SELECT * FROM duckdb_tables", "duckdb_tables"),
        ("SELECT * FROM information_schema.tables", "information_schema.tables"),
        ("SELECT * FROM sqlite_master", "sqlite_master"),
        ("SHOW TABLES", "what tables there are"),
        ("SELECT * FROM (SHOW DATABASES)", "what tables there are"),
        ("SELECT * FROM memory.main.predictions", "memory.main.predictions"),
        ("SELECT system.main.current_setting('threads')", "current_setting"),
        # extensions and code
        ("INSTALL httpfs", "no SELECT"),
        ("LOAD httpfs", "no SELECT"),
        ("SELECT * FROM query('SELECT 1')", "query"),
        ("SELECT * FROM query_table('predictions')", "query_table"),
        ("SELECT * FROM json_execute_serialized_sql('{}')", "json_execute_serialized_sql"),
        ("SELECT json_serialize_plan('FROM x')", "json_serialize_plan"),
        ("SELECT * FROM python_map_function(1)", "python_map_function"),
        ("CREATE MACRO f(x) AS x", "no SELECT"),
        ("PREPARE a AS SELECT 1", "no SELECT"),
        ("EXECUTE a", "no SELECT"),
        # what changes, waits or lies
        ("INSERT INTO predictions SELECT 1", "no SELECT"),
        ("DELETE FROM predictions", "no SELECT"),
        ("UPDATE predictions SET unit = 1", "no SELECT"),
        ("DROP VIEW predictions", "no SELECT"),
        ("CREATE TABLE t AS SELECT 1", "no SELECT"),
        ("CHECKPOINT", "no SELECT"),
        ("VACUUM", "no SELECT"),
        ("BEGIN", "no SELECT"),
        ("EXPLAIN ANALYZE SELECT 1", "no SELECT"),
        ("SELECT sleep_ms(100000)", "sleep_ms"),
        ("SELECT pg_sleep(100)", "pg_sleep"),
        ("SELECT write_log('x')", "write_log"),
        ("SELECT nextval('s')", "nextval"),
        ("SELECT * FROM repeat(1, 100000000000)", "repeat"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT 1; DROP TABLE x", "no SELECT"),
        ("SELECT 1; ATTACH 'x'", "no SELECT"),
        # other tables, and what is no SQL
        ("SELECT * FROM leases", "leases"),
        ("WITH a AS (SELECT 1) SELECT * FROM a, b", "b"),
        ("SELECT", "no SQL"),
        ("SELCT 1", "no SQL"),
        ("", "0 characters"),
        (" \n", "2 characters"),
        ("x" * (MAX_CHARS + 1), "characters"),
        ("SELECT " + "(" * 3000 + "1" + ")" * 3000, "no SQL"),
    ],
)  # fmt: skip
def test_anything_but_one_plain_select_is_refused_by_name(query: str, named: str) -> None:
    with pytest.raises(StoreError) as refusal:
        read_statement(query, TABLES)
    assert named in refusal.value.message
    assert refusal.value.hint


WORDS = """SELECT FROM predictions feedback WHERE ( ) , ; * -- /* */ 'a' "a" 1 = lower( read_text( getenv(
'/etc/passwd' WITH a AS UNION ATTACH COPY TO SET PRAGMA query( glob( JOIN ON LIMIT ORDER BY GROUP [ ] { } ? $1 . ::
VALUES"""


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=12).map(" ".join) | st.text(max_size=30))
def test_any_text_is_either_refused_or_reads_only_the_tables(query: str) -> None:
    try:
        found = read_statement(query, TABLES)
    except StoreError:
        return
    assert found.tables <= set(TABLES)

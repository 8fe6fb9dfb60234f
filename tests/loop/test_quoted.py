"""What is taken out of verdicts and reasons: whole ids, whatever they look like, and rows; nothing else."""

from __future__ import annotations

from persons import Persons

from tidemill.loop.quoted import unquote
from tidemill.records import Outcome, Verdict

NUM = 1_100  # more than are read at a time


def test_ids_of_any_kind_and_rows_go_out_of_every_verdict_and_nothing_else(persons: Persons) -> None:
    ids = ["0198-ab", "two words", "a.b", *(f"id-{at}" for at in range(0, NUM, 2))]
    given = "0198-ab, 0198-abc; two words, (a.b) xa.b id-{at} (text='calm') text='calm'"
    with persons.world.db.begin() as conn:
        for at in range(NUM):
            verdict = Verdict(outcome=Outcome.PASS, by="test", reason=given.format(at=at))
            persons.world.journal.add_verdict(conn, "notes", verdict, cycle=None, step="test", now=persons.clock.now())
        assert unquote(conn, "notes", ids=ids, shown={"text='calm'"}, datasets=()) == NUM
    found = persons.world.journal.verdicts("notes", limit=NUM)
    for at, told in enumerate(reversed([one.verdict.reason for one in found if one.step == "test"])):
        one = "forgotten" if at % 2 == 0 else f"id-{at}"
        wanted = f"forgotten, 0198-abc; forgotten, (forgotten) xa.b {one} (forgotten) text='calm'"
        assert told == wanted


def test_what_a_suite_made_of_a_persons_example_goes_out_of_reports_and_verdicts(persons: Persons) -> None:
    world, now = persons.world, persons.clock.now()
    failed = [
        {"id": "e1", "inputs": "text='anm was here'", "wanted": "'calm', as before", "candidate": "'storm'"},
        {"id": "e2", "inputs": "text='bbo was here'", "wanted": "'calm', as before", "candidate": "'storm'"},
    ]
    reason = "; ".join(f"{one['id']} ({one['inputs']}): {one['candidate']}" for one in failed)
    verdict = Verdict(outcome=Outcome.FAIL, by="Suites", reason=reason)
    with world.db.begin() as conn:
        world.catalog.add_report(conn, "notes", 1, {"suites": [{"name": "typos", "failed": failed}]}, now)
        world.journal.add_verdict(conn, "notes", verdict, cycle=None, step="test", now=now)
        assert unquote(conn, "notes", ids=["e1"], shown=(), datasets=()) == 2
    told = world.journal.verdicts("notes", limit=1)[0].verdict.reason
    assert told == "forgotten (forgotten): 'storm'; e2 (text='bbo was here'): 'storm'"
    assert "anm" not in repr(world.catalog.report("notes", 1)) and "bbo" in repr(world.catalog.report("notes", 1))

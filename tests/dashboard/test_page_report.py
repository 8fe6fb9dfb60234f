"""The report view: the same sections as the shared file, with the failing rows as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from page_served import Served

from tidemill.app import App
from tidemill.review.render.sections import sections
from tidemill.review.report import Report


def test_the_page_has_every_section_of_the_report(shared: Served) -> None:
    app = shared.app
    report = Report.from_json(app.catalog.report(app.name, 2))
    text = shared.client.get("/report/2").text
    for section in sections(report):
        assert f"<h2>{section.title}</h2>" in text, section.title
    assert "<svg" in text and " style=" not in text


def test_the_newest_report_comes_first_and_others_are_a_click_away(shared: Served) -> None:
    text = shared.client.get("/report").text
    assert "Report on version 3" in text and 'href="/report/2"' in text


def test_a_version_without_a_report_says_which_have_one(shared: Served) -> None:
    answer = shared.client.get("/report/99")
    assert answer.status_code >= 400 and "99" in answer.text


def test_failing_examples_are_shown_as_what_they_are_and_hostile_text_stays_text(shared: Served) -> None:
    app = shared.app
    versions = app.catalog.reported(app.name)
    reports = [Report.from_json(app.catalog.report(app.name, v)) for v in versions]
    texts = [shared.client.get(f"/report/-/failing?version={r.candidate}").text for r in reports]
    for report, text in zip(reports, texts, strict=True):
        assert text.count("<article") == sum(len(group.ids) for group in report.failures)
        assert ("data:image/png" in text) == bool(report.failures)
        assert "<script>" not in text and "<img src=x" not in text


def test_the_file_needs_nothing_else(shared: Served) -> None:
    answer = shared.client.get("/report/-/file?version=2")
    assert "attachment" in answer.headers["content-disposition"]
    assert "default-src &#39;none&#39;" in answer.text or "default-src 'none'" in answer.text
    assert "<script" not in answer.text and "http://" not in answer.text.replace("http://www.w3.org", "")


def test_every_number_is_a_csv_file(shared: Served) -> None:
    text = shared.client.get("/report/cells.csv?version=2").text
    assert text.startswith("metric,cohort,period,live,candidate,candidate_low,candidate_high,candidate_n,gain,")
    assert "accuracy,new_app" in text


def test_no_report_says_what_to_run(tmp_path: Path, serve: Any) -> None:
    file = tmp_path / "fresh_project.py"
    file.write_text(
        "import tidemill as tm\nfrom sklearn.linear_model import LogisticRegression\n"
        "project = tm.Project(name='fresh', inputs={'x': tm.Number()}, output=tm.Classes(['a', 'b']),\n"
        "    trainer=tm.trainers.Sklearn(LogisticRegression()), metrics=[tm.metrics.Accuracy()])\n"
    )
    app = App.open(str(file), tmp_path / "home")
    client = serve(app).client
    for path in ("/report", "/models", "/datasets", "/rollout"):
        text = client.get(path).text
        assert "tidemill train data.parquet" in text or "tidemill retrain" in text, path
    assert client.get("/strategy").status_code == 200
    app.close()


def test_a_person_reads_a_report_and_takes_the_file_away_in_the_browser(shared: Served, tab: Any) -> None:
    tab.goto(f"{shared.url}/report")
    tab.get_by_role("link", name="version 2", exact=True).click()
    tab.get_by_role("heading", name="Report on version 2").wait_for()
    with tab.expect_download() as taken:
        tab.get_by_role("link", name="One HTML file").click()
    assert taken.value.suggested_filename == "waves-report-2.html"
    assert tab.evaluate("window.hacked") is None

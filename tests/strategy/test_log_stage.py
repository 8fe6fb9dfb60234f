"""What the log keeps: everything, or a known share, and always what went wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.strategy.log import Everything, Keep, Profile, Request, Sample, log_from_json

shares = st.floats(0, 1, allow_nan=False)
tags = st.dictionaries(st.sampled_from(["country", "plan"]), st.sampled_from(["no", "se", "dk"]))
requests = st.builds(Request, tags, error=st.booleans(), abstained=st.booleans(), fallback=st.booleans())


@given(requests)
def test_profile_keeps_the_inputs_of_no_request_whatever_went_wrong(request_: Request):
    assert Profile().keep(request_) == Keep(0.0, inputs=False)
    assert log_from_json(Profile().to_json()) == Profile()


@given(requests)
def test_everything_keeps_all_inputs_of_all_requests(request_: Request):
    assert Everything().keep(request_) == Keep(1.0, inputs=True)


@given(shares, st.dictionaries(st.sampled_from(["no", "se"]), shares), requests)
def test_sample_never_thins_errors_abstentions_and_fallbacks(rate: float, rates: dict[str, float], request_: Request):
    kept = Sample(rate, by="country", rates=rates).keep(request_)
    if request_.error or request_.abstained or request_.fallback:
        assert kept.probability == 1.0
    else:
        assert kept.probability == rates.get(request_.tags.get("country"), rate)


@given(shares, st.dictionaries(st.sampled_from(["no", "se"]), shares))
def test_the_gateway_reads_back_the_same_stage_that_the_project_declared(rate: float, rates: dict[str, float]):
    for stage in (Everything(), Sample(rate), Sample(rate, by="country", rates=rates)):
        again = log_from_json(stage.to_json())
        assert again == stage
        assert again.digest() == stage.digest()
        assert again.keep(Request({"country": "no"})) == stage.keep(Request({"country": "no"}))


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), "half"])
def test_a_rate_that_is_no_share_is_refused_by_name_and_value(rate: object):
    with pytest.raises(ProjectError, match=r"log\.Sample: rate .* is no share"):
        Sample(rate)  # type: ignore[arg-type]
    with pytest.raises(ProjectError, match="is no share"):
        Sample(0.5, by="country", rates={"no": rate})  # type: ignore[dict-item]


def test_rates_without_the_tag_they_are_by_are_refused():
    with pytest.raises(ProjectError, match="rates are given without by"):
        Sample(0.5, rates={"no": 1})


@pytest.mark.parametrize(
    "data",
    [{"stage": "log", "member": "Firehose", "params": {}}, {"stage": "curate", "member": "Sample", "params": {}}],
)
def test_a_manifest_with_an_unknown_log_stage_is_refused(data: dict[str, object]):
    with pytest.raises(ProjectError, match="is no log stage"):
        log_from_json(data)


def test_the_log_stage_brings_no_scientific_package_into_the_gateway():
    heavy = "{'numpy', 'scipy', 'polars', 'duckdb', 'pyarrow'}"
    code = f"import sys, tidemill.strategy.log; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

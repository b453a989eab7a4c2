"""Every error is a problem in our own words, whichever library found it."""

from __future__ import annotations

from tests.api.conftest import Plant, problem_of

PORTFOLIOS = "/v1/vpp/portfolios"


def test_a_body_that_is_not_said_to_be_json_is_shown_as_text_and_the_rule_says_how_to_send_it(plant: Plant) -> None:
    response = plant.call("POST", PORTFOLIOS, content=b'{"name": "p"}', headers={"Content-Type": "text/plain"})
    problem = problem_of(response, 422)
    assert problem["value"] == '{"name": "p"}'
    assert problem["rule"] == "must be a JSON object, sent with Content-Type: application/json"


def test_the_title_counts_whether_one_field_or_several_break_a_rule(plant: Plant) -> None:
    one = problem_of(plant.post(PORTFOLIOS, {"name": "p", "colour": 1}), 422)
    assert (one["title"], len(one["errors"])) == ("A field breaks a rule", 1)
    assert one["detail"] == "colour = 1: must not be given: there is no such field"
    two = problem_of(plant.post(PORTFOLIOS, {"colour": 1}), 422)
    assert (two["title"], len(two["errors"])) == ("Fields break rules", 2)
    assert two["detail"] == "name = null: is required (and 1 more)"


def test_a_path_or_method_that_is_not_there_is_told_by_name(plant: Plant) -> None:
    nowhere = problem_of(plant.get("/v1/nowhere"), 404)
    assert (nowhere["type"], nowhere["value"], nowhere["rule"]) == (
        "urn:unisono:problem:not-found",
        "/v1/nowhere",
        "must exist",
    )
    wrong = plant.call("DELETE", PORTFOLIOS)
    problem = problem_of(wrong, 405)
    assert (problem["field"], problem["value"]) == ("method", "DELETE")
    assert problem["rule"].startswith("must be ")
    assert wrong.headers["allow"]

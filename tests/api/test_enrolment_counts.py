"""The counts of an enrolment job: every row is enrolled, refused or remaining."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Plant
from tests.api.test_enrolments import die_in_second_chunk, enrol, line


def counts(job: dict[str, Any]) -> tuple[int, int, int, int]:
    assert job["n_total"] == job["n_done"] + job["n_remaining"]
    assert job["n_done"] == job["n_enrolled"] + job["n_errors"]
    return job["n_total"], job["n_enrolled"], job["n_errors"], job["n_remaining"]


def test_a_job_counts_rows_enrolled_refused_and_remaining_on_its_way(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.api.enrolment.job.ROWS_PER_CHUNK", 2)
    job = enrol(plant, [line(0), line(1, zip="00000"), line(2), line(2)])
    assert counts(job) == (4, 0, 0, 4)
    die_in_second_chunk(plant, monkeypatch)
    assert counts(plant.get(job["status_url"]).json()) == (4, 1, 1, 2)
    plant.work_through_jobs()
    assert counts(plant.get(job["status_url"]).json()) == (4, 3, 1, 0), "a row that finds its device there is enrolled"

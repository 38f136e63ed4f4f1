# SPDX-License-Identifier: Apache-2.0
"""What the contract promises, by the tests that promise it, of a trainer whose database is PostgreSQL."""

import sys
from pathlib import Path

import pytest
from finetree_runtime.config.settings import SecretUrl
from postgresql_server import repeated

HERE = Path(__file__).parent

pytestmark = pytest.mark.slow(25)

globals().update(
    repeated(
        HERE / "test_watch.py",
        "test_a_finished_job_is_replayed_from_any_point",
        "test_every_cursor_goes_on_exactly_behind_its_batch",
        "test_a_filter_leaves_out_what_was_not_asked_for_and_the_cursor_moves_over_it",
        "test_heartbeats_carry_the_cursor_also_when_nothing_matches",
        "test_a_wrong_start_is_refused_and_never_moved_in_silence",
        "test_events_are_listed_in_both_orders_in_pages",
    )
    | repeated(
        HERE / "test_jobs.py",
        "test_a_job_is_created_run_and_told_from_its_first_to_its_last_event",
        "test_the_same_request_makes_one_job_for_ever",
        "test_two_requests_at_once_with_one_request_id_make_one_job",
        "test_jobs_are_listed_newest_first_in_pages_by_state_and_label",
        "test_jobs_wait_in_order_and_know_their_place",
        "test_an_artifact_is_listed_and_downloaded_in_ranges",
        "test_the_measured_rate_is_kept_over_a_restart",
    )
    | repeated(
        HERE / "test_waiting.py",
        "test_every_change_of_every_job_comes_once_in_one_order_from_any_place",
        "test_a_cursor_of_another_log_or_of_what_is_gone_is_refused",
        "test_a_position_is_never_given_twice_where_jobs_are_deleted",
    )
    | repeated(HERE / "test_retries.py", "test_the_next_attempt_waits_for_its_time_also_after_a_restart")
    | repeated(HERE / "test_update.py", "test_a_job_that_has_ended_is_labelled_too_and_its_log_stays")
)


@pytest.fixture
def serve():
    return sys.modules["trainer_harness"].trainer


@pytest.fixture(autouse=True)
def on_postgresql(postgresql, monkeypatch):
    """Give every trainer of a test one database; those that a test starts one after the other have the same."""
    harness = sys.modules["trainer_harness"]
    options_of, url = harness.options_of, SecretUrl(postgresql.url(postgresql.new_schema()))

    def on_a_server(tmp_path, script, **changes) -> dict:  # noqa: ANN003 - any setting
        return options_of(tmp_path, script, **({"database_url": url} | changes))

    monkeypatch.setattr(harness, "options_of", on_a_server)


async def test_it_is_postgresql_that_they_ran_on(tmp_path, serve):
    async with serve(tmp_path, {"steps": 1}) as talk:
        await talk.events((await talk.train()).name)
        assert talk.application._store._writing.dialect.name == "postgresql"
        assert not (tmp_path / "data" / "trainer.db").exists()

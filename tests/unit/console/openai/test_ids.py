# SPDX-License-Identifier: Apache-2.0
"""Ids lead back to the suite's names."""

import pytest
from finetree_console.openai import ids
from finetree_console.openai.errors import RefusedError

UID = "0199a1b2-0000-7000-8000-000000000001"


def test_every_id_is_read_back():
    assert ids.dataset_of(ids.file_id(f"projects/p/datasets/{UID}"), "file") == UID
    assert ids.job_of(ids.job_id(UID)) == UID
    assert ids.seq_of(ids.event_id(17), "after") == ids.seq_of(ids.checkpoint_id(UID, 17), "after") == 17
    for result in (ids.ResultFile(UID, ids.METRICS), ids.ResultFile(UID, "adapter", 3)):
        assert ids.result_of(result.id) == result
    assert ids.tuned_job(f"ft:org/model:p:a suffix:{UID}") == UID


def test_event_ids_sort_as_numbers_do():
    assert sorted(ids.event_id(seq) for seq in (100, 9, 10)) == [ids.event_id(seq) for seq in (9, 10, 100)]


@pytest.mark.parametrize("text", ["", "file-", "ftjob-1", "file-../../jobs/x", "file-a.b", f"file-{UID}.adapter.0"])
def test_what_is_no_file_id_is_refused(text):
    with pytest.raises(RefusedError) as caught:
        ids.dataset_of(text, "training_file")
    assert (caught.value.reason, caught.value.status) == ("FILE_NOT_FOUND", 404)


@pytest.mark.parametrize("text", ["ftevt-", "ftevt-x", "ftevt-" + "9" * 17, "17"])
def test_what_is_no_event_id_is_refused(text):
    with pytest.raises(RefusedError, match="not an id that this list has given"):
        ids.seq_of(text, "after")


def test_the_names_of_base_models_are_no_tuned_models():
    assert ids.tuned_job("smollm2-135m-instruct") == ids.tuned_job("org/model@abc") == ""

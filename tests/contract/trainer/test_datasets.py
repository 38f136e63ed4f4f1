# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202, ASYNC110 - a file that grows sets no event; inner generators are typed by what they yield
import asyncio
import gzip
import hashlib
import json

import grpc
import pytest
from finetree_api.trainer.v1 import dataset_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import check_pb2, training_data_pb2
from finetree_data import file_profile
from finetree_data.files import content
from trainer_harness import ROWS, FixedEstimator, job_request, jsonl, refusal, trainer

CONTENT = jsonl(ROWS)


async def test_an_upload_in_pieces_becomes_a_ready_dataset_with_a_profile(tmp_path, serve):
    async with serve(tmp_path) as talk:
        created = await talk.create_dataset(CONTENT, display_name="rows")
        assert created.state == dataset_pb2.DATASET_STATE_UPLOADING
        done = await talk.write(created.name, [(i, CONTENT[i : i + 100]) for i in range(0, len(CONTENT), 100)])
        assert done.state == dataset_pb2.DATASET_STATE_READY
        assert done.committed_bytes == len(CONTENT)
        assert done.row_format == training_data_pb2.ROW_FORMAT_CHAT
        assert done.profile.examples == len(ROWS)
        assert not done.profile.exact
        assert sum(bucket.count for bucket in done.profile.token_lengths) == len(ROWS)
        assert 0 < done.profile.target_fraction < 1
        again = await talk.create_dataset(CONTENT)
        assert again.name == done.name
        shown = (await talk.stub.ListDatasets(dataset_pb2.ListDatasetsRequest())).datasets
        assert [dataset.name for dataset in shown] == [done.name]


async def test_a_cut_upload_goes_on_from_the_committed_bytes(tmp_path):
    async with trainer(tmp_path) as talk:
        created = await talk.create_dataset(CONTENT)
        arrived = asyncio.Event()

        async def broken():
            yield dataset_pb2.WriteDatasetRequest(name=created.name, offset=0, data=CONTENT[:700])
            arrived.set()
            await asyncio.sleep(60)

        call = talk.stub.WriteDataset(broken())
        await asyncio.wait_for(arrived.wait(), 60)
        part = tmp_path / "data" / "uploads" / f"{created.uid}.part"
        async with asyncio.timeout(60):
            while not part.exists() or part.stat().st_size < 700:
                await asyncio.sleep(0.01)
        call.cancel()
        shown = created
        async with asyncio.timeout(60):
            while shown.committed_bytes < 700:
                shown = (await talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=created.name))).dataset
        assert shown.committed_bytes == 700
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.write(created.name, [(0, CONTENT)])
        code, reason, info, _ = refusal(error.value)
        assert (code, reason, info.metadata["committed_bytes"]) == ("OUT_OF_RANGE", "OFFSET_MISMATCH", "700")
        done = await talk.write(created.name, [(700, CONTENT[700:])])
        assert done.state == dataset_pb2.DATASET_STATE_READY


async def test_an_upload_goes_on_after_a_restart(tmp_path):
    async with trainer(tmp_path) as talk:
        created = await talk.create_dataset(CONTENT, request_id="u1")
        half = await talk.write(created.name, [(0, CONTENT[:500])])
        assert half.committed_bytes == 500
    async with trainer(tmp_path) as talk:
        again = await talk.create_dataset(CONTENT, request_id="u1")
        assert (again.name, again.committed_bytes) == (created.name, 500)
        done = await talk.write(created.name, [(500, CONTENT[500:])])
        assert done.state == dataset_pb2.DATASET_STATE_READY


async def test_wrong_bytes_are_sent_again_from_the_start(tmp_path, serve):
    async with serve(tmp_path) as talk:
        created = await talk.create_dataset(CONTENT)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.write(created.name, [(0, b"x" * len(CONTENT))])
        assert refusal(error.value)[:2] == ("INVALID_ARGUMENT", "HASH_MISMATCH")
        shown = (await talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=created.name))).dataset
        assert shown.committed_bytes == 0
        assert (await talk.write(created.name, [(0, CONTENT)])).state == dataset_pb2.DATASET_STATE_READY
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.write(created.name, [(0, CONTENT)])
        assert refusal(error.value)[:2] == ("FAILED_PRECONDITION", "DATASET_READY")


BAD_ROWS = {
    "empty": ([], b"\n\n", "EMPTY_DATASET", "rows"),
    "not JSON": ([{"text": "a"}], b"{oops\n", "MALFORMED_ROW", "rows[2]"),
    "not UTF-8": ([{"text": "a"}], b'{"text": "\xff"}\n', "MALFORMED_ROW", "rows[2]"),
    "a list": ([[1]], b"", "MALFORMED_ROW", "rows[1]"),
    "mixed": ([{"text": "a"}, {"prompt": "a", "completion": "b"}], b"", "MIXED_FORMATS", "rows[2]"),
    "content is a number": (
        [*ROWS[:16], {"messages": [*ROWS[0]["messages"], {"role": "user", "content": 5}]}],
        b"",
        "MALFORMED_ROW",
        "rows[17].messages[2].content",
    ),
    "role": ([{"messages": [{"role": "boss", "content": "a"}]}], b"", "MALFORMED_ROW", "rows[1].messages[0].role"),
    "nothing to learn": ([{"messages": [{"role": "user", "content": "a"}]}], b"", "MALFORMED_ROW", "rows[1].messages"),
    "empty completion": ([{"prompt": "a", "completion": " "}], b"", "MALFORMED_ROW", "rows[1].completion"),
    "no completion": ([{"prompt": "a"}], b"", "MALFORMED_ROW", "rows[1].completion"),
}


async def test_wrong_rows_are_named_and_nothing_of_them_stays(tmp_path, serve):
    async with serve(tmp_path) as talk:
        for name, (rows, rest, reason, field) in BAD_ROWS.items():
            content = jsonl(rows) + rest
            created = await talk.create_dataset(content, request_id=name.replace(" ", "-"))
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await talk.write(created.name, [(0, content)])
            code, found, info, faults = refusal(error.value)
            assert (code, found) == ("INVALID_ARGUMENT", reason), name
            assert faults[0].field == field, name
            if reason == "MALFORMED_ROW":
                assert field.startswith(f"rows[{info.metadata['row']}]"), name
        assert not (await talk.stub.ListDatasets(dataset_pb2.ListDatasetsRequest())).datasets
        assert not list((tmp_path / "data" / "uploads").glob("*"))
        assert not list((tmp_path / "data" / "datasets").glob("*"))


async def test_five_hundred_wrong_rows_still_give_an_error_that_arrives(tmp_path, serve):
    async with serve(tmp_path) as talk:
        content = jsonl([{"text": 5}] * 500)
        created = await talk.create_dataset(content)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.write(created.name, [(0, content)])
        assert refusal(error.value)[1] == "MALFORMED_ROW"
        assert len(error.value.trailing_metadata()["grpc-status-details-bin"]) <= 4096


async def test_more_bytes_than_stated_are_refused(tmp_path, serve):
    async with serve(tmp_path) as talk:
        created = await talk.create_dataset(CONTENT)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.write(created.name, [(0, CONTENT), (len(CONTENT), b"more")])
        assert refusal(error.value)[:2] == ("INVALID_ARGUMENT", "SIZE_MISMATCH")


async def test_limits_of_size_hold_before_anything_is_sent(tmp_path, serve):
    async with serve(tmp_path, max_upload_bytes=1000, max_project_bytes=1500) as talk:
        for size, reason in ((1001, "DATASET_TOO_LARGE"), (900, ""), (700, "DATASET_TOO_LARGE")):
            request = dataset_pb2.CreateDatasetRequest(size_bytes=size, sha256=hashlib.sha256(b"%d" % size).hexdigest())
            if not reason:
                await talk.stub.CreateDataset(request)
                continue
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await talk.stub.CreateDataset(request)
            assert refusal(error.value)[:2] == ("RESOURCE_EXHAUSTED", reason)


async def test_a_request_id_names_one_upload(tmp_path, serve):
    async with serve(tmp_path) as talk:
        created = await talk.create_dataset(CONTENT, request_id="one")
        assert (await talk.create_dataset(CONTENT, request_id="one")).name == created.name
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.create_dataset(CONTENT + b"\n", request_id="one")
        assert refusal(error.value)[1] == "REQUEST_ID_REUSED"


async def test_a_dataset_that_a_job_needs_is_not_deleted(tmp_path, serve):
    async with serve(tmp_path) as talk:
        dataset = await talk.upload(CONTENT)
        job = await talk.train(dataset=dataset.name, suspended=True)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=dataset.name))
        code, reason, info, _ = refusal(error.value)
        assert (code, reason, info.metadata["job"]) == ("FAILED_PRECONDITION", "DATASET_IN_USE", job.name)
        await talk.cancel(job.name)
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=dataset.name))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset.name))
        assert refusal(error.value)[1] == "DATASET_NOT_FOUND"
        assert not list((tmp_path / "data" / "datasets").glob("*"))


async def test_a_request_whose_dataset_was_deleted_is_refused(tmp_path, serve):
    async with serve(tmp_path) as talk:
        created = await talk.create_dataset(CONTENT, request_id="once")
        delete = dataset_pb2.DeleteDatasetRequest(name=created.name, request_id="gone")
        for _ in range(2):  # a repeated deletion changes nothing
            await talk.stub.DeleteDataset(delete)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.create_dataset(CONTENT, request_id="once")
        assert refusal(error.value)[:2] == ("FAILED_PRECONDITION", "DATASET_DELETED")


async def test_a_content_that_two_projects_share_outlives_the_first_deletion(tmp_path):
    async with trainer(tmp_path) as talk:
        mine = await talk.upload(CONTENT)
        theirs = await talk.upload(CONTENT, parent="projects/other")
        assert mine.name != theirs.name
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=mine.name))
        assert (tmp_path / "data" / "datasets" / f"{mine.sha256}.jsonl").read_bytes() == CONTENT
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=theirs.name))
        assert not (tmp_path / "data" / "datasets" / f"{mine.sha256}.jsonl").exists()


async def test_a_job_does_not_start_on_an_unfinished_upload(tmp_path, serve):
    async with serve(tmp_path) as talk:
        created = await talk.create_dataset(CONTENT)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.train(dataset=created.name)
        assert refusal(error.value)[:2] == ("FAILED_PRECONDITION", "DATASET_NOT_READY")
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs


async def test_an_upload_without_a_name_is_refused(tmp_path, serve):
    async with serve(tmp_path) as talk:
        for pieces in ([], [(0, b"x")]):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await talk.write("", pieces)
            assert refusal(error.value)[:2] == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_prompt_and_text_rows_are_known(tmp_path):
    async with trainer(tmp_path) as talk:
        pairs = await talk.upload(jsonl([{"prompt": "Two and two?", "completion": "Four."}]))
        assert pairs.row_format == training_data_pb2.ROW_FORMAT_PROMPT_COMPLETION
        text = await talk.upload(json.dumps({"text": "Once upon a time."}).encode())
        assert text.row_format == training_data_pb2.ROW_FORMAT_TEXT
        assert text.profile.target_fraction == 1


CALLED_TEXT = {
    b'{"prompt": "a", "completion": "b"}\n': (
        training_data_pb2.FILE_FORMAT_JSONL,
        training_data_pb2.FILE_FORMAT_UNSPECIFIED,
    ),
    "prompt\tcompletion\r\na\tb\r\n".encode("utf-16"): (
        training_data_pb2.FILE_FORMAT_TSV,
        training_data_pb2.FILE_FORMAT_TSV,
    ),
    b"Once upon a time.\n": (training_data_pb2.FILE_FORMAT_TEXT, training_data_pb2.FILE_FORMAT_TEXT),
}


async def test_an_upload_that_is_called_text_is_what_its_content_says(tmp_path):
    async with trainer(tmp_path) as talk:
        for content, (found, read_as) in CALLED_TEXT.items():
            created = await talk.create_dataset(content, request_id=str(found), display_name="story.txt")
            done = await talk.write(created.name, [(0, content)])
            assert (done.file_format, done.reading.file_format) == (found, read_as)


@pytest.mark.parametrize(("task", "exact"), [("prepare", True), ("train", False)])
async def test_what_a_prepare_job_counts_becomes_the_profile(tmp_path, serve, task, exact):
    async with serve(tmp_path, {"report": 4321}) as talk:
        dataset = await talk.upload(CONTENT)
        job = await getattr(talk, task)(dataset=dataset.name)
        assert (await talk.events(job.name))[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        profile = (await talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset.name))).dataset.profile
        assert profile.exact == exact
        assert (profile.total_tokens == 4321) == exact


MIXED_CSV = b"Frage,Antwort\nWas?,Das.\nWer?,\nWo?,Hier.\n"
COLUMNS = training_data_pb2.DatasetColumns(prompt="Frage", completion="Antwort")
SKIPPING = training_data_pb2.DatasetReading(columns=COLUMNS, bad_rows=training_data_pb2.BAD_ROWS_SKIP, skip_limit=1)


async def test_columns_and_the_policy_for_bad_rows_come_with_the_upload_and_go_into_the_job(tmp_path):
    async with trainer(tmp_path) as talk:
        created = await talk.create_dataset(MIXED_CSV, reading=SKIPPING, display_name="fragen.csv")
        done = await talk.write(created.name, [(0, MIXED_CSV)])
        assert done.file_format == training_data_pb2.FILE_FORMAT_CSV
        assert (done.row_format, done.profile.examples) == (training_data_pb2.ROW_FORMAT_PROMPT_COMPLETION, 2)
        job = await talk.train(dataset=done.name, suspended=True)
        expected = training_data_pb2.DatasetReading(file_format=training_data_pb2.FILE_FORMAT_CSV)
        expected.MergeFrom(SKIPPING)
        assert job.train.spec.dataset.reading == expected


async def test_a_job_may_read_a_dataset_in_its_own_way(tmp_path):
    rows = jsonl([{"question": "q", "answer": "a", "short": "s"}, {"question": "r", "answer": "b", "short": ""}])
    async with trainer(tmp_path) as talk:
        dataset = await talk.upload(rows)
        request = job_request(dataset.name)
        request.train.spec.dataset.reading.columns.completion = "short"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=request))
        code, reason, info, faults = refusal(error.value)
        assert (code, reason, info.metadata["row"]) == ("INVALID_ARGUMENT", "MALFORMED_ROW", "2")
        assert faults[0].field == "job.train.spec.dataset.rows[2].short"
        request.train.spec.dataset.reading.bad_rows = training_data_pb2.BAD_ROWS_SKIP
        answer = await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=request))
        assert answer.train.spec.dataset.reading.columns.completion == "short"


BODY = "Each pack of dvds costs {} dollars, and there is a discount of 25 dollars on each of them."
SVAMP = jsonl([{"ID": f"c-{i}", "Body": BODY.format(i), "Question": "How much?", "Answer": str(i)} for i in range(9)])


MAPPED = training_data_pb2.DatasetColumns(prompt="Body", input="Question", completion="Answer")


def _to_train(dataset, reading):
    request = job_request(dataset.name)
    request.train.spec.dataset.reading.MergeFrom(training_data_pb2.DatasetReading(**reading))
    return request


async def test_a_job_that_would_learn_without_the_text_is_refused_before_it_is_queued(tmp_path):
    async with trainer(tmp_path) as talk:
        dataset = await talk.upload(SVAMP)
        (found,) = dataset.findings
        assert (found.code, found.severity, found.rows) == ("UNREAD_COLUMNS", check_pb2.SEVERITY_ERROR, 9)
        assert [column.name for column in found.columns] == ["Body", "ID"]
        assert found.mappings[0] == MAPPED
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.train(dataset=dataset.name)
        code, reason, _, faults = refusal(error.value)
        assert (code, reason) == ("INVALID_ARGUMENT", "UNREAD_COLUMNS")
        assert (faults[0].field, faults[0].reason) == ("job.train.spec.dataset.reading", "UNREAD_COLUMNS")
        assert "columns {prompt: Body, input: Question, completion: Answer}" in error.value.details()
        held = job_request((await talk.upload(CONTENT)).name)
        held.train.spec.evaluation.dataset.name = dataset.name
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=held))
        assert refusal(error.value)[3][0].field == "job.train.spec.evaluation.dataset.reading"
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs


GOES_ON = {
    "accepted": {"accepted_findings": ["UNREAD_COLUMNS"]},
    "the column may be left out": {"ignored_columns": ["Body"]},
    "read": {"columns": MAPPED},
}


@pytest.mark.parametrize("name", GOES_ON)
async def test_what_the_job_says_of_the_text_is_kept_in_it_and_in_its_digest(tmp_path, name):
    async with trainer(tmp_path, estimator=FixedEstimator()) as talk:
        dataset = await talk.upload(SVAMP)
        request = _to_train(dataset, GOES_ON[name])
        answer = await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=request))
        said = training_data_pb2.DatasetReading(**GOES_ON[name])
        assert answer.train.spec.dataset.reading == said
        assert answer.plan.spec.dataset.reading == said


async def test_what_a_job_accepts_is_not_the_dataset_s(tmp_path):
    async with trainer(tmp_path) as talk:
        columns = training_data_pb2.DatasetColumns(prompt="Question", completion="Answer")
        dataset = await talk.upload(SVAMP, reading=training_data_pb2.DatasetReading(columns=columns))
        request = _to_train(dataset, {"accepted_findings": ["UNREAD_COLUMNS"]})
        answer = await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=request))
        # The rest is read as the dataset says.
        assert answer.train.spec.dataset.reading.columns == columns
        with pytest.raises(grpc.aio.AioRpcError):
            await talk.train(dataset=dataset.name)


FILES = {
    "unknown columns": (b'{"question": "a"}\n', {}, "MALFORMED_ROW", "rows[1]"),
    "a column that is not there": (
        MIXED_CSV,
        {"columns": training_data_pb2.DatasetColumns(prompt="frage")},
        "COLUMN_NOT_FOUND",
        "reading.columns.prompt",
    ),
    "bad rows": (MIXED_CSV, {"columns": COLUMNS}, "MALFORMED_ROW", "rows[2].Antwort"),
    "broken JSON": (b'[{"text": "a"},', {}, "MALFORMED_FILE", "rows[2]"),
    "UTF-32": ('{"text": "a"}'.encode("utf-32"), {}, "NOT_UTF8", "rows"),
    "NUL bytes": (b'{"text": "a"}\n\x00\x00', {}, "NOT_UTF8", "rows"),
    "cut gzip": (gzip.compress(b'{"text": "a"}\n' * 99)[:-9], {}, "DATASET_UNREADABLE", "rows"),
    "cut Parquet": (b"PAR1 cut off", {}, "DATASET_UNREADABLE", "rows"),
    "Parquet with a wrong footer": (b"PAR1" + b"x" * 40 + b"\xff\xff\xff\x7fPAR1", {}, "DATASET_UNREADABLE", "rows"),
    "nesting": (b'{"text": ' + b"[" * 99_999, {}, "MALFORMED_ROW", "rows[1]"),
    "a number without end": (b'{"prompt": "a", "completion": ' + b"9" * 9999 + b"}", {}, "MALFORMED_ROW", "rows[1]"),
    "10,000 columns twice": (b",".join(b"c%d" % (i % 9999) for i in range(10_000)), {}, "MALFORMED_FILE", "rows"),
    "a pickle": (b"\x80\x04\x95.", {}, "UNSUPPORTED_FILE", "rows"),
}


async def test_files_that_cannot_be_read_are_refused_and_nothing_of_them_stays(tmp_path):
    async with trainer(tmp_path) as talk:
        for name, (content, reading, reason, field) in FILES.items():
            said = training_data_pb2.DatasetReading(**reading)
            created = await talk.create_dataset(
                content, request_id=name.replace(" ", "-"), reading=said, display_name="my-rows"
            )
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await talk.write(created.name, [(0, content)])
            code, found, _, faults = refusal(error.value)
            assert (code, found, faults[0].field) == ("INVALID_ARGUMENT", reason, field), name
            assert error.value.details().startswith("my-rows"), name
        assert not (await talk.stub.ListDatasets(dataset_pb2.ListDatasetsRequest())).datasets
        assert not list((tmp_path / "data" / "uploads").iterdir())


async def test_a_file_that_unpacks_to_far_more_is_taken_by_its_first_rows_and_blocks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(file_profile, "READ_BYTES", 20_000)
    bomb = gzip.compress(jsonl([{"text": "a" * 1000}] * 5_000))
    async with trainer(tmp_path) as talk:
        created = await talk.create_dataset(bomb, display_name="rows.jsonl.gz")
        taken = await talk.write(created.name, [(0, bomb)])
        assert (taken.state, taken.compression) == (
            dataset_pb2.DATASET_STATE_READY,
            training_data_pb2.COMPRESSION_GZIP,
        )
        # Beyond what may come out of it, an upload is refused as a job is.
        monkeypatch.setattr(content, "FREE_BYTES", 10_000)
        monkeypatch.setattr(content, "MAX_RATIO", 1)
        refused = bomb + gzip.compress(b" ")
        created = await talk.create_dataset(refused, request_id="r")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.write(created.name, [(0, refused)])
        assert refusal(error.value)[:2] == ("INVALID_ARGUMENT", "DATASET_TOO_LARGE")
        half = await talk.create_dataset(CONTENT, request_id="h")
        await talk.write(half.name, [(0, CONTENT[:300])])
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=half.name))
        assert not list((tmp_path / "data" / "uploads").iterdir())
        good = await talk.create_dataset(CONTENT, request_id="g")
        assert (await talk.write(good.name, [(0, CONTENT)])).state == dataset_pb2.DATASET_STATE_READY
        assert len(list((tmp_path / "data" / "datasets").iterdir())) == 2


@pytest.mark.parametrize("while_in", ["write", "read"])
async def test_a_content_that_is_uploaded_again_while_its_dataset_is_deleted_stays(tmp_path, while_in):
    """The upload comes when the row is gone and its file is not, or when the file is known to have no row."""
    async with trainer(tmp_path, {}) as talk:
        content = jsonl(ROWS)
        first = await talk.upload(content)
        file = tmp_path / "data/datasets" / f"{first.sha256}.jsonl"
        store, contents = talk.application._store, talk.application._retention._datasets.contents
        once, uploads = getattr(store, while_in), []

        async def interposed(run):
            result = await once(run)
            counts = getattr(getattr(run, "func", None), "__name__", "") == "count_of_content"
            if not uploads and (while_in == "write" or counts):
                uploads.append(asyncio.create_task(talk.upload(content)))
                # It is complete, or waits for the file's turn.
                while not uploads[0].done() and contents._locks._locks.get(first.sha256, (None, 0))[1] < 2:
                    await asyncio.sleep(0.001)
            return result

        setattr(store, while_in, interposed)
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=first.name))
        again = await uploads[0]
        assert again.name != first.name
        assert again.state == dataset_pb2.DATASET_STATE_READY
        assert file.read_bytes() == content
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=again.name))
        assert not file.exists()

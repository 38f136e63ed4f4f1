# SPDX-License-Identifier: Apache-2.0
"""Files, as the `openai` client uploads, lists, reads and deletes them."""

import openai
import pytest

ROW = b'{"messages": [{"role": "user", "content": "%d?"}, {"role": "assistant", "content": "%d"}]}\n'


def upload(client, number):
    return client.files.create(file=(f"{number}.jsonl", ROW % (number, number)), purpose="fine-tune")


def test_an_upload_is_a_dataset_of_the_trainer(client, suite):
    file = upload(client, 1)
    assert (file.filename, file.bytes, file.purpose, file.status) == (
        "1.jsonl",
        len(ROW % (1, 1)),
        "fine-tune",
        "processed",
    )
    name = f"projects/default/datasets/{file.id.removeprefix('file-')}"
    assert suite.datasets.content(name) == ROW % (1, 1)
    assert client.files.retrieve(file.id).id == file.id


def test_the_same_content_is_the_same_file(client):
    assert upload(client, 2).id == upload(client, 2).id


def test_a_large_file_is_uploaded_whole(client, suite):
    content = b"".join(ROW % (n, n) for n in range(40_000))
    file = client.files.create(file=("large.jsonl", content), purpose="fine-tune")
    assert suite.datasets.content(f"projects/default/datasets/{file.id.removeprefix('file-')}") == content


def test_files_are_listed_newest_first_in_pages(client):
    made = [upload(client, number).id for number in range(10, 15)]
    first = client.files.list(limit=2)
    assert [file.id for file in first][:5] == made[::-1]
    assert first.has_more
    assert [file.id for file in client.files.list(order="asc")][-5:] == made
    assert list(client.files.list(purpose="batch")) == []
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.list(after="file-nobody")
    assert (caught.value.code, caught.value.param) == ("CURSOR_INVALID", "after")


def test_a_deleted_file_is_gone(client):
    file = upload(client, 20)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve(file.id)
    assert (caught.value.code, caught.value.param) == ("FILE_NOT_FOUND", "file_id")


@pytest.mark.parametrize(
    ("content", "fields", "code", "param"),
    [
        (ROW % (1, 1), {"purpose": "batch"}, "PURPOSE_UNSUPPORTED", "purpose"),
        (
            ROW % (1, 1),
            {"expires_after": {"anchor": "created_at", "seconds": 3600}},
            "EXPIRY_UNSUPPORTED",
            "expires_after",
        ),
        (b"", {}, "EMPTY_DATASET", "file"),
        (b"no json\n", {}, "MALFORMED_ROW", "file"),
    ],
)
def test_an_upload_that_is_refused_names_the_field(client, content, fields, code, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(**{"file": ("bad.jsonl", content), "purpose": "fine-tune", **fields})
    assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_an_upload_is_not_given_back(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.content(upload(client, 30).id)
    assert caught.value.code == "CONTENT_UNAVAILABLE"


def test_a_body_that_is_no_form_is_refused(http):
    answer = http.post("/v1/files", content=b"rows", headers={"content-type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "MALFORMED_REQUEST")
    answer = http.post("/v1/files", json={"purpose": "fine-tune"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")

# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.config.settings import SecretUrl, SettingsError
from finetree_trainer.layout import Layout
from finetree_trainer.store.backends.folder_mark import FolderMark
from finetree_trainer.store.backends.opening import open_store

URL = SecretUrl("postgresql://127.0.0.1:1/jobs")


def refused(layout, url) -> str:
    with pytest.raises(SettingsError) as error:
        open_store(layout, url)
    return error.value.reason


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\ufffe"])
def test_a_mark_that_cannot_be_read_is_refused(tmp_path, content):
    Layout(tmp_path).database_mark.write_text(content)
    assert refused(Layout(tmp_path), URL) == "DATA_DIR_UNUSABLE"


def test_a_folder_is_used_with_the_kind_of_database_that_it_has(tmp_path):
    embedded, served = Layout(tmp_path / "a"), Layout(tmp_path / "b")
    for layout in (embedded, served):
        layout.root.mkdir()
    open_store(embedded, SecretUrl()).close()
    assert refused(embedded, URL) == "DATA_DIR_HAS_DATABASE"
    FolderMark(served.database_mark).make()
    assert refused(served, SecretUrl()) == "DATA_DIR_WITHOUT_DATABASE"
    assert [file.name for file in served.root.iterdir()] == ["database.json"]


def test_a_server_that_does_not_answer_leaves_nothing_in_the_folder(tmp_path):
    assert refused(Layout(tmp_path), URL) == "DATABASE_UNREACHABLE"
    assert not list(tmp_path.iterdir())

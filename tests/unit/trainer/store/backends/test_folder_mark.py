# SPDX-License-Identifier: Apache-2.0
import json

from finetree_trainer.layout import Layout
from finetree_trainer.store.backends.folder_mark import FolderMark


def test_a_folder_keeps_the_name_that_its_database_knows(tmp_path):
    path = Layout(tmp_path).database_mark
    mark = FolderMark(path)
    assert mark.read() == ""
    assert not path.exists()
    name = mark.make()
    assert FolderMark(path).make() == mark.read() == name
    assert json.loads(path.read_text()) == {"data_folder": name}
    assert [file.name for file in tmp_path.iterdir()] == ["database.json"]

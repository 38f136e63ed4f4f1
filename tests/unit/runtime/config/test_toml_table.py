# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.config.toml_table import TomlTable
from finetree_runtime.config.values import Duration, Size

TEXT = """
[default]
age = "2h"

[projects.search]
bytes = "1KB"
"""


@pytest.fixture
def read(tmp_path):
    def made(text: str) -> TomlTable:
        file = tmp_path / "kept.toml"
        file.write_text(text)
        return TomlTable.read("kept_file", file)

    return made


def test_values_are_converted_as_settings_are(read):
    content = read(TEXT)

    assert content.table("default").value("age", Duration, 0.0) == 7200
    assert content.table("default").value("bytes", Size, 7) == 7
    assert [(name, own.value("bytes", Size, 0)) for name, own in content.table("projects").tables()] == [
        ("search", 1000)
    ]
    assert dict(content.table("other").tables()) == {}


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda content: content.require_known("default"), "projects: is none of default"),
        (lambda content: content.table("projects").table("search").require_known("age", "size"), None),
        (lambda content: content.table("default").table("age"), "default.age: is not a table"),
        (lambda content: content.table("default").value("age", Size, 0), "default.age: '2h' is not a size"),
        (lambda content: content.invalid("", "has no type"), "has no type"),
    ],
    ids=["unknown", "unknown below", "no table", "another kind", "the file"],
)
def test_what_is_wrong_is_named_with_its_setting_and_key(read, ask, named):
    with pytest.raises(SettingsError) as refused:
        raise ask(read(TEXT)) or AssertionError

    assert refused.value.reason == "SETTING_INVALID"
    assert str(refused.value).startswith(f"kept_file: {named or 'projects.search.bytes: is none of age, size'}")

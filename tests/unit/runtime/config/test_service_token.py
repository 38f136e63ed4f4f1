# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.config.service_token import service_token
from finetree_runtime.config.settings import SettingsError


def test_a_token_is_read_again_and_the_last_one_holds_while_the_file_is_away(tmp_path):
    file = tmp_path / "token"
    file.write_text("ft_first\n")
    read = service_token(file)
    assert read() == "ft_first"
    file.write_text("ft_second\n")
    assert read() == "ft_second"
    file.write_text("")
    assert read() == "ft_second"
    file.unlink()
    assert read() == "ft_second"


def test_a_file_that_has_no_token_stops_the_start(tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    for name in ("missing", "empty", "binary"):
        with pytest.raises(SettingsError) as refused:
            service_token(tmp_path / name)
        assert refused.value.reason == "SETTING_INVALID"
    assert service_token(None) is None

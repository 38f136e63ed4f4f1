# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_data.exchange.leader_file import SCHEME, Leader, leads, target


def test_the_file_names_the_replica_that_wrote_last(tmp_path):
    file = tmp_path / "leader.json"
    first, second = Leader("a1", "10.0.0.1:50060"), Leader("b2", "10.0.0.2:50060")
    for leader in (first, second):
        leader.write(file)
        assert Leader.read(file) == leader
        assert target(f"{SCHEME}{file}") == leader.address
    assert leads("b2", str(file))
    assert not leads("a1", str(file))
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", ["", "[]", '{"name": "a1"}', "no JSON"])
def test_a_file_that_names_none_has_no_leader(tmp_path, content):
    file = tmp_path / "leader.json"
    for _ in range(2):  # at first there is none
        assert not leads("a1", str(file))
        with pytest.raises(OSError, match="leader"):
            target(f"{SCHEME}{file}")
        file.write_text(content)


def test_a_trainer_that_is_alone_leads_and_has_its_address_without_a_file():
    assert leads("", "")
    assert target("127.0.0.1:50060") == "127.0.0.1:50060"
    assert target("unix:/run/worker.sock") == "unix:/run/worker.sock"

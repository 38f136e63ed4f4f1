# SPDX-License-Identifier: Apache-2.0
from finetree_trainer.objects.drafts import Drafts


def opened(root) -> Drafts:
    drafts = Drafts(root)
    drafts.open()
    return drafts


def test_what_a_process_has_on_its_way_stays_while_it_lives(tmp_path):
    first = opened(tmp_path / "transfers")
    place = first.new()
    place.mkdir()
    second = opened(tmp_path / "transfers")
    assert place.is_dir()
    assert second.new().parent != place.parent
    first.close()
    third = opened(tmp_path / "transfers")
    assert not place.parent.exists()
    assert {each.stem for each in (tmp_path / "transfers").iterdir()} == {
        each.new().parent.name for each in (second, third)
    }


def test_what_an_earlier_release_has_left_is_removed(tmp_path):
    left = tmp_path / "transfers" / "0198"
    left.mkdir(parents=True)
    (left / "weights.bin").write_bytes(b"x")
    opened(tmp_path / "transfers")
    assert not left.exists()

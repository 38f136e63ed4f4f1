# SPDX-License-Identifier: Apache-2.0
from finetree_trainer.datasets.contents import Contents
from finetree_trainer.jobs.retention.leftovers import remove_leftovers
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies


async def test_files_without_a_row_go_and_rows_without_files_are_named(tmp_path, store, create_job, new_row):
    layout = Layout(tmp_path)
    create_job(new_row("kept", attempt=1))
    create_job(new_row("lost", attempt=1))
    for uid in ("kept", "orphan"):
        (layout.checkpoints(uid) / "step-00000001").mkdir(parents=True)
        (layout.checkpoints(uid) / "step-00000001/weights.safetensors").write_bytes(bytes(1000))
    layout.uploads.mkdir()
    layout.datasets.mkdir()
    layout.upload_file("gone").write_bytes(bytes(30))
    layout.dataset_file("a" * 64).write_bytes(bytes(7))
    assert await remove_leftovers(store, layout, Contents(store, layout, Copies(layout, None))) == 1037
    left = sorted(path.name for folder in (layout.jobs, layout.uploads, layout.datasets) for path in folder.iterdir())
    assert left == ["kept"]
    assert await remove_leftovers(store, layout, Contents(store, layout, Copies(layout, None))) == 0


async def test_beside_an_empty_database_nothing_is_removed(tmp_path, store):
    layout = Layout(tmp_path)
    layout.checkpoints("j1").mkdir(parents=True)
    assert await remove_leftovers(store, layout, Contents(store, layout, Copies(layout, None))) == 0
    assert layout.checkpoints("j1").is_dir()

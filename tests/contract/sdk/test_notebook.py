# SPDX-License-Identifier: Apache-2.0
"""The notebook of the examples, run by a kernel without a browser: every cell, and what it shows."""

import os
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[3] / "docs/examples/notebook/fine_tune.ipynb"


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> dict[str, Any]:
    """The cells by their ids, after they have run."""
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
            patch.setenv(f"JUPYTER_{name}", str(folder))
        patch.setenv("IPYTHONDIR", str(folder))
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        for name in [name for name in os.environ if name.startswith("FINETREE_")]:
            patch.delenv(name)
        import nbformat
        from nbclient import NotebookClient

        notebook = nbformat.read(NOTEBOOK, as_version=4)
        NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return {cell["id"]: cell for cell in notebook["cells"]}


def shown(cell: Any) -> list[dict[str, str]]:
    return [output["data"] for output in cell["outputs"] if "data" in output]


@pytest.mark.parametrize(
    ("cell", "title"),
    [
        ("recommend", "Recommendation: LoRA"),
        ("estimate", "Estimate"),
        ("capacity", "Capacity"),
        ("handle", "Job projects/default/jobs/"),
        ("event", "Event "),
    ],
)
def test_an_answer_is_a_card(cells, cell, title):
    (data,) = shown(cells[cell])
    assert f"<b>{title}" in data["text/html"]
    assert "finetree_api" not in data["text/plain"], "the text beside it is readable too"


def test_a_watched_job_is_one_card_that_ends_with_the_job(cells):
    (data,) = shown(cells["watch"])
    assert "succeeded" in data["text/html"]
    assert "from a notebook" in data["text/html"]
    assert "<polyline" in data["text/html"]
    assert "succeeded" in data["text/plain"]
    assert not [output for output in cells["watch"]["outputs"] if output["output_type"] == "stream"]


def test_the_artifact_was_downloaded(cells):
    assert "adapter_model.safetensors" in str(cells["download"]["outputs"])


def test_the_notebook_is_kept_without_outputs():
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert [cell["id"] for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")] == []

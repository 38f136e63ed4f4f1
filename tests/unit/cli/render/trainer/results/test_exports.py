# SPDX-License-Identifier: Apache-2.0
"""What an export's report says on a terminal, and the lines that load the file."""

from finetree_api.trainer.v1 import artifact_pb2, export_pb2
from finetree_api.types.v1 import check_pb2, serving_pb2
from finetree_cli.output import Output
from finetree_cli.render.trainer.results.exports import show_commands, show_report

REPORT = export_pb2.ExportReport(
    prompts=8,
    prompt_source=export_pb2.PROMPT_SOURCE_HELD_OUT_ROWS,
    compared_tokens=300,
    comparisons=[
        export_pb2.LogitComparison(
            model=export_pb2.COMPARED_MODEL_TRAINED,
            largest_difference=0.25,
            allowed_difference=2.0,
            agreement=0.995,
            equal_answers=7,
        ),
        export_pb2.LogitComparison(model=export_pb2.COMPARED_MODEL_QUANTIZED_BASE, largest_difference=3.5),
    ],
    exact_match_before=0.5,
    exact_match_after=0.375,
    merge_difference=0.0001,
    files=[artifact_pb2.ArtifactFile(path="model-q8_0.gguf", size_bytes=1_500_000, sha256="ab")],
    load_commands=[
        export_pb2.LoadCommand(
            program=serving_pb2.SERVING_TARGET_LLAMA_CPP, command="llama-cli -m model-q8_0.gguf -cnv"
        ),
        export_pb2.LoadCommand(program=serving_pb2.SERVING_TARGET_TRANSFORMERS, command="import a\nimport b"),
    ],
    remarks=[check_pb2.Remark(code="X", message="Something is to be known.")],
)


def test_each_comparison_is_a_line(capsys):
    show_report(Output(), REPORT)
    said = capsys.readouterr().err
    assert "asked 8 prompts of the job's held-out rows, and compared the logits of 300 tokens" in said
    assert "logits differ by 0.25 of 2 allowed, 7 of 8 answers equal, 99.5% of their tokens" in said
    assert "trained, on the quantized base  logits differ by 3.5, 0 of 8" in said
    assert "merging alone, before rounding, changes logits by 0.0001" in said
    assert "exact match 50.0% before, 37.5% after" in said
    assert "Something is to be known." in said
    assert "model-q8_0.gguf  1 MiB  sha256 ab" in said


def test_the_lines_that_load_it_begin_in_its_folder(capsys, tmp_path):
    show_commands(Output(), REPORT, tmp_path / "my model")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["llama cpp:", f"  cd '{tmp_path}/my model'", "  llama-cli -m model-q8_0.gguf -cnv"]
    assert lines[-2:] == ["  import a", "  import b"]

# SPDX-License-Identifier: Apache-2.0
"""An export's report: how the file differs from the trained model, and what loads it."""

import shlex
from pathlib import Path

from finetree_api.trainer.v1 import export_pb2
from finetree_api.types.v1 import serving_pb2

from finetree_cli.output import Output
from finetree_cli.render import units

_MODELS = {
    export_pb2.COMPARED_MODEL_TRAINED: "trained, not merged",
    export_pb2.COMPARED_MODEL_ROUNDED: "merged, rounded in memory",
    export_pb2.COMPARED_MODEL_QUANTIZED_BASE: "trained, on the quantized base",
}
_SOURCES = {
    export_pb2.PROMPT_SOURCE_REQUEST: "of the dataset that was named",
    export_pb2.PROMPT_SOURCE_HELD_OUT_ROWS: "of the job's held-out rows",
    export_pb2.PROMPT_SOURCE_TRAINING_ROWS: "of the job's training rows",
    export_pb2.PROMPT_SOURCE_BUILT_IN: "of the suite's own",
}


def show_report(out: Output, report: export_pb2.ExportReport) -> None:
    """Print on stderr how the exported file compares with the other forms of the model."""
    asked = _SOURCES.get(report.prompt_source, "")
    out.say(f"asked {report.prompts} prompts {asked}, and compared the logits of {report.compared_tokens} tokens")
    for each in report.comparisons:
        allowed = f" of {each.allowed_difference:.3g} allowed" if each.HasField("allowed_difference") else ""
        out.say(
            f"  {_MODELS.get(each.model, 'another form'):<31} logits differ by {each.largest_difference:.3g}{allowed}, "
            f"{each.equal_answers} of {report.prompts} answers equal, {each.agreement:.1%} of their tokens"
        )
    if report.HasField("merge_difference"):
        out.say(f"  merging alone, before rounding, changes logits by {report.merge_difference:.3g}")
    if report.HasField("exact_match_before"):
        out.say(f"  exact match {report.exact_match_before:.1%} before, {report.exact_match_after:.1%} after")
    for remark in report.remarks:
        out.say(f"  {remark.message}")
    for file in report.files:
        out.say(f"  {file.path}  {units.size(file.size_bytes)}  sha256 {file.sha256}")


def show_commands(out: Output, report: export_pb2.ExportReport, folder: Path | None) -> None:
    """Print on stderr the lines that load what was exported, in its folder where it was downloaded."""
    for command in report.load_commands:
        out.say(f"{units.word(serving_pb2.ServingTarget, command.program)}:")
        if folder is not None:
            out.say(f"  cd {shlex.quote(str(folder))}")
        for line in command.command.splitlines():
            out.say(f"  {line}")

# SPDX-License-Identifier: Apache-2.0
"""Exports from end to end on a tiny model: what is written answers as the trained model does, or is not published."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, export_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, serving_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.atomic_files import atomic_folder
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled, TaskError
from finetree_worker.export.gguf import architectures
from finetree_worker.export.gguf.weights import WeightType
from finetree_worker.export.merge import merge
from finetree_worker.export.plan import ExportPlan
from finetree_worker.export.run import _remark_rounding, export
from finetree_worker.methods import weights as trained
from finetree_worker.methods.weights import Weights
from finetree_worker.models.load import load_model, load_tokenizer
from finetree_worker.plan import BaseModel, Plan
from finetree_worker.process.artifacts import seal
from finetree_worker.tokenize.rows import RowSource
from finetree_worker.training.run import adapt, load
from huggingface_hub import ModelCard
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM
from worker_harness import METHODS, Recorder, data_plan, optimization

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

CPU = torch.device("cpu")
TRANSFORMERS, GGUF, GGUF_LORA = (
    artifact_pb2.EXPORT_FORMAT_TRANSFORMERS,
    artifact_pb2.EXPORT_FORMAT_GGUF,
    artifact_pb2.EXPORT_FORMAT_GGUF_LORA,
)
TRAINED, ROUNDED, QUANTIZED = (
    export_pb2.COMPARED_MODEL_TRAINED,
    export_pb2.COMPARED_MODEL_ROUNDED,
    export_pb2.COMPARED_MODEL_QUANTIZED_BASE,
)
SPECS = {
    "nf4": run_spec_pb2.RunSpec(qlora=method_pb2.Qlora(lora=method_pb2.Lora(rank=4, alpha=8, dropout=0))),
    "dora": run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=4, alpha=8, dropout=0, weight_decomposed=True)),
}
"""Specs of weights whose export depends on them."""


@pytest.fixture(scope="module")
def weights_of(exported_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Weights]:
    """Makes random weights of a method, large enough to change every answer, and saves them as its runs do."""
    made: dict[str, Weights] = {}

    def make(name: str) -> Weights:
        if name not in made:
            method, folder = METHODS[name], tmp_path_factory.mktemp(name)
            plan = Plan(
                BaseModel(exported_base, "example/tiny"),
                data_plan(folder / "none"),
                method,
                optimization(),
                work=folder,
                artifact=folder / "artifact",
            )
            adapted, _ = adapt(plan, load(plan, CPU), CPU)
            generator = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for parameter in adapted.parameters():
                    if parameter.requires_grad and parameter.is_floating_point():
                        noise = torch.randn(parameter.shape, generator=generator) * 0.1
                        parameter.add_(noise.to(parameter.dtype))
            tokenizer = load_tokenizer(exported_base)
            with atomic_folder(plan.artifact, {}) as draft:
                method.save(adapted, draft, base=plan.base, tokenizer=tokenizer, dtype=torch.bfloat16)
            task = worker_pb2.Task(folders=worker_pb2.TaskFolders(artifact_dir=str(folder)))
            seal(artifact_pb2.Artifact(name="jobs/j/artifacts/artifact", kind=method.artifact), task)
            made[name] = Weights("export", plan.artifact, method.artifact, spec=SPECS.get(name))
        return made[name]

    return make


@pytest.fixture
def plan_of(exported_base: Path, weights_of: Callable[[str], Weights], tmp_path: Path) -> Callable[..., ExportPlan]:
    def make(name: str, kind: Any = TRANSFORMERS, weight_type: Any = None, **more: Any) -> ExportPlan:
        base = BaseModel(exported_base, "example/tiny")
        settings: dict[str, Any] = {"max_prompts": 3, "max_new_tokens": 4} | more
        return ExportPlan("projects/p/jobs/j", base, weights_of(name), kind, weight_type, tmp_path / "out", **settings)

    return make


def run(plan: ExportPlan) -> tuple[export_pb2.ExportReport, artifact_pb2.Artifact]:
    recorder = Recorder()
    export(plan, recorder, recorder)
    (report,), (ready,) = recorder.of(export_pb2.ExportReport), recorder.of(event_pb2.ArtifactReady)
    return report, ready.artifact


def compared(report: export_pb2.ExportReport) -> dict[Any, export_pb2.LogitComparison]:
    return {each.model: each for each in report.comparisons}


def unmerged(plan: ExportPlan) -> Any:
    """The trained model as peft computes it, in float32."""
    return trained.load(
        load_model(plan.weights.model_folder(plan.base.folder), torch.float32, device=CPU), plan.weights
    )


def difference(left: Any, right: Any) -> float:
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        return float((left(tokens).logits - right(tokens).logits).abs().max())


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "nf4", "full"])
def test_merged_weights_compute_what_the_adapter_computed(name, plan_of):
    plan = plan_of(name, weight_type=WeightType.F32)
    report, artifact = run(plan)
    read: Any = AutoModelForCausalLM.from_pretrained
    assert difference(read(plan.artifact, dtype=torch.float32).eval(), unmerged(plan).eval()) < 1e-4
    found = compared(report)
    assert found[TRAINED].largest_difference < 1e-4
    assert found[TRAINED].equal_answers == report.prompts == 3
    assert report.merged is report.HasField("merge_difference") is (name != "full")
    assert report.merge_difference < 1e-4
    assert (artifact.kind, artifact.format) == (artifact_pb2.ARTIFACT_KIND_MODEL, TRANSFORMERS)
    assert (QUANTIZED in found) is (name == "nf4")


def test_the_number_format_is_that_of_the_base_and_is_rounded_once(plan_of):
    plan = plan_of("lora")
    report, _ = run(plan)
    assert report.weight_type == artifact_pb2.WEIGHT_TYPE_BF16
    exact, written = plan_of("lora", weight_type=WeightType.F32), load_model(plan.artifact, torch.bfloat16, device=CPU)
    run(replace(exact, artifact=exact.artifact.with_name("exact")))
    merged = load_model(exact.artifact.with_name("exact"), torch.float32, device=CPU).state_dict()
    for name, tensor in written.state_dict().items():
        assert torch.equal(tensor, merged[name].to(torch.bfloat16)), name
    found = compared(report)
    assert found[ROUNDED].largest_difference <= found[ROUNDED].allowed_difference
    assert 1e-4 < found[TRAINED].largest_difference <= found[TRAINED].allowed_difference
    assert report.merge_difference < 1e-4
    changed = report.prompts - found[TRAINED].equal_answers
    said = [remark.message for remark in report.remarks if remark.code == "ROUNDING_CHANGES_ANSWERS"]
    assert bool(said) is bool(changed)


def test_a_folder_is_loaded_in_the_number_format_that_it_has(plan_of):
    """Servers and dtype="auto" go by config.json: with float32 there, 16 bits would take the memory of 32."""
    plan = plan_of("lora")
    run(plan)
    read: Any = AutoModelForCausalLM.from_pretrained
    assert read(plan.artifact, dtype="auto").dtype == torch.bfloat16
    config = json.loads((plan.artifact / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"


def test_the_quantized_base_is_compared_too(plan_of):
    report, _ = run(plan_of("nf4", weight_type=WeightType.F32))
    found = compared(report)
    # NF4 changes the weights much more than float32 rounds them.
    assert found[QUANTIZED].largest_difference > 1000 * found[TRAINED].largest_difference
    assert not found[QUANTIZED].HasField("allowed_difference")
    assert "TRAINED_ON_QUANTIZED_BASE" in [remark.code for remark in report.remarks]


@pytest.mark.parametrize("weight_type", [WeightType.F16, WeightType.BF16, WeightType.Q8_0])
def test_a_gguf_file_answers_as_the_trained_model(weight_type, plan_of):
    plan = plan_of("dora", GGUF, weight_type)
    report, artifact = run(plan)
    assert {file.path for file in report.files} == {f"model-{weight_type}.gguf", "Modelfile", "README.md"}
    assert (artifact.kind, artifact.format) == (artifact_pb2.ARTIFACT_KIND_GGUF, GGUF)
    found = compared(report)
    assert found[ROUNDED].largest_difference <= 1e-4
    assert found[ROUNDED].equal_answers == report.prompts
    programs = [command.program for command in report.load_commands]
    assert serving_pb2.SERVING_TARGET_LLAMA_CPP in programs
    assert "FROM ./model-" in (plan.artifact / "Modelfile").read_text(encoding="utf-8")
    card = ModelCard((plan.artifact / "README.md").read_text(encoding="utf-8"))
    assert (card.data.library_name, card.data.base_model, card.data.tags[-1]) == ("gguf", "example/tiny", "gguf")
    assert all(command.command.strip() in card.content for command in report.load_commands)
    assert str(plan.artifact) not in card.content
    assert artifact.base.family == "llama"


@pytest.mark.parametrize("name", ["lora", "rslora", "nf4"])
def test_a_gguf_adapter_adds_what_the_adapter_adds(name, plan_of):
    report, artifact = run(plan_of(name, GGUF_LORA, WeightType.F32))
    assert compared(report)[TRAINED].largest_difference < 1e-4
    assert (report.merged, artifact.kind) == (False, artifact_pb2.ARTIFACT_KIND_GGUF)


@pytest.mark.parametrize(
    ("name", "kind", "reason", "said"),
    [
        ("prefix", TRANSFORMERS, "NOT_MERGEABLE", "keys and values beside the tokens"),
        ("houlsby", GGUF, "NOT_MERGEABLE", "stands a ReLU"),
        ("dora", GGUF_LORA, "EXPORT_FORMAT_UNSUPPORTED", "DoRA's magnitudes"),
        ("full", GGUF_LORA, "EXPORT_FORMAT_UNSUPPORTED", "no LoRA adapter"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_its_reason(name, kind, reason, said, plan_of):
    plan = plan_of(name, kind, WeightType.F32)
    with pytest.raises(TaskError, match=said) as raised:
        run(plan)
    assert raised.value.reason == reason
    assert list(plan.artifact.parent.iterdir()) == []


def test_a_file_that_answers_otherwise_is_not_published(plan_of, monkeypatch):
    # The most common fault of converters: rows of q and k in the order of the other program.
    monkeypatch.setattr(architectures, "paired", lambda rows, _: rows)
    plan, recorder = plan_of("lora", GGUF, WeightType.F16), Recorder()
    with pytest.raises(TaskError, match="does not answer") as raised:
        export(plan, recorder, recorder)
    assert raised.value.reason == "EXPORT_DIFFERS"
    (report,) = recorder.of(export_pb2.ExportReport)
    found = compared(report)[ROUNDED]
    assert found.largest_difference > found.allowed_difference
    assert recorder.of(event_pb2.ArtifactReady) == []
    assert list(plan.artifact.parent.iterdir()) == []


def test_a_wrong_scale_does_not_hide_in_the_rounding(plan_of, monkeypatch):
    """What bfloat16 explains is larger than what a scale that is 1.5 % too small makes."""

    def scaled(adapted: Any, on_fraction: Any) -> Any:
        for module in adapted.modules():
            if isinstance(module, BaseTunerLayer):
                module.scale_layer(0.985)
        return merge(adapted, on_fraction)

    monkeypatch.setattr("finetree_worker.export.run.merge", scaled)
    plan, recorder = plan_of("lora"), Recorder()
    with pytest.raises(TaskError, match="before any rounding") as raised:
        export(plan, recorder, recorder)
    assert raised.value.reason == "EXPORT_DIFFERS"
    (report,) = recorder.of(export_pb2.ExportReport)
    found = compared(report)[TRAINED]
    assert found.largest_difference <= found.allowed_difference
    assert list(plan.artifact.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "finer"), [("BF16", "f16 or f32"), ("F16", "f32"), ("Q8_0", "f16 or f32"), ("F32", "")]
)
def test_answers_that_rounding_changes_are_remarked_with_what_rounds_less(kind, finer):
    kind = artifact_pb2.WeightType.Value(f"WEIGHT_TYPE_{kind}")
    report = export_pb2.ExportReport(weight_type=kind, prompts=3)
    _remark_rounding(report, others=0)
    assert not report.remarks
    _remark_rounding(report, others=1)
    assert [remark.code for remark in report.remarks] == ["ROUNDING_CHANGES_ANSWERS"] * bool(finer)
    assert all("answers 1 of 3 prompts otherwise" in remark.message for remark in report.remarks)
    assert all(f"in {finer} keep more" in remark.message for remark in report.remarks)


def test_rows_are_asked_and_their_answers_counted(plan_of, tmp_path):
    rows = [{"prompt": f"say {i}", "completion": "never said"} for i in range(5)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    more = {"rows": RowSource(file), "prompt_source": export_pb2.PROMPT_SOURCE_REQUEST, "max_prompts": 4}
    report, _ = run(replace(plan_of("lora", GGUF, WeightType.F16, **more), artifact=tmp_path / "a"))
    assert (report.prompts, report.prompt_source) == (4, export_pb2.PROMPT_SOURCE_REQUEST)
    assert (report.exact_match_before, report.exact_match_after) == (0.0, 0.0)
    assert report.HasField("exact_match_before")


@pytest.mark.parametrize("phase", [job_pb2.JOB_PHASE_MERGE, job_pb2.JOB_PHASE_EXPORT, job_pb2.JOB_PHASE_VERIFY])
def test_a_cancel_in_any_phase_leaves_nothing(phase, plan_of):
    class Cancelling(Recorder):
        def emit(self, payload: Any, **options: Any) -> None:
            super().emit(payload, **options)
            if isinstance(payload, event_pb2.PhaseProgress) and payload.phase == phase:
                self.asked = Signal.CANCEL

    plan, recorder = plan_of("lora", GGUF, WeightType.F16), Cancelling()
    with pytest.raises(Cancelled):
        export(plan, recorder, recorder)
    assert list(plan.artifact.parent.iterdir()) == []

# SPDX-License-Identifier: Apache-2.0
"""Every setting of a task is honoured or refused by name."""

from pathlib import Path

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_runtime.runspec.conflicts import combination_problem
from finetree_worker import plan
from finetree_worker.errors import PlanError
from finetree_worker.plan_from_task import train_plan


@pytest.fixture
def task(tmp_path):
    training = training_pb2.Training(
        epochs=2,
        learning_rate=5e-4,
        effective_batch_size=4,
        micro_batch_size=2,
        sequence_length=128,
        warmup_ratio=0,
        seed=7,
    )
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=4, alpha=32, dropout=0), training=training)
    return worker_pb2.Task(
        kind=job_pb2.TASK_KIND_TRAIN,
        attempt=3,
        spec=spec,
        work_dir=str(tmp_path / "work"),
        checkpoint_dir=str(tmp_path / "checkpoints"),
        artifact_dir=str(tmp_path / "artifacts"),
        model_dir="/models/m",
        dataset_file="/data/d",
        device="cuda:1",
        threads=2,
        base_hub_id="hub/base",
        base_hub_revision="main",
        plan_digest="sha256:1",
        token_cache_dir="/cache",
        token_cache_bytes=99,
    )


def test_what_is_stated_is_taken_zeros_included(task, tmp_path):
    made = train_plan(task)
    assert made.method == plan.LoraMethod(rank=4, alpha=32.0, dropout=0.0)
    assert made.base == plan.BaseModel(Path("/models/m"), "hub/base", "main")
    chosen = made.optimization
    assert (chosen.learning_rate, chosen.batch_size, chosen.micro_batch_size, chosen.sequence_length) == (
        5e-4,
        4,
        2,
        128,
    )
    assert (chosen.epochs, chosen.max_steps, chosen.warmup_ratio, chosen.seed) == (2.0, None, 0.0, 7)
    assert (made.device, made.threads, made.plan_digest) == ("cuda", 2, "sha256:1")
    assert made.checkpoints_dir == tmp_path / "checkpoints"
    assert made.artifact == tmp_path / "artifacts" / "adapter"
    assert made.work == tmp_path / "work"
    assert (made.token_cache, made.token_cache_bytes) == (Path("/cache"), 99)


def test_what_is_left_out_has_the_cores_default(task):
    task.spec.training.ClearField("warmup_ratio")
    task.spec.lora.Clear()
    made = train_plan(task)
    assert made.method == plan.LoraMethod()
    assert made.optimization.warmup_ratio == 0.03


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("lora.target_modules", ["q_proj"], lambda p: p.method.modules == ("q_proj",)),
        ("lora.targets", method_pb2.TARGET_PRESET_MLP, lambda p: p.method.targets is plan.Targets.MLP),
        ("lora.rank_stabilized", True, lambda p: p.method.rank_stabilized),
        ("lora.weight_decomposed", True, lambda p: p.method.weight_decomposed),
        ("training.schedule", training_pb2.SCHEDULE_LINEAR, lambda p: p.optimization.schedule is plan.Schedule.LINEAR),
        ("training.packing", training_pb2.PACKING_OFF, lambda p: p.optimization.packing is False),
        ("training.loss_tokens", training_pb2.LOSS_TOKENS_ALL, lambda p: p.optimization.loss_on is plan.LossOn.ALL),
        ("training.max_steps", 9, lambda p: (p.optimization.max_steps, p.optimization.epochs) == (9, None)),
        ("training.weight_decay", 0.1, lambda p: p.optimization.weight_decay == 0.1),
        ("training.max_grad_norm", 0.0, lambda p: p.optimization.max_grad_norm == 0.0),
        ("precision", training_pb2.PRECISION_FP32, lambda p: p.optimization.precision is plan.Precision.FP32),
        ("optimizer", training_pb2.OPTIMIZER_SGD, lambda p: p.optimization.optimizer is plan.OptimizerName.SGD),
        (
            "gradient_checkpointing",
            training_pb2.GRADIENT_CHECKPOINTING_FULL,
            lambda p: p.optimization.gradient_checkpointing,
        ),
        ("attention", training_pb2.ATTENTION_KERNEL_EAGER, lambda p: p.optimization.attention is plan.Attention.EAGER),
        ("evaluation.split_fraction", 0.1, lambda p: p.evaluation.split_fraction == 0.1),
        (
            "evaluation.metrics",
            [training_pb2.METRIC_EXACT_MATCH],
            lambda p: p.evaluation.metrics == (plan.Metric.EXACT_MATCH,),
        ),
        ("evaluation.samples", 2, lambda p: p.evaluation.samples == 2),
        ("evaluation.before_training", True, lambda p: p.evaluation.before_training),
        ("evaluation.every_steps", 5, lambda p: p.evaluation.every_steps == 5),
        ("evaluation.early_stopping_patience", 3, lambda p: p.evaluation.early_stopping_patience == 3),
        ("evaluation.early_stopping_min_delta", 0.5, lambda p: p.evaluation.early_stopping_min_delta == 0.5),
        (
            "evaluation.best_by",
            training_pb2.METRIC_TOKEN_ACCURACY,
            lambda p: p.evaluation.best_by is plan.Metric.TOKEN_ACCURACY,
        ),
        ("training.non_finite_limit", 2, lambda p: p.optimization.non_finite_limit == 2),
        ("checkpoints.every_steps", 5, lambda p: p.checkpoints.every_steps == 5),
        ("checkpoints.keep", 4, lambda p: p.checkpoints.keep == 4),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_setting_reaches_the_plan(task, field, value, place):
    assert not place(train_plan(task)), "the default differs, so the check below can fail"
    set_field(task.spec, field, value)
    assert place(train_plan(task))


def test_the_best_checkpoint_is_kept_where_evaluations_tell_it(task):
    task.spec.checkpoints.keep_best = True
    task.spec.evaluation.every_steps = 5
    task.spec.evaluation.split_fraction = 0.1
    assert train_plan(task).checkpoints == plan.CheckpointPlan(keep_best=True)
    task.spec.evaluation.ClearField("split_fraction")
    task.evaluation_file = "held-out.jsonl"
    assert train_plan(task).checkpoints.keep_best


@pytest.mark.parametrize("missing", ["every_steps", "split_fraction"])
def test_keeping_the_best_of_no_evaluations_is_refused_as_by_the_trainer(task, missing):
    task.evaluation_file = ""
    task.spec.checkpoints.keep_best = True
    task.spec.evaluation.every_steps = 5
    task.spec.evaluation.split_fraction = 0.1
    task.spec.evaluation.ClearField(missing)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == ("KEEP_BEST_WITHOUT_EVALUATION", "checkpoints.keep_best")


def set_field(spec, field, value):
    *parents, name = field.split(".")
    for parent in parents:
        spec = getattr(spec, parent)
    if isinstance(value, list):
        getattr(spec, name).extend(value)
    else:
        setattr(spec, name, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", training_pb2.OPTIMIZER_ADAFACTOR),
        ("attention", training_pb2.ATTENTION_KERNEL_FLASH),
        ("gradient_checkpointing", training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED),
        ("loss_kernel", training_pb2.LOSS_KERNEL_FUSED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_core_cannot_do_is_refused(task, field, value):
    set_field(task.spec, field, value)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == ("UNSUPPORTED_SETTING", field)


def test_an_enum_value_from_a_newer_contract_is_refused(task):
    task.spec.optimizer = 99
    with pytest.raises(PlanError, match="optimizer 99"):
        train_plan(task)


def test_qlora_is_lora_on_a_quantised_base(task, tmp_path):
    task.spec.qlora.lora.rank = 16
    made = train_plan(task)
    assert made.method == plan.QloraMethod(plan.LoraMethod(rank=16), plan.Quantization.NF4, double_quantization=True)
    assert made.artifact == tmp_path / "artifacts" / "adapter"
    task.spec.qlora.quantization = method_pb2.QUANTIZATION_INT8
    task.spec.qlora.double_quantization = False
    assert train_plan(task).method == plan.QloraMethod(
        plan.LoraMethod(rank=16), plan.Quantization.INT8, double_quantization=False
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("qlora.quantization", method_pb2.QUANTIZATION_GPTQ_INT4), ("qlora.lora.include_experts", True)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_qlora_cannot_do_is_refused(task, field, value):
    set_field(task.spec, field, value)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == ("UNSUPPORTED_SETTING", field)


def test_adapters_of_experts_are_taken_and_go_without_dropout(task):
    task.spec.lora.ClearField("dropout")
    task.spec.lora.include_experts = True
    assert (train_plan(task).method.experts, train_plan(task).method.dropout) == (True, 0.0)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("weight_decomposed", True, "EXPERTS_WITH_DORA"), ("dropout", 0.1, "EXPERTS_WITH_DROPOUT")],
    ids=["dora", "dropout"],
)
def test_adapters_of_experts_are_refused_as_everywhere(task, field, value, reason):
    task.spec.lora.include_experts = True
    task.spec.lora.dropout = 0.0
    set_field(task.spec.lora, field, value)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == (reason, f"lora.{field}")
    problem = combination_problem(task.spec)
    assert (problem.reason, problem.field_path) == (reason, f"lora.{field}")


def test_a_prefix_is_as_the_spec_says(task):
    task.spec.prefix.virtual_tokens = 7
    task.spec.prefix.init_text = "Answer."
    assert train_plan(task).method == plan.PrefixMethod(7, plan.PrefixInit.TEXT, "Answer.")
    task.spec.prefix.init = method_pb2.PREFIX_INIT_ZERO
    assert train_plan(task).method.init is plan.PrefixInit.ZERO


def test_a_prefix_with_checkpointing_is_refused_as_everywhere(task):
    task.spec.prefix.SetInParent()
    task.spec.gradient_checkpointing = training_pb2.GRADIENT_CHECKPOINTING_FULL
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == ("PREFIX_WITH_CHECKPOINTING", "gradient_checkpointing")


def test_adapter_layers_are_as_the_spec_says(task, tmp_path):
    task.spec.adapter.SetInParent()
    made = train_plan(task)
    assert made.method == plan.AdapterMethod(64, plan.Placement.PFEIFFER)
    assert made.artifact == tmp_path / "artifacts" / "adapter"
    task.spec.adapter.bottleneck_size = 8
    task.spec.adapter.placement = method_pb2.ADAPTER_PLACEMENT_HOULSBY
    assert train_plan(task).method == plan.AdapterMethod(8, plan.Placement.HOULSBY)


def test_full_makes_a_model(task, tmp_path):
    task.spec.full.frozen_layers = 3
    made = train_plan(task)
    assert made.method == plan.FullMethod(3)
    assert made.artifact == tmp_path / "artifacts" / "model"


@pytest.mark.parametrize(
    "field", ["learning_rate", "effective_batch_size", "micro_batch_size", "sequence_length", "epochs"]
)
def test_a_spec_that_is_not_resolved_is_refused(task, field):
    task.spec.training.ClearField(field)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert refused.value.reason == "UNRESOLVED_SPEC"


def test_a_held_out_file_excludes_a_split(task):
    task.spec.evaluation.split_fraction = 0.2
    task.evaluation_file = "/data/e"
    made = train_plan(task)
    assert (made.evaluation.dataset, made.evaluation.split_fraction) == (Path("/data/e"), 0.0)


def test_an_artifact_of_another_attempt_is_never_in_the_way(task, tmp_path):
    (tmp_path / "artifacts" / "adapter").mkdir(parents=True)
    assert train_plan(task).artifact == tmp_path / "artifacts" / "adapter-3"

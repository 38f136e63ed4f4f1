# SPDX-License-Identifier: Apache-2.0
"""Every setting of a task is honoured or refused by name."""

from pathlib import Path

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_data_pb2, training_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_runtime.runspec.conflicts import combination_problem
from finetree_worker import plan
from finetree_worker.errors import PlanError
from finetree_worker.methods.adapter import Adapter, AdapterPlacement
from finetree_worker.methods.full import Full
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.prefix import Prefix, PrefixInit
from finetree_worker.methods.qlora import Qlora, Quantization
from finetree_worker.methods.targets import Targets
from finetree_worker.plan import Sharding
from finetree_worker.plan_from_task import prepare_plan, train_plan
from google.type import money_pb2


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
        job="projects/p/jobs/j",
        attempt=3,
        train=job_pb2.TrainTask(spec=spec),
        placements=[job_pb2.Placement(node="node-1", device_ids=["cuda:1"])],
        threads=2,
        folders=worker_pb2.TaskFolders(
            work_dir=str(tmp_path / "work"),
            checkpoint_dir=str(tmp_path / "checkpoints"),
            artifact_dir=str(tmp_path / "artifacts"),
            token_cache_dir="/cache",
            token_cache_bytes=99,
        ),
        base=worker_pb2.TaskBaseModel(model_dir="/models/m", hub_id="hub/base", hub_revision="main"),
        dataset_file="/data/d",
        plan_digest="sha256:1",
        hourly_price=money_pb2.Money(units=1, nanos=500_000_000, currency_code="EUR"),
    )


def test_what_is_stated_is_taken_zeros_included(task, tmp_path):
    made = train_plan(task)
    assert made.method == Lora(rank=4, alpha=32.0, dropout=0.0)
    assert made.base == plan.BaseModel(Path("/models/m"), "hub/base", "main")
    chosen = made.optimization
    assert (chosen.learning_rate, chosen.batch_size, chosen.micro_batch_size) == (5e-4, 4, 2)
    assert (chosen.epochs, chosen.max_steps, chosen.warmup_ratio, chosen.seed) == (2.0, None, 0.0, 7)
    assert (made.data.sequence_length, made.data.split_seed) == (128, 7)
    assert (made.device, made.threads, made.plan_digest) == ("cuda", 2, "sha256:1")
    assert (made.job, made.attempt, made.price) == ("projects/p/jobs/j", 3, plan.Price(1.5, "EUR"))
    assert list(made.placements) == list(task.placements)
    assert made.checkpoints_dir == tmp_path / "checkpoints"
    assert made.artifact == tmp_path / "artifacts" / "adapter"
    assert made.work == made.data.scratch == tmp_path / "work"
    assert (made.data.token_cache, made.data.token_cache_bytes) == (Path("/cache"), 99)


def test_what_is_left_out_has_its_default(task):
    task.train.spec.training.ClearField("warmup_ratio")
    task.train.spec.lora.Clear()
    task.ClearField("hourly_price")
    made = train_plan(task)
    assert made.method == Lora()
    assert (made.optimization.warmup_ratio, made.price) == (0.1, None)
    assert made.evaluation == plan.EvaluationPlan()
    assert made.checkpoints == plan.CheckpointPlan()


def test_the_scale_of_adapters_is_twice_their_rank_where_it_is_left_out(task):
    task.train.spec.lora.ClearField("alpha")
    assert train_plan(task).method.alpha == 8.0


def test_a_machine_without_an_accelerator_is_a_cpu(task):
    task.placements[0].device_ids[:] = ["cpu"]
    assert train_plan(task).device == "cpu"


def test_each_gpu_of_the_placement_is_a_rank(task):
    task.threads = 8
    task.placements[0].device_ids[:] = ["cuda:2", "cuda:0"]
    plan = train_plan(task)
    assert (plan.device, plan.ranks, plan.device_ids, plan.threads) == ("cuda", 2, ("cuda:2", "cuda:0"), 8)
    assert plan.sharding is Sharding.REPLICATED


def test_processes_on_a_cpu_share_its_threads_and_change_no_numbers(task):
    task.threads = 7
    task.placements[0].device_ids[:] = ["cpu"]
    one = train_plan(task)
    task.train.spec.hardware.count = 3
    task.train.spec.hardware.sharding = hardware_pb2.SHARDING_FULL
    plan = train_plan(task)
    assert (plan.device, plan.ranks, plan.device_ids, plan.threads) == ("cpu", 3, (), 2)
    assert plan.sharding is Sharding.FULL
    assert plan.numerics_hash() == one.numerics_hash()


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        ({"sharding": hardware_pb2.SHARDING_OPTIMIZER}, "hardware.sharding", "SHARDING_FULL"),
        ({"sharding": hardware_pb2.SHARDING_GRADIENTS}, "hardware.sharding", "SHARDING_FULL"),
        ({"nodes": 2}, "hardware.nodes", "unset"),
        ({"optimizer": training_pb2.OPTIMIZER_ADAMW_8BIT}, "optimizer", "OPTIMIZER_ADAMW"),
        ({"optimizer": training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT}, "optimizer", "OPTIMIZER_ADAMW"),
        ({"qlora": method_pb2.QUANTIZATION_INT8}, "hardware.sharding", "SHARDING_REPLICATED"),
    ],
)
def test_what_several_devices_cannot_do_is_refused_by_name(task, change, field, remedy):
    task.placements[0].device_ids[:] = ["cpu"]
    spec = task.train.spec
    spec.hardware.count, spec.hardware.sharding = 2, change.get("sharding", hardware_pb2.SHARDING_FULL)
    spec.hardware.nodes, spec.optimizer = change.get("nodes", 1), change.get("optimizer", training_pb2.OPTIMIZER_ADAMW)
    if "qlora" in change:
        spec.qlora.quantization = change["qlora"]
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == ("SETTING_NOT_SUPPORTED", field)
    assert remedy in refused.value.remedy


@pytest.fixture
def preparing(task):
    task.prepare.SetInParent()
    return task


def test_a_report_cuts_nothing_where_no_length_is_asked_for(preparing, tmp_path):
    made = prepare_plan(preparing)
    assert made.base == plan.BaseModel(Path("/models/m"), "hub/base", "main")
    assert (made.model_origin, made.job) == ("", "projects/p/jobs/j")
    assert made.artifact == tmp_path / "artifacts" / "preview"
    assert made.data == plan.DataPlan(
        Path("/data/d"), tmp_path / "work", token_cache=Path("/cache"), token_cache_bytes=99
    )
    assert made.data.sequence_length == plan.UNLIMITED


def test_a_report_is_as_it_was_asked_for(preparing):
    asked = preparing.prepare
    asked.sequence_length, asked.split_fraction, asked.seed = 64, 0.25, 5
    asked.loss_tokens = training_pb2.LOSS_TOKENS_ALL
    asked.dataset.reading.bad_rows = training_data_pb2.BAD_ROWS_SKIP
    data = prepare_plan(preparing).data
    assert (data.sequence_length, data.split_fraction, data.split_seed) == (64, 0.25, 5)
    assert (data.loss_on, data.reading.skip_bad_rows) == (plan.LossOn.ALL, True)
    preparing.evaluation_file = "/data/e"
    assert prepare_plan(preparing).data.held_out == Path("/data/e")
    assert prepare_plan(preparing).data.split_fraction == 0.0


def test_a_report_made_as_the_run_will_be_makes_the_tokens_of_the_run(task):
    training = task.train.spec.training
    training.append_eos, training.loss_tokens = False, training_pb2.LOSS_TOKENS_ALL
    task.train.spec.dataset.reading.columns.text = "body"
    run = train_plan(task).data
    task.prepare.CopyFrom(
        job_pb2.PrepareTask(
            dataset=task.train.spec.dataset, loss_tokens=training.loss_tokens, append_eos=training.append_eos
        )
    )
    report = prepare_plan(task).data
    # With file and tokenizer, all that the digest of cached tokens is made of.
    assert (report.train, report.reading, report.loss_on) == (run.train, run.reading, run.loss_on)
    assert report.append_eos is run.append_eos is False


def test_a_model_or_rows_may_be_prepared_alone(preparing):
    preparing.base.Clear()
    assert prepare_plan(preparing).base is None
    preparing.base.origin, preparing.dataset_file = "hub:a/b@main", ""
    made = prepare_plan(preparing)
    assert (made.model_origin, made.data) == ("hub:a/b@main", None)
    assert made.base is not None


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("lora.target_modules", ["q_proj"], lambda p: p.method.modules == ("q_proj",)),
        ("lora.targets", method_pb2.TARGET_PRESET_MLP, lambda p: p.method.targets is Targets.MLP),
        ("lora.rank_stabilized", True, lambda p: p.method.rank_stabilized),
        ("lora.weight_decomposed", True, lambda p: p.method.weight_decomposed),
        ("training.schedule", training_pb2.SCHEDULE_LINEAR, lambda p: p.optimization.schedule is plan.Schedule.LINEAR),
        ("training.packing", training_pb2.PACKING_OFF, lambda p: p.optimization.packing is False),
        ("training.loss_tokens", training_pb2.LOSS_TOKENS_ALL, lambda p: p.data.loss_on is plan.LossOn.ALL),
        ("training.max_steps", 9, lambda p: (p.optimization.max_steps, p.optimization.epochs) == (9, None)),
        ("training.weight_decay", 0.1, lambda p: p.optimization.weight_decay == 0.1),
        ("training.max_grad_norm", 0.0, lambda p: p.optimization.max_grad_norm == 0.0),
        ("precision", training_pb2.PRECISION_FP32, lambda p: p.optimization.precision is plan.Precision.FP32),
        ("optimizer", training_pb2.OPTIMIZER_SGD, lambda p: p.optimization.optimizer is plan.OptimizerName.SGD),
        (
            "gradient_checkpointing",
            training_pb2.GRADIENT_CHECKPOINTING_FULL,
            lambda p: p.optimization.gradient_checkpointing is plan.Checkpointing.FULL,
        ),
        pytest.param(
            "gradient_checkpointing",
            training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED,
            lambda p: p.optimization.gradient_checkpointing is plan.Checkpointing.OFFLOADED,
            id="gradient_checkpointing-offloaded",
        ),
        ("attention", training_pb2.ATTENTION_KERNEL_EAGER, lambda p: p.optimization.attention is plan.Attention.EAGER),
        ("evaluation.split_fraction", 0.1, lambda p: p.data.split_fraction == 0.1),
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
    set_field(task.train.spec, field, value)
    assert place(train_plan(task))


def test_the_best_checkpoint_is_kept_where_evaluations_tell_it(task):
    task.train.spec.checkpoints.keep_best = True
    task.train.spec.evaluation.every_steps = 5
    task.train.spec.evaluation.split_fraction = 0.1
    assert train_plan(task).checkpoints == plan.CheckpointPlan(keep_best=True)
    task.train.spec.evaluation.ClearField("split_fraction")
    task.evaluation_file = "held-out.jsonl"
    assert train_plan(task).checkpoints.keep_best


@pytest.mark.parametrize("missing", ["every_steps", "split_fraction"])
def test_keeping_the_best_of_no_evaluations_is_refused_as_by_the_trainer(task, missing):
    task.evaluation_file = ""
    task.train.spec.checkpoints.keep_best = True
    task.train.spec.evaluation.every_steps = 5
    task.train.spec.evaluation.split_fraction = 0.1
    task.train.spec.evaluation.ClearField(missing)
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
        ("loss_kernel", training_pb2.LOSS_KERNEL_FUSED),
        ("program.program", training_pb2.TRAINING_PROGRAM_LITGPT),
        ("optimizer_in_backward", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_core_cannot_do_is_refused(task, field, value):
    set_field(task.train.spec, field, value)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == ("SETTING_NOT_SUPPORTED", field)


def test_an_enum_value_from_a_newer_contract_is_refused(task):
    task.train.spec.optimizer = 99
    with pytest.raises(PlanError, match="optimizer 99"):
        train_plan(task)


def test_qlora_is_lora_on_a_quantized_base(task, tmp_path):
    task.train.spec.qlora.lora.rank = 16
    made = train_plan(task)
    assert made.method == Qlora(Lora(rank=16, alpha=32.0), Quantization.NF4, double_quantization=True)
    assert made.artifact == tmp_path / "artifacts" / "adapter"
    task.train.spec.qlora.quantization = method_pb2.QUANTIZATION_INT8
    task.train.spec.qlora.double_quantization = False
    assert train_plan(task).method == Qlora(Lora(rank=16, alpha=32.0), Quantization.INT8, double_quantization=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("qlora.quantization", method_pb2.QUANTIZATION_GPTQ_INT4),
        ("qlora.lora.include_experts", True),
        ("qlora.lora.train_embeddings", True),
        ("qlora.lora.train_head", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_qlora_cannot_do_is_refused(task, field, value):
    set_field(task.train.spec, field, value)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == ("SETTING_NOT_SUPPORTED", field)


@pytest.mark.parametrize("name", ["train_embeddings", "train_head"])
def test_embeddings_and_head_stay_frozen_beside_adapters(task, name):
    setattr(task.train.spec.lora, name, True)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == ("SETTING_NOT_SUPPORTED", f"lora.{name}")


def test_adapters_of_experts_are_taken_and_go_without_dropout(task):
    task.train.spec.lora.ClearField("dropout")
    task.train.spec.lora.include_experts = True
    assert (train_plan(task).method.experts, train_plan(task).method.dropout) == (True, 0.0)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("weight_decomposed", True, "EXPERTS_WITH_DORA"), ("dropout", 0.1, "EXPERTS_WITH_DROPOUT")],
    ids=["dora", "dropout"],
)
def test_adapters_of_experts_are_refused_as_everywhere(task, field, value, reason):
    task.train.spec.lora.include_experts = True
    task.train.spec.lora.dropout = 0.0
    set_field(task.train.spec.lora, field, value)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == (reason, f"lora.{field}")
    problem = combination_problem(task.train.spec)
    assert (problem.reason, problem.field_path) == (reason, f"lora.{field}")


def test_a_prefix_is_as_the_spec_says(task):
    task.train.spec.prefix.virtual_tokens = 7
    task.train.spec.prefix.init_text = "Answer."
    assert train_plan(task).method == Prefix(7, PrefixInit.TEXT, "Answer.")
    task.train.spec.prefix.init = method_pb2.PREFIX_INIT_ZERO
    assert train_plan(task).method.init is PrefixInit.ZERO


def test_a_prefix_with_checkpointing_is_refused_as_everywhere(task):
    task.train.spec.prefix.SetInParent()
    task.train.spec.gradient_checkpointing = training_pb2.GRADIENT_CHECKPOINTING_FULL
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert (refused.value.reason, refused.value.field) == ("PREFIX_WITH_CHECKPOINTING", "gradient_checkpointing")


def test_adapter_layers_are_as_the_spec_says(task, tmp_path):
    task.train.spec.adapter.SetInParent()
    made = train_plan(task)
    assert made.method == Adapter(64, AdapterPlacement.PFEIFFER)
    assert made.artifact == tmp_path / "artifacts" / "adapter"
    task.train.spec.adapter.bottleneck_size = 8
    task.train.spec.adapter.placement = method_pb2.ADAPTER_PLACEMENT_HOULSBY
    assert train_plan(task).method == Adapter(8, AdapterPlacement.HOULSBY)


def test_full_makes_a_model(task, tmp_path):
    task.train.spec.full.frozen_layers = 3
    made = train_plan(task)
    assert made.method == Full(3)
    assert made.artifact == tmp_path / "artifacts" / "model"


@pytest.mark.parametrize(
    "field", ["learning_rate", "effective_batch_size", "micro_batch_size", "sequence_length", "epochs"]
)
def test_a_spec_that_is_not_resolved_is_refused(task, field):
    task.train.spec.training.ClearField(field)
    with pytest.raises(PlanError) as refused:
        train_plan(task)
    assert refused.value.reason == "UNRESOLVED_SPEC"


def test_a_held_out_file_excludes_a_split(task):
    task.train.spec.evaluation.split_fraction = 0.2
    task.evaluation_file = "/data/e"
    made = train_plan(task)
    assert (made.data.held_out, made.data.split_fraction) == (Path("/data/e"), 0.0)


def test_an_artifact_of_another_attempt_is_never_in_the_way(task, tmp_path):
    (tmp_path / "artifacts" / "adapter").mkdir(parents=True)
    assert train_plan(task).artifact == tmp_path / "artifacts" / "adapter-3"

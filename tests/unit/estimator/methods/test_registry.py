# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.types.v1 import model_pb2, run_spec_pb2
from finetree_estimator.catalog.models import model
from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.registry import METHODS
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.spec.method import READERS, read_method
from finetree_runtime.runspec.resolve import resolve_spec

LLAMA = model("llama-3.2-3b").shape
SMOL = model("smollm2-135m-instruct").shape


@pytest.mark.parametrize(
    ("shape", "method", "parameters"),
    [
        # As PEFT's method comparison reports them for Llama-3.2-3B.
        (LLAMA, Lora(32, PRESETS["query-value"]), 9_175_040),
        (LLAMA, Lora(64, PRESETS["query-value"]), 18_350_080),
        (LLAMA, Lora(10, PRESETS["mlp"]), 9_461_760),
        (LLAMA, Prefix(200), 11_468_800),
        (LLAMA, Prefix(50), 2_867_200),
        # By hand: 30 layers x 8 x (1152 + 768 + 768 + 1152 + 3 x 2112).
        (SMOL, Lora(8, PRESETS["all-linear"]), 2_442_240),
        (SMOL, Qlora.of(Lora(8, PRESETS["all-linear"])), 2_442_240),
        (SMOL, Full(), 134_515_008),
        # By hand: 30 layers x (2 x 576 x 64 + 64 + 576).
        (SMOL, Adapter(64), 2_231_040),
        (SMOL, Adapter(64, places=2), 4_462_080),
    ],
)
def test_trainable_parameters_are_exact(shape, method, parameters):
    assert method.trainable_parameters(shape) == parameters


def test_every_method_of_the_contract_is_known_and_read():
    fields = [field.name for field in run_spec_pb2.RunSpec.DESCRIPTOR.oneofs_by_name["method"].fields]

    assert list(METHODS) == list(READERS) == fields


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_read_with_its_defaults(name):
    spec = resolve_spec(run_spec_pb2.RunSpec(model=model_pb2.ModelSource(name="llama-3.2-3b"), **{name: {}})).spec

    assert type(read_method(spec, LLAMA)) is METHODS[name]

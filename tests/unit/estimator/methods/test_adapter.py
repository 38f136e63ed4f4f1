# SPDX-License-Identifier: Apache-2.0
from finetree_estimator.methods.adapter import Adapter


def test_an_adapter_keeps_its_input_and_both_sides_of_its_narrow_tensor(make_run):
    one, two = (make_run(method=Adapter(64, places)) for places in (1, 2))

    assert one.method.saved_inputs(one) == 2 * (3072 + 2 * 64)
    assert two.method.saved_inputs(two) == 2 * one.method.saved_inputs(one)


def test_an_adapter_computes_six_flops_a_parameter_and_two_more_where_it_is_computed_again(make_run):
    plain, again = (make_run(method=Adapter(64), checkpointing=on) for on in (False, True))
    trained = plain.trainable_parameters

    assert plain.method.adapter_flops(plain) == 6 * trained
    assert again.method.adapter_flops(again) == 8 * trained

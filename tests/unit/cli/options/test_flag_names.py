# SPDX-License-Identifier: Apache-2.0
"""Which option of a command sets a field."""

import click
import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_cli.app import cli
from finetree_cli.options.flag_names import FLAGS, LISTS, flag_of, in_flags


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("path", "name", "flag"),
    [
        ("spec.hardware.count", "estimate", "--devices"),
        ("run.spec.hardware.count", "check", "--devices"),
        ("training.micro_batch_size", "estimate", "--micro-batch"),
        ("training.micro_batch_size", "recommend", ""),
        ("dataset_profile.examples", "recommend", "--examples"),
        ("training.schedule", "estimate", ""),
    ],
)
def test_a_path_is_the_option_that_the_command_has(path, name, flag):
    assert flag_of(path, command(name)) == flag


def test_paths_in_a_text_become_options_and_other_words_stay():
    text = "raise spec.hardware.count, or training.schedule; see docs.example.com. Or give dataset_profile.examples."
    assert in_flags(text, command("estimate")) == (
        "raise --devices, or training.schedule; see docs.example.com. Or give --examples."
    )


def test_a_model_that_no_catalog_has_is_a_folder_of_the_commands_that_name_one():
    text = "no model 'x'; ListModels lists all, model.shape accepts any"
    named = in_flags(text, command("recommend"))
    assert named.endswith("catalog` lists all, --model ./FOLDER takes any that has a config.json")
    assert in_flags(text, command("check")).endswith("model.shape accepts any")


def test_a_field_in_backticks_becomes_an_option_and_the_same_word_without_stays():
    text = "a model needs `model` to run: state `ownership` or the ownership"
    assert in_flags(text, command("recommend")) == "a model needs --model to run: state --price or the ownership"


@pytest.mark.parametrize("words", LISTS.values())
def test_the_command_that_lists_what_an_rpc_does_exists(words):
    names = words.strip("`").split()[1:]
    found: click.Command | None = cli
    while names and isinstance(found, click.Group):
        found = found.get_command(click.Context(found), names.pop(0))
    assert found is not None
    options = {option for parameter in found.params for option in parameter.opts}
    assert options.issuperset(word for word in names if word.startswith("--"))


def fields(descriptor, depth=4):
    for field in descriptor.fields:
        yield field.name
        if field.message_type is not None and not field.is_repeated and depth:
            yield from (f"{field.name}.{rest}" for rest in fields(field.message_type, depth - 1))


def test_every_path_is_a_field_and_every_option_is_one_of_a_command():
    known = {"method"} | {
        path
        for message in (run_spec_pb2.RunSpec, estimate_pb2.EstimateRunRequest, recommendation_pb2.RecommendRequest)
        for path in fields(message.DESCRIPTOR)
    }
    options = {
        word
        for name in ("estimate", "check", "recommend")
        for parameter in command(name).params
        for word in parameter.opts
    }
    assert not set(FLAGS) - known
    assert not {flag for flags in FLAGS.values() for flag in flags} - options

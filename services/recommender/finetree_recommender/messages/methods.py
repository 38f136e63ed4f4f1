# SPDX-License-Identifier: Apache-2.0
"""Methods as the contract's enum, and back."""

from finetree_api.types.v1 import method_pb2

from finetree_recommender.method import Method


def number(method: Method | None) -> method_pb2.Method.ValueType:
    """A method of the contract; unspecified for none."""
    return method_pb2.Method.Value(f"METHOD_{method}") if method is not None else method_pb2.METHOD_UNSPECIFIED


def method_of(value: method_pb2.Method.ValueType) -> Method:
    """The method that a number of the contract means."""
    return Method(method_pb2.Method.Name(value).removeprefix("METHOD_"))

# SPDX-License-Identifier: Apache-2.0
"""Conversion of methods to and from the contract's enum."""

from finetree_api.types.v1 import method_pb2

from finetree_recommender.method import Method


def number(method: Method | None) -> method_pb2.Method.ValueType:
    """Convert a method to the contract; None is unspecified."""
    return method_pb2.Method.Value(f"METHOD_{method.value}") if method is not None else method_pb2.METHOD_UNSPECIFIED


def method_of(value: method_pb2.Method.ValueType) -> Method:
    """Convert a number of the contract to a method."""
    return Method(method_pb2.Method.Name(value).removeprefix("METHOD_"))

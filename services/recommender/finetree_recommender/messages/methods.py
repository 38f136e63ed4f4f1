# SPDX-License-Identifier: Apache-2.0
"""Methods as the contract's enum, and back."""

from finetree_api.recommender.v1 import recommender_pb2 as rec

from finetree_recommender.method import Method


def number(method: Method | None) -> rec.Method.ValueType:
    """A method of the contract; unspecified for none."""
    return rec.Method.Value(f"METHOD_{method}") if method is not None else rec.METHOD_UNSPECIFIED


def method_of(value: rec.Method.ValueType) -> Method:
    """The method that a number of the contract means."""
    return Method(rec.Method.Name(value).removeprefix("METHOD_"))

# SPDX-License-Identifier: Apache-2.0
"""The estimator's catalog as text."""

from finetree_api.estimator.v1 import catalog_pb2
from finetree_cli.output import Output
from finetree_cli.render.estimator import catalog


def test_gpus_that_cannot_be_trained_on_yet_say_so_in_the_list(capsys):
    found = [
        catalog_pb2.Accelerator(
            name="apple-m9", architecture="Apple silicon", unsupported="Apple's GPUs are not supported yet"
        ),
        catalog_pb2.Accelerator(name="t4", architecture="Turing", marketed_memory_gb=16, usable_bytes=15 << 30),
    ]
    catalog.show_accelerators(Output(), found)
    apple, turing = (line.split() for line in capsys.readouterr().out.splitlines() if "apple" in line or "t4" in line)

    assert " ".join(apple) == "apple-m9 Apple silicon - not supported yet - - -"
    assert " ".join(turing) == "t4 Turing 16 GB 15.00 GiB - no -"

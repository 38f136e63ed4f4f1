# SPDX-License-Identifier: Apache-2.0
"""The table in docs/forking.md is that of the committed result, in which nothing hung, crashed or failed."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "benchmarks/sdk"))

import fork_matrix  # noqa: E402 - from the folder above

RESULTS = json.loads((ROOT / "benchmarks/results/sdk/fork_matrix.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/forking.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_result():
    shown = re.search(r"<!-- benchmarks/sdk/fork_matrix\.py -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert shown is not None
    assert shown[1] == fork_matrix.table(RESULTS)
    assert f"grpcio {RESULTS['machine']['grpcio']}" in PAGE


def test_the_result_is_whole_and_as_required():
    assert RESULTS["met"]
    assert {(each["state"], each["setting"]) for each in RESULTS["cells"]} == {
        (state, setting) for state in fork_matrix.forking.STATES for setting in fork_matrix.SETTINGS
    }
    for each in RESULTS["cells"]:
        assert each["children"] == each["answered"] + each["refused"] == 100
        assert fork_matrix.must_refuse(each["state"], each["setting"]) == (each["refused"] == 100)

# SPDX-License-Identifier: Apache-2.0
import torch
from finetree_worker.training import matrix_rate


def test_a_rate_is_measured_with_the_threads_asked_for_and_the_others_are_given_back(monkeypatch):
    monkeypatch.setattr(matrix_rate, "SECONDS", 0.01)
    before = torch.get_num_threads()
    assert matrix_rate.rate_of(torch.float32, 1) > 1e8
    assert torch.get_num_threads() == before

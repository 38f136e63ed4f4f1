# SPDX-License-Identifier: Apache-2.0
"""Who holds what of a machine, as text."""

from finetree_api.trainer.v1 import capacity_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_cli.output import Output
from finetree_cli.render.trainer.capacity import could_start, host, show_capacity

GIB = 1 << 30
JOB = "projects/default/jobs/0198aaaa-bbbb"


def test_memory_slots_and_processors_are_shown_with_who_holds_them(capsys):
    memory = capacity_pb2.MemoryUse(
        total_bytes=64 * GIB,
        free_bytes=40 * GIB,
        used_by_us_bytes=5 * GIB,
        used_by_others_bytes=19 * GIB,
        promised_bytes=3 * GIB,
        available_bytes=36 * GIB,
        jobs=[capacity_pb2.JobMemory(job=JOB, promised_bytes=8 * GIB, used_bytes=5 * GIB)],
    )
    cpu = capacity_pb2.Device(id="cpu", total_bytes=64 * GIB, memory=memory, slots=2, free_slots=1, threads_per_slot=4)
    cpu.slot_uses.add(slot=0, job=JOB, processors=[0, 1, 2, 3])
    cpu.slot_uses.add(slot=1, processors=[4, 5, 6, 7])
    use = capacity_pb2.ProcessorUse(cores=8, used_by_us=3.5, used_by_others=1.2, load_average=5.0)
    broken = capacity_pb2.Device(id="cuda:0", fault="the driver reported XID 79", slots=1)
    node = capacity_pb2.Node(name="here", devices=[broken, cpu], processors=use)
    show_capacity(Output(), capacity_pb2.GetCapacityResponse(nodes=[node]))
    shown = capsys.readouterr().out
    for part in (
        "a job of at most 36.00 GiB and 4 threads could start now",
        "taken out: the driver reported XID 79",
        "promised 8.00 GiB, uses 5.00 GiB",
        "processors 4, 5, 6, 7: free",
        "8 cores, 3.5 used by the trainer and its jobs, 1.2 by others, load 5.0",
    ):
        assert part in shown
    cpu.free_slots = 0
    assert could_start(cpu) == "no slot is free"


def test_types_of_nodes_that_may_come_are_shown_with_how_many_are_there(capsys):
    gpu = capacity_pb2.Device(id="gpu0", hardware=hardware_pb2.Hardware(accelerator="a100-80gb"))
    cpu = capacity_pb2.Device(id="cpu", hardware=hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=8)))
    types = [
        capacity_pb2.NodeType(name="gpu", devices=[gpu, gpu, cpu], present=1, requested=2, maximum=4),
        capacity_pb2.NodeType(name="small", devices=[cpu], maximum=1),
    ]
    show_capacity(Output(), capacity_pb2.GetCapacityResponse(node_types=types))
    shown = capsys.readouterr().out
    assert "Nodes of type gpu (2 a100-80gb, cpu): 1 of at most 4, 2 asked for" in shown
    assert "Nodes of type small (cpu): 0 of at most 1\n" in shown


def test_rates_of_a_processor_are_shown_by_layout():
    rates = hardware_pb2.MatrixRates(
        bf16_flops_per_second=2.2e10, bf16_backward_flops_per_second=9e8, fp32_flops_per_second=9.6e10
    )
    shown = host(capacity_pb2.Node(cpu_name="some CPU", matrix_rates=rates))
    assert shown == "some CPU, bf16 22 GFLOP/s (backward 0.9 GFLOP/s), fp32 96 GFLOP/s"
    assert host(capacity_pb2.Node()) == "CPU, matrix rate not measured yet"

# SPDX-License-Identifier: Apache-2.0
"""A log of bounded size: what is kept, at which offsets, and what a reader sees while it is written."""

import pytest
from finetree_data.exchange import log_file
from finetree_data.exchange.log_file import LogFile

NAME = "job.log"


@pytest.fixture
def log(tmp_path):
    made = LogFile(tmp_path, NAME, segment_bytes=100, newest=2)
    yield made
    made.close()


def everything(folder, offset=0, limit=1000):
    found = []
    while (piece := log_file.read(folder, NAME, offset, limit=limit))[1]:
        found.append(piece)
        offset = piece[0] + len(piece[1])
    return found


def test_the_first_and_the_newest_bytes_are_kept_at_their_offsets(log, tmp_path):
    written = ""
    for number in range(50):
        log.write(f"line {number:04d}")
        written += f"line {number:04d}\n"
    pieces = everything(tmp_path)
    assert all(data.decode() == written[start : start + len(data)] for start, data in pieces)
    assert pieces[0] == (0, written[:100].encode())
    assert written.endswith(b"".join(data for _, data in pieces[1:]).decode())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 300
    assert [segment.start for segment in log_file.segments(tmp_path, NAME)] == [0, 300, 400]


@pytest.mark.parametrize("limit", [10, 25, 99, 1000])
def test_pieces_hold_whole_lines(log, tmp_path, limit):
    for number in range(9):
        log.write(f"line {number:04d}")
    pieces = everything(tmp_path, limit=limit)
    assert all(data.endswith(b"\n") and len(data) <= limit for _, data in pieces)
    assert b"".join(data for _, data in pieces).count(b"\n") == 9


def test_a_line_that_is_being_written_waits_for_its_end(log, tmp_path):
    log.write("whole")
    with (tmp_path / NAME).open("ab") as stream:
        stream.write(b"half")
    assert log_file.read(tmp_path, NAME, 0, limit=1000) == (0, b"whole\n")
    assert log_file.read(tmp_path, NAME, 6, limit=1000) == (6, b"")
    assert log_file.read(tmp_path, NAME, 6, limit=1000, whole_lines=False) == (6, b"half")


def test_the_newest_lines_are_found_up_to_the_gap(log, tmp_path):
    assert log_file.start_of_last(tmp_path, NAME, 3) == 0
    for number in range(50):
        log.write(f"line {number:04d}")
    for lines, wanted in ((0, 500), (1, 490), (3, 470), (15, 350), (20, 300), (21, 300), (1000, 300)):
        assert log_file.start_of_last(tmp_path, NAME, lines) == wanted, lines
    assert log_file.start_of_last(tmp_path / "nowhere", NAME, 5) == 0


def test_long_lines_are_cut_and_traces_are_lines(log, tmp_path):
    log.write("a\nb")
    log.write("ü" * log_file.MAX_LINE_BYTES)
    log.write("odd \udcff")
    first, second, cut, odd = b"".join(data for _, data in everything(tmp_path, limit=10**6)).decode().splitlines()
    assert (first, second, odd) == ("a", "b", "odd ?")
    assert cut == "ü" * (log_file.MAX_LINE_BYTES // 2) + f" … {log_file.MAX_LINE_BYTES} bytes more"


def test_a_writer_goes_on_where_one_before_it_was(tmp_path):
    for number in range(3):
        log = LogFile(tmp_path, NAME, segment_bytes=25, newest=5)
        log.write(f"line {number:04d}")
        log.write(f"line {number:04d}")
        log.close()
    pieces = everything(tmp_path)
    assert pieces[-1][0] + len(pieces[-1][1]) == 60
    assert [segment.start for segment in log_file.segments(tmp_path, NAME)] == [0, 20, 40]

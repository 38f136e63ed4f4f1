# SPDX-License-Identifier: Apache-2.0
"""While a wheel's model is converted, its file is parsed once."""

import gguf as gguf_files
import pytest
from finetree_worker.models import gguf


def test_a_file_and_a_map_of_names_are_read_once_and_forgotten_afterwards(tmp_path):
    file = tmp_path / "tiny.gguf"
    writer = gguf_files.GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read, names = gguf_files.GGUFReader, gguf_files.get_tensor_name_map
    with gguf._parsed_once():
        first = gguf_files.GGUFReader(str(file))
        assert gguf_files.GGUFReader(str(file)) is first
        assert first.fields["llama.block_count"].contents() == 2
        map_of_two = gguf_files.get_tensor_name_map(gguf_files.MODEL_ARCH.LLAMA, 2)
        assert gguf_files.get_tensor_name_map(gguf_files.MODEL_ARCH.LLAMA, 2) is map_of_two
        assert gguf_files.get_tensor_name_map(gguf_files.MODEL_ARCH.LLAMA, 3) is not map_of_two
    assert (gguf_files.GGUFReader, gguf_files.get_tensor_name_map) == (read, names)


def test_what_was_replaced_is_put_back_after_a_failure():
    read = gguf_files.GGUFReader
    with pytest.raises(ValueError, match="cut off"), gguf._parsed_once():
        raise ValueError("cut off")
    assert gguf_files.GGUFReader is read

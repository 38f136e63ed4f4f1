# SPDX-License-Identifier: Apache-2.0
"""The peer's side of data_speed.py: TRL's SFTTrainer prepares a file of chats, as it does before it trains.

    python data_speed_peer.py SETTINGS.json

Runs in the peer's own environment and imports nothing of this project. Speaks as pacing.py says. A round loads the file
with `datasets` into a folder of its own and maps it as the trainer's constructor does; the trainer and its tiny model
are made before. Caches of earlier rounds are off, progress bars too.
"""

import tempfile
import warnings
from typing import Any

from pacing import Pacer, peak_bytes, settings

IGNORED = -100  # label of a token that is not learned


def trainer(asked: dict[str, Any], tokenizer: Any) -> Any:
    """TRL's trainer with a model that takes no time, and one row."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    arguments = SFTConfig(
        output_dir=asked["work"],
        assistant_only_loss=asked["job"] == "completions",
        max_length=None,
        packing=False,
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    rows = Dataset.from_list([{"messages": turns}])
    return SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)


def prepared(made: Any, tokenizer: Any, path: str, folder: str) -> Any:
    """The file's rows, tokenized."""
    from datasets import load_dataset

    rows = load_dataset("json", data_files=path, split="train", cache_dir=folder)
    return made._prepare_dataset(rows, tokenizer, made.args, packing=False, formatting_func=None, dataset_name="train")


def main() -> None:
    """Prepare the file once a round."""
    warnings.filterwarnings("ignore")
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_caching()
    datasets.disable_progress_bars()
    asked = settings()
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    tokenizer.chat_template = asked["template"]
    made = trainer(asked, tokenizer)
    pacer = Pacer()
    pacer.ready()
    for _ in range(asked["rounds"]):
        with tempfile.TemporaryDirectory(dir=asked["work"]) as folder:
            rows = prepared(made, tokenizer, asked["rows"], folder)
            # Counted from Arrow's columns, which costs next to nothing.
            columns = rows.with_format("arrow")[:]
            tokens = len(columns["input_ids"].combine_chunks().values)
            learned = tokens
            if "labels" in columns.column_names:
                learned = int((columns["labels"].combine_chunks().values.to_numpy() != IGNORED).sum())
            pacer.step(tokens=tokens, loss=learned)
    pacer.tell("done", peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()

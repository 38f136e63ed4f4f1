# SPDX-License-Identifier: Apache-2.0
"""Every number of the formulas that is not a shape, a setting or a catalog entry, each with its source.

"Fitted" means: least error on the single-GPU LoRA rows of the published measurements (IBM sweeps read through NVML, and
PEFT's method comparison); tests/unit/estimator/accuracy/test_measurements.py recomputes the error.
"""

from finetree_estimator.intervals import Kind, Source

MEMORY_FORMULAS = Source(Kind.COMPUTED, "memory-formulas")
"""Counted by shape and number format; kept for the backward pass by Korthikanti et al. 2022, the QLoRA paper, PEFT."""
MEMORY_FIT = Source(Kind.PUBLISHED, "fine-tuning-benches", "memory", date="2026-07")
"""Single-GPU LoRA rows of IBM's LLMFineTuningBench (subset in Kavier's repository) and of PEFT's method comparison."""
TIME_FORMULAS = Source(Kind.COMPUTED, "flops-by-method")
"""LoRA 4N, full 6N, 2N more with checkpointing, per token."""
TIME_FIT = Source(Kind.PUBLISHED, "fine-tuning-benches", "speed", date="2026-07")
"""Single-GPU rows of IBM's LLMFineTuningBench and of PEFT's method comparison on A100, H100 PCIe and L40S."""
CPU_CONSTANTS = Source(Kind.MEASURED, "finetree-worker", "SmolLM2-135M on a CPU", date="2026-11")
"""Measured on one machine with one model (see CPU_ELEMENTWISE and CPU_REPACK), hence the wide intervals."""

# ------------------------------------------------------------------------------------------------- memory, in bytes

NORMALIZER_BYTES = 4
"""Bytes per token and head of the softmax's normalizer that a fused attention kernel keeps, in float32."""
LOGITS_BYTES = {2: 14.0, 4: 16.0}
"""Bytes per logit at the loss peak, by those of a logit: the logits, which the model's output holds, log-softmax, and
the float32 gradients of its output and its input (2 + 4 + 4 + 4; 4 + 4 + 4 + 4). A traced step of transformers' Llama
gives 14.0 in 16 bits; published peaks over lengths of two sources with float32 logits rise by 16.0 and 16.3."""
NATIVE_LOGITS_COPIES = 4
"""Copies of the logits at the loss peak where the loss is computed in their own type: they themselves, log-softmax, and
the gradients of its output and input."""
SCORE_GRADIENT_BYTES = 8
"""Bytes per attention score while a plain softmax is differentiated, beside what is kept: float32 gradients of its
output and its input."""
COMPILED_LOGITS_BYTES = 10.0
"""Bytes per logit at the peak of a compiled loss, which keeps no log-softmax: float32 logits, their gradient in float32
and in 16 bits."""
COMPILED_CHUNK_BYTES = 2.0
"""Bytes per logit of chunks that are kept for a compiled loss, and of the gradient of the one at work: 16 bits each."""
CHUNKED_LOGITS_BYTES = 4.0
"""Bytes per logit where a chunked loss keeps the chunks all the same: 16-bit logits and log-softmax (LitGPT,
torchtune)."""
CHUNK_TOKENS = 1024
"""Targets whose logits the worker's loss computes at once (the worker's constant)."""
FUSED_LOGITS_SHARE = 0.02
"""Share of the logits that a fused loss holds (Liger kernel: one block of rows)."""
FOREACH_COPIES = 1.0
"""Copies of the trained numbers that an unfused optimizer step makes for a moment: the root of the second moment
(torch's foreach implementation of AdamW)."""

FRAGMENTATION = 0.04
"""Share that the CUDA allocator holds beyond activations and transients. Fitted."""
STORED_FRAGMENTATION = 0.60
"""Share that the CUDA allocator holds beyond layer inputs that checkpointing keeps: they lie between blocks that come
and go, so that each pins more than its size. Fitted: granite-7b, llama-13b and llama3-8b give 0.56, 0.66 and 0.62 with
the traced sums."""
OWN_SEGMENT = 10 * 2**20
"""Bytes of a request from which on it has a segment of its own (c10/cuda/CUDACachingAllocator.cpp, kMinLargeAlloc)."""
SEGMENT_STEP = 2 * 2**20
"""Bytes that such segments are whole multiples of (kRoundLarge in that file): a row longer by less takes no other."""
RENEWED_LOGITS_BYTES = {2: 12.0, 4: 16.0}
"""Bytes per logit, by those of a logit, that a longest row so far takes anew at the loss: its float32 tensors. The
16-bit logits find room in the float32 blocks of the row before."""
RENEWED_LOGITS = 0.95
"""Share of RENEWED_LOGITS_BYTES that is taken anew. Fitted on the replay, whose steps with recomputed layers give 0.88
to 1.10."""
RENEWED_ACTIVATIONS = 0.7
"""Bytes of blocks of shorter rows' activations that are left over, in units of what they keep and of the logarithm of
the sum of records. Fitted on the replay: 0.7 in the mean with rows of 2,048 and of 8,192 tokens."""
DRAW = 0.85
"""Share of the mean over all orders of rows that is taken for what one order leaves over: it errs least in proportion.
0.83 to 0.92 over simulated orders of 250 to 50,000 rows (gamma, uniform and lognormal lengths)."""
DRAW_SPREAD = (0.60, 1.05)
"""Half-widths (below, above) of what one order leaves over: nine in ten of those orders are inside."""
ALLOCATOR_REPLAY = Source(Kind.COMPUTED, "allocator-replay")
"""Traced steps of real classes, replayed on the rules of torch's caching allocator."""

FUSED_FRAGMENTATION = (0.20, 0.10)
"""Shares held beyond layer inputs and beyond transients where a fused loss asks for no large blocks, which must lie
beside what the forward pass left behind. Fitted on replays of the allocator's rules
(benchmarks/estimator/fused_fragments.py)."""
CUDA_WORKSPACE = 50e6
"""Bytes of cuBLAS workspaces and small buffers inside the allocator (8-32 MiB a handle and stream; torch's
documentation)."""
CUDA_CONTEXT = 1550e6
"""Bytes of driver context, kernels and libraries, outside the allocator, of a card built for HBM, and of one that is
not known (fitted: NVML shows 1.44-1.59 GiB over the weights)."""
CUDA_CONTEXTS = {"low-power": 0.2e9} | dict.fromkeys(("geforce", "laptop", "workstation", "inference"), 0.65e9)
"""Bytes of the context by what a smaller card is built for: 3.5 MiB for each multiprocessor of the largest of them (58
and 188). A context takes 0.14 GiB on a T4 of 40 (github:Anassbzdd/fitcheck, with kernels and libraries), 256 MiB on an
RTX 3090 of 82 (github:invoke-ai/InvokeAI issue 9413), and 426 MiB on an RTX 6000 Ada of 142
(github:unslothai/unsloth-zoo pull 1053). What a desktop shows on the same card is not in it."""
SETUP_COPIES = 2
"""Float32 copies of embeddings and head that exist while a model is sharded: the module's and the flat one (FSDP)."""
COLLECTIVES = 1.5e9
"""Bytes of the communication library's buffers on each device of several. Fitted on LoRA runs of 4 and 8 A100."""
COLLECTIVES_ACROSS = 2.0e9
"""Bytes that several machines add to COLLECTIVES. Fitted on LoRA runs of 2 x 8 A100."""
ZERO_GROUP = 1e9
"""Numbers of a shard that ZeRO-3 updates at once, and so needs float32 gradients of (DeepSpeed's sub_group_size)."""
GATHERED_LAYERS = 2
"""Layers whose weights are whole at once when they are sharded: the one at work and the one fetched ahead (FSDP)."""
ADAFACTOR_UPDATE = {2: 16.0, 4: 8.0}
"""Bytes per number of the largest tensor while Adafactor updates it, by those of a weight: gradient, weight, and the
gradient's square before and after a small number is added, all in float32; what is float32 already needs no copy
(transformers' Adafactor.step, which goes from tensor to tensor)."""
ADAFACTOR_SHARE = 0.01
"""Bytes per parameter of factored second moments: one row and one column per matrix (Shazeer and Stern 2018)."""
EIGHT_BIT_STATE = 2.05
"""Bytes per parameter of two 8-bit moments and their block constants (Dettmers et al. 2021)."""

SHORT_ROW_TOKENS = 256
"""Tokens of the longest row that attends by plain matrix products on a CPU (the worker's constant)."""
SHORT_ROW_SCORES_BYTES = 4
"""Bytes per attention score that rows of at most SHORT_ROW_TOKENS keep: float32 probabilities. Measured 3.6 with rows
of 256 against 40 tokens."""
HOST_RUNTIME = 2.5e9
"""Bytes of host memory of a CUDA process: the imports, the CUDA libraries and pinned buffers."""

GPU_SPREAD = (0.20, 0.20)
"""Half-widths (below, above) of what is not counted: activations, transients, runtime, fragmentation."""
DEVICES_SPREAD = 0.10
"""Half-width that several devices add: sharding libraries differ in what they gather ahead."""
WIDEST = 1.25
"""Upper end of a peak in units of its expected value, at most: beyond it an interval says nothing to act upon."""

# ----------------------------------------------------------------------------------------------------------- time
ATTENTION_BACKWARD = 2.5
"""Products of attention's backward pass in units of its forward pass: five against two (FlashAttention-2 paper)."""
ALIGNED_NUMBERS = 8
"""16-bit numbers of which rows of a matrix should have a multiple, since tensor cores read 16 bytes at once (NVIDIA's
guide to matrix multiplication, tensor core requirements)."""
UNALIGNED_FACTOR = 2.0
"""Time of products with rows of another length (GPT-2's vocabulary of 50,257, or one with a token added for padding),
in units of aligned ones: half of the width is read at once (own assumption). Products in float32 need no tensor
cores."""
GROUPED_HALF_RATE_WIDTH = 416
"""Width of an expert at which grouped products reach half of the dense products' rate: w / (w + 416) of it. A forward
pass of 32,768 tokens through 128 experts of width 768, eight of them used, takes 10.2 ms on an H100, and one through
512 of width 512, ten of them used, 11.4 ms (github:ByteDance-Seed/VeOmni pull 460, 2026-02): less what sorting and
activations move, 0.65 and 0.55 of 593 TFLOP/s. Groups of 7,168 x 7,168 reach 705 TFLOP/s on an H200, as single products
do (github:pytorch/pytorch pull 156203)."""
GROUP_TILE = 64
"""Rows of a tile of grouped products for groups of up to 128 rows, where tiles that are partly empty count (torch's
aten/src/ATen/native/cuda/GroupMM.cu, dispatch_bf16_grouped_kernel_on_tile_size; larger groups have tiles of 128)."""
GROUPED_CAPABILITIES = (9, 10)
"""Major compute capabilities that torch has a kernel for; on others each grouped product is a loop over the groups with
a wait for their bounds (_grouped_mm_cuda of its GroupedBlas.cpp, _grouped_mm_fallback of its GroupedMMUtils.h)."""
LOOPED_PRODUCT_SECONDS = 15e-6
"""Seconds of a step of that loop: an item, two slices, a selection and a product, five calls of 3 microseconds each
(own assumption)."""
ROUTING_CALLS = 0.5
"""Calls that routing and grouped experts add to a layer's pass, in units of a plain layer's: some twenty operations
(softmax, choice, sort, selection, counts, sums, order restored) beside some forty, less the MLP's (counted in
transformers' Qwen3MoeSparseMoeBlock and grouped_mm_experts_forward)."""
EAGER_SCORE_TRAFFIC = (24, 34)
"""Bytes moved per attention score forward and backward where no kernel fuses them, by transformers in 16 bits. Written
(2), scaled (4), masked (4), through a softmax in float32 (6) and back (6), read by the product with the values (2);
written (2), to float32 (6), the softmax's gradient (12), back (6), scaled (4), read twice (4)."""
AUTOCAST_SCORE_TRAFFIC = (32, 38)
"""Bytes moved per score by classes of one's own under autocast, which copies scores to float32 for the softmax, and
what it gives to 16 bits for the product: 2, 4, 4, copied (6), softmax (8), copied (6), 2; 2, 6, 12, 6, filled where
masked (4), 4, 4."""
FLOAT32_SCORE_TRAFFIC = (32, 36)
"""Bytes moved per score in float32: 4, 8, 8, 8, 4; 4, 12, 8, masks of either kind (4), 8."""
COMPILED_SCORE_TRAFFIC = (8, 12)
"""Bytes moved per score in 16 bits where scale, mask and softmax are one kernel: written, read, written, read; written,
read with the softmax's output, written, read twice."""
COMPILED_SHARE = 0.55
"""Share of adapters' traffic and of calls that compilation leaves (own assumption; the layers' own traffic is
counted)."""
BANDWIDTH_SHARE = 0.82
"""Share of a memory's bandwidth that a GPU's elementwise kernels reach. Fitted."""
LOSS_TRAFFIC = 50.0
"""Bytes moved per logit by a loss of transformers in 16 bits: to float32 (6), log-softmax (reads twice, writes: 12),
its gradient's zeros (4), the gradient through it (reads three times, writes: 16), back to 16 bits (6) are 44; the copy
of the shifted logits that releases until 4.45 made and its gradient are 20 more."""
COMPILED_LOSS_TRAFFIC = 8.0
"""Bytes moved per logit by a compiled loss: 16-bit logits read for the maximum and for the sum, read again, and their
gradient written."""
CACHE_SHARE = 0.12
"""Share of a device's L2 cache that tensors on their way from one kernel to the next may fill: weights and the tensors
beside them pass through it, too (own assumption; runs on an L40S find 9.5 MB in its 96, a tenth)."""
CACHED_TRAFFIC = 0.5
"""Share of elementwise traffic that a cache spares the memory where a tensor stays there between two kernels: what is
read, not what is written."""
GATHERS = 2
"""Times that sharded weights are gathered for a micro-batch: forward and backward."""
EXPOSED_TRAFFIC = 0.066
"""Share of the traffic between devices that computation does not hide. Fitted."""
PLAIN_LINK = 25e9
"""Bytes per second over PCIe 4 x16 in one direction, where no other link is known."""
NARROW_LINK = 3.2e9
"""Bytes per second where a plain board gives a card four lanes of PCIe 3 (31.5 Gbit/s, of which 80 % are reached)."""
NETWORK_GBITS = 100.0
"""Rate of the network of a machine in Gbit/s where its cards have plain slots (AWS g5.48xlarge, EC2's instance type
pages). Those of machines with NVLink: catalog/data/links.csv."""
NETWORK_SHARE = 0.85
"""Share of a network's rate that collectives reach: 340 of EFA v1's 400 Gbit/s (github:stas00/ml-engineering
network/README.md)."""
NETWORK_REACHED = 0.5
"""Share of its rate that a network whose rate is said passes at least (own assumption: TCP instead of RDMA)."""
SLOWEST_NETWORK = 0.125
"""Share of the usual rate that a network of which nothing is said passes at least: full training of Llama-3.1-8B takes
6.1 s for the 42 GB that two machines with A100 gather and reduce over TCP (IBM's sweeps: 669 tokens a second)."""
CPU_LAYER_OVERHEAD = 1.2e-3
"""Seconds of a layer's pass on a CPU that go into calls of some forty operators. Measured: 40 answers of SmolLM2-135M
take 0.133 s a token, of which the products take 0.06 s."""
CPU_EFFICIENCY = 0.9
"""Share of the measured matrix rate that a layer's own products reach (narrow key and value projections)."""
CPU_ELEMENTWISE = 0.45e9
"""Saved activations (numbers, not bytes) that a core works through per second and step outside of matrix products:
norms, softmax, dropout, gates. Measured on one core: SmolLM2-135M, rank 8, 2,040 tokens in rows of 40 take 8.06 s, of
which the matrix products take 5.3 s at 0.20 TFLOP/s."""
CPU_REPACK = 1.0e9
"""Weights per second that a core rearranges for a product, once per pass whatever the number of tokens. Measured: 240
tokens take 1.23 s, 0.3 s more than their products and activations, a third of it in calls."""
CPU_CORE_FP32_FLOPS = 40e9
"""FLOP/s in float32 of a core where none was measured: AVX2 at 2.5 GHz has a peak of 80 GFLOP/s."""
CPU_BANDWIDTH = 10e9
"""Bytes per second that an optimizer step moves on a CPU (two channels of DDR4 peak at 40 GB/s)."""
CPU_GATHERED = 0.4e9
"""Bytes per second that a process on a CPU gets from the others of its run when shards are gathered or reduced to
shards: 0.46e9 and 0.32e9 a second of processor time between two processes, 0.76e9 and 0.55e9 among four (gloo of torch
2.13 on an AMD EPYC, tensors of 64 MB)."""
CPU_REDUCED = 2.0e9
"""Bytes per second that it passes when gradients are summed that every process has whole: 2.26e9 and 2.07e9 there."""
CPU_CORE_WATTS = 12.0
CPU_BASE_WATTS = 30.0
"""Watts of a core under load, and of the rest of the machine (65-240 W for 4-16 cores)."""
OPTIMIZER_TRAFFIC = 7
"""Numbers moved per trained weight and step: read weight, gradient and two moments, write weight and moments."""
UNFUSED_OPTIMIZER_TRAFFIC = 20
"""Numbers moved per trained weight where each operation of AdamW goes over memory by itself: decay 2, first moment 3,
second 2 + 3, root 2, divide 2, add 2, update 4 (torch's foreach implementation)."""
ADAFACTOR_TRAFFIC = 18
"""Numbers moved per trained weight by Adafactor: squares 3, means of rows and columns 2, their product 1, times the
gradient 3, its size 1, limited 2, times the rate 2, decay and update 4 (torch's and transformers' implementations)."""
CLIPPING_TRAFFIC = 3
"""Numbers moved per trained weight by clipping, as all trainers do: the norm reads gradients, scaling reads and
writes."""
SLOWEST_HOST = 1.0
"""Time that a slow host adds to the calls of small kernels, in units of what they take: a single core decides, and
those of rented machines differ by a factor of two (own assumption)."""
IMPORT_SECONDS = 10.0
"""Seconds until the worker has started: importing torch, transformers and peft takes 9-12 s."""
DISK_BYTES_PER_SECOND = 0.5e9
"""Bytes per second of reading weights and writing checkpoints on a plain SSD."""
TOKENIZE_TOKENS_PER_SECOND = 200e3
"""Tokens per second of a Rust tokenizer on one core, chat template included."""
EVALUATION_TOKENS = 4096
"""Tokens of one forward pass of an evaluation (the worker's constant)."""
GENERATION_BATCH = 40
"""Questions that are answered at once (the worker's constant)."""
GENERATION_LAYER_OVERHEAD = 1.5e-3
"""Seconds of a layer's calls for a token that is generated, on a GPU. Fitted: PEFT's comparison takes 334 to 371 s for
1,319 answers of up to 300 tokens, 50 at once, with the 28 layers of Llama-3.2-3B."""
ANSWER_SPREAD = 1.5
"""Longest answer of a batch of questions, in units of the mean target: a batch ends with its last answer."""

KNOWN_RATE = (0.30, 0.25)
"""Half-widths (below, above) of the rate of an accelerator with published runs: the same run moves by 10-30 %."""
PRODUCTS_RATE = (0.40, 0.35)
"""Half-widths (below, above) of a rate that follows from the measured rate of products alone: on the accelerators that
have both, training reaches 0.84 to 0.90 of it below 300 TFLOP/s and 0.71 to 0.72 above."""
CLASS_RATE = (0.50, 0.50)
"""Half-widths (below, above) of a rate that is a typical share of the peak."""
UNKNOWN_RATE = (0.65, 1.0)
"""Half-widths (below, above) of a rate where only the memory class is known."""
CPU_RATE = (0.40, 0.60)
"""Half-widths (below, above) of the rate of a CPU whose matrix rate was measured: the other constants come from one
machine. Without a measurement UNKNOWN_RATE holds."""
SHORTEST_ROWS = 0.2
"""Share of the limit that unknown rows may have on average; it lowers the lower end of the time."""
PHASE_SPREAD = 0.5
"""Half-width of loading, tokenizing and saving, which depend on disk and core."""

"""What every cell needs, imported once in the process that the others are forked from."""

import gc
import logging
import os
import warnings

# Imports make nothing but what stays: a fifth of their time goes into looking for garbage.
gc.disable()
# A forked tokenizer that has used threads prints a warning and turns them off; cells use one process each anyway.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing is fetched but what the user names, and nothing is reported to anyone.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Asked whether there is a GPU, torch would set up CUDA, which no fork can use then.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
# bitsandbytes, which peft imports, tells that an optional package with faster kernels is not there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import transformers
import transformers.modeling_utils

import bench.run.cell  # noqa: F401

# peft 0.21 reads an attribute that transformers 5.23 calls deprecated.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
# It also warns of what the presets choose knowingly (one butterfly factor, norms that are no linear layers).
warnings.filterwarnings("ignore", module=r"peft\.")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
gc.freeze()  # a collection would touch, and so copy, the pages that forks share
gc.enable()

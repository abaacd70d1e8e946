"""What every cell needs, imported once in the fork server."""

import logging
import os
import warnings

# A forked tokenizer that has used threads prints a warning and turns them off; cells use one process each anyway.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing is fetched but what the user names, and nothing is reported to anyone.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# bitsandbytes, which peft imports, tells that an optional package with faster kernels is not there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import peft
import transformers

import bench.metric.classification
import bench.metric.hallucination
import bench.metric.overlap
import bench.metric.retrieval
import bench.metric.structured
import bench.metric.summary
import bench.run.cell  # noqa: F401

# peft 0.21 reads an attribute that transformers 5.23 calls deprecated.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
# It also warns of what the presets choose knowingly (one butterfly factor, norms that are no linear layers).
warnings.filterwarnings("ignore", module=r"peft\.")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
_ = peft

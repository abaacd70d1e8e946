"""How a model's weights come into memory: in which type, in how many bits, and with which adapters merged into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.errors import BenchError
from bench.model.source import Loading, ModelSource, Quantize


def kept_dtype(loading: Loading, device: torch.device) -> torch.dtype:
    """What weights are kept in. On a GPU by default bfloat16, also where the files hold float16: training in float16 needs loss scaling."""
    if loading.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[loading.dtype]
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def bits_of(source: ModelSource, quantize: Quantize) -> str:
    """What the linear layers are kept in: as a strategy asks for (`quantize`), or as the source is loaded anyhow.

    Raises `BenchError` where it cannot be kept so.
    """
    if reason := source.not_in_bits(quantize):
        raise BenchError(f"tuning.quantize: found {quantize} for model {source.name}: {reason}; expected none")
    return source.quantized if quantize == "none" else quantize


def bits_arguments(bits: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` is told to keep linear layers in NF4 (with the constants quantized too) or in 8 bits."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise BenchError(f"quantize: {bits} needs bitsandbytes; pip install bitsandbytes") from error
    from transformers import BitsAndBytesConfig

    if bits == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return {"quantization_config": config, "device_map": {"": device}}


def gguf_arguments(source: ModelSource) -> dict[str, Any]:
    """What ``from_pretrained`` is told to read a GGUF file into full precision; empty for any other source.

    Without being told, transformers would leave the weights packed where it finds kernels for that, and answer otherwise there.
    """
    if source.files is None or source.files.gguf is None:
        return {}
    from transformers import GgufConfig

    return {"gguf_file": source.files.gguf, "quantization_config": GgufConfig(dequantize=True)}


def train_after_answering(network: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first answer, after which lower adapters silently get no gradient.

    It does so on CPUs with avx512_bf16. Without the repacking a forward pass takes about twice the time.
    """
    from bitsandbytes.nn import Linear4bit

    for module in network.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def completed(network: Any, source: ModelSource) -> Any:
    """The network as the source means it: free of the mark of a GGUF file, and with the source's adapters merged into it.

    Raises ValueError where an adapter does not fit.
    """
    files = source.files
    if files is None:
        return network
    if files.gguf:
        network.hf_quantizer = None  # its weights are in full by now, and transformers would not save them with that mark
        network.name_or_path = str((files.folder / files.gguf).absolute())
    for folder in files.adapters:
        network = _merged(network, folder)
        network.name_or_path = str(folder.absolute())  # what peft writes into an adapter that is trained on top
    return network


def _merged(network: Any, folder: Path) -> Any:
    from peft import PeftModel

    try:
        merged = fold(PeftModel.from_pretrained(network, str(folder)))
    except (RuntimeError, AttributeError, NotImplementedError, TypeError, KeyError) as error:
        reason = " ".join((str(error).strip() or type(error).__name__).split())
        raise ValueError(f"the adapter {folder} cannot be merged into its base: {reason[:300]}") from error
    return merged.requires_grad_(False)


def fold(adapted: Any) -> Any:
    """A network of peft's with its active adapter folded into its weights: a plain network again.

    Raises what peft raises where it cannot, with `adapted` left as it was.
    """
    from peft.utils.other import ModulesToSaveWrapper

    # peft's merging expects a head to be one layer; so its trained copy takes its place before.
    base = adapted.get_base_model()
    heads = {name: m for name, m in base.named_modules() if isinstance(m, ModulesToSaveWrapper)}
    for name, head in heads.items():
        base.set_submodule(name, head.modules_to_save[adapted.active_adapter])
    try:
        return adapted.merge_and_unload()
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        for name, head in heads.items():
            base.set_submodule(name, head)
        raise

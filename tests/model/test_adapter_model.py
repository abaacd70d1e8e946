"""A folder with a peft adapter as the model: its base with the adapter merged into it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import BenchError
from bench.model.load import load_model
from bench.model.source import EMBEDDED_FOLDER, Loading, locate
from bench.strategy.adapters import save_adapter, wrap
from bench.strategy.spec import TuningChoice

IDS = torch.tensor([[5, 60, 700, 8, 9]])


def adapter(folder: Path, choice: TuningChoice, model: str = "embedded") -> torch.Tensor:
    """Make an adapter that changes answers; the logits with it."""
    loaded = load_model(locate(model))
    wrap(loaded, choice, 0, "Answer.")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        save_adapter(loaded, choice, folder)
        return logits(loaded)


def logits(model: Any) -> torch.Tensor:
    model.network.eval()
    with torch.no_grad():
        found: torch.Tensor = model.network(input_ids=IDS).logits
    return found


LORA = TuningChoice(method="lora", r=4)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    adapter(tmp_path / "lora", LORA)
    return tmp_path / "lora"


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "choice",
    [LORA, TuningChoice(method="lora", r=4, peft={"use_dora": True}), TuningChoice(method="peft", peft={"peft_type": "IA3"}),
     TuningChoice(method="peft", peft={"peft_type": "LN_TUNING"})],
    ids=["lora", "dora", "ia3", "norms"],
)  # fmt: skip
def test_an_adapter_is_merged_into_the_base_that_it_names(tmp_path: Path, choice: TuningChoice) -> None:
    wanted = adapter(tmp_path / "a", choice)
    source = locate(str(tmp_path / "a"))
    model = load_model(source)
    assert torch.allclose(logits(model), wanted, atol=1e-4)
    assert not torch.allclose(wanted, logits(load_model(locate("embedded"))), atol=1e-2)
    assert not hasattr(model.network, "peft_config")
    assert not any(p.requires_grad for p in model.network.parameters())
    assert source.tokenizer_fingerprint == locate("embedded").tokenizer_fingerprint


def test_the_fingerprint_is_of_base_and_adapter_and_not_of_paths(lora: Path, tmp_path: Path) -> None:
    own = locate(str(lora)).fingerprint
    assert own != locate("embedded").fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(lora, copy)
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "base")
    edit(copy, base_model_name_or_path=str(tmp_path / "base"), peft_version="9.9", inference_mode=False)
    assert locate(str(copy)).fingerprint == own
    edit(copy, lora_alpha=1)
    assert locate(str(copy)).fingerprint != own
    edit(copy, lora_alpha=16, base_model_name_or_path="/moved/elsewhere/bench/world/base_model")
    assert locate(str(copy)).folder == EMBEDDED_FOLDER


def test_an_adapter_on_top_of_an_adapter(lora: Path, tmp_path: Path) -> None:
    wanted = adapter(tmp_path / "second", LORA, str(lora))
    source = locate(str(tmp_path / "second"))
    assert source.files
    assert source.files.adapters == (lora, tmp_path / "second")
    assert torch.allclose(logits(load_model(source)), wanted, atol=1e-4)


def test_a_tokenizer_beside_the_adapter_is_taken(lora: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED_FOLDER / name, lora)
    (lora / "chat_template.jinja").write_text("{{ messages[0].content }}")
    model = load_model(locate(str(lora)))
    assert model.tokenizer.chat_template == "{{ messages[0].content }}"
    assert locate(str(lora)).tokenizer_fingerprint != locate("embedded").tokenizer_fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "of type PROMPT_TUNING, which peft cannot merge"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        (
            {"base_model_name_or_path": "/nowhere/at/all"},
            r"its base, as its adapter_config\.json names it, .*: no such folder",
        ),
    ],
)
def test_an_adapter_that_cannot_be_merged(lora: Path, changes: dict[str, Any], message: str) -> None:
    edit(lora, **changes)
    with pytest.raises(BenchError, match=message) as error:
        locate(str(lora))
    assert "\n" not in str(error.value)


def test_an_adapter_that_is_its_own_base(lora: Path) -> None:
    edit(lora, base_model_name_or_path=str(lora))
    with pytest.raises(BenchError, match="whose base is that adapter itself"):
        locate(str(lora))


def test_missing_and_pickled_weights(lora: Path) -> None:
    weights = lora / "adapter_model.safetensors"
    weights.rename(lora / "adapter_model.bin")
    with pytest.raises(BenchError, match=r"found adapter_model\.bin.*expected adapter_model\.safetensors \(pickled"):
        locate(str(lora))
    (lora / "adapter_model.bin").unlink()
    with pytest.raises(BenchError, match="found no weights"):
        locate(str(lora))


def test_weights_of_another_base_are_one_line(lora: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    small = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED_FOLDER / name, tmp_path / "small")
    edit(lora, base_model_name_or_path=str(tmp_path / "small"))
    with pytest.raises(BenchError, match="cannot be merged into its base") as error:
        load_model(locate(str(lora)))
    assert "\n" not in str(error.value)


def test_adapters_that_are_no_peft_ones_and_those_to_encoders_or_few_bits(lora: Path, tmp_path: Path) -> None:
    adapter(tmp_path / "houlsby", TuningChoice(method="bottleneck"))
    with pytest.raises(BenchError, match="is an adapter of method bottleneck"):
        locate(str(tmp_path / "houlsby"))
    with pytest.raises(BenchError, match=r"is an adapter, and merged.*found quantize nf4, expected none"):
        locate(str(lora), Loading(quantize="nf4"))
    edit(lora, base_model_name_or_path="all-MiniLM-L6-v2")
    with pytest.raises(BenchError, match="is an adapter to an encoder"):
        locate(str(lora))


def test_a_whole_model_beside_an_adapter_is_refused(lora: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(EMBEDDED_FOLDER / name, lora)
    with pytest.raises(BenchError, match=r"holds a whole model and an adapter"):
        locate(str(lora))

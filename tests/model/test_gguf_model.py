"""GGUF files, written with the format's own library from the embedded base."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.errors import BenchError
from bench.model.load import load_model
from bench.model.source import EMBEDDED_FOLDER, Loading, config_of, locate

F32, Q8 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0


def write(file: Path, kind: Any = F32, template: bool = True) -> Path:
    """The embedded base as a GGUF file, matrices in `kind`."""
    config = json.loads((EMBEDDED_FOLDER / "config.json").read_text())
    vocabulary = json.loads((EMBEDDED_FOLDER / "tokenizer.json").read_text())["model"]
    heads = config["num_attention_heads"]
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].__getitem__)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    if template:
        writer.add_chat_template((EMBEDDED_FOLDER / "chat_template.jinja").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(EMBEDDED_FOLDER / "model.safetensors").items():
        array = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # the format pairs the halves of a head's rotation otherwise
            rows, columns = array.shape
            array = array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        own = names.get_name(name, try_suffixes=(".weight",))
        if kind == F32 or array.ndim == 1:
            writer.add_tensor(own, np.ascontiguousarray(array))
        else:
            writer.add_tensor(own, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED_FOLDER / name, folder)
    return write(folder / "base.gguf")


def answers(model: Any) -> list[str]:
    asked = [f"What is the color of {name}?" for name in ("Zorba", "Vexlon", "Quilta", "Norvex", "Pelmo", "Drano")]
    prompts = model.prompts_ids([[{"role": "user", "content": text}] for text in asked])
    found = dict(pair for batch in model.generate(prompts, 6) for pair in batch)
    return [found[i].text for i in range(len(prompts))]


def test_a_file_in_full_precision_answers_as_the_model_that_it_was_made_of(file: Path, embedded: Any) -> None:
    source = locate(str(file))
    model = load_model(source)
    ids = torch.tensor([[5, 60, 700, 8, 9]])
    with torch.no_grad():
        assert torch.equal(model.network(ids).logits, embedded.network(ids).logits)
    assert answers(model) == answers(embedded)
    assert (source.kind, source.tokenizer_fingerprint) == ("causal", locate("embedded").tokenizer_fingerprint)
    assert config_of(str(file))[0]["hidden_size"] == 192
    assert [note.split(":")[1] for note in source.notes] == [" is read from a GGUF file into full precision"]


def test_a_folder_with_one_file_is_that_file(file: Path, tmp_path: Path) -> None:
    assert locate(str(file.parent)).fingerprint == locate(str(file)).fingerprint
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(BenchError, match=r"found 2 GGUF files, a\.gguf and others; expected the path of one"):
        locate(str(tmp_path))


def test_an_eight_bit_file_with_its_own_tokenizer(tmp_path: Path) -> None:
    source = locate(str(write(tmp_path / "small.gguf", Q8, template=False)))
    model = load_model(source)
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert model.prompt_ids([{"role": "user", "content": "red"}])
    assert any("no chat template" in note for note in source.notes)
    model.network.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_an_adapter_over_a_file_finds_it_again(file: Path, tmp_path: Path) -> None:
    from bench.strategy.adapters import save_adapter, wrap
    from bench.strategy.spec import TuningChoice

    choice = TuningChoice(method="lora", r=2)
    model = load_model(locate(str(file)))
    wrap(model, choice, 0)
    save_adapter(model, choice, tmp_path / "adapter")
    found = locate(str(tmp_path / "adapter")).files
    assert found
    assert (found.folder / str(found.gguf), found.adapters) == (file, (tmp_path / "adapter",))


def test_what_is_no_gguf_file_or_wants_few_bits(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"abcdefgh")
    with pytest.raises(BenchError, match="begins with b'abcd'; expected a GGUF file"):
        locate(str(broken))
    with pytest.raises(BenchError, match="is a GGUF file, which is read into full precision; found quantize int8, expected none"):
        locate(str(file), Loading(quantize="int8"))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:200])
    with pytest.raises(BenchError, match=r"cut.gguf: is no whole GGUF file .* was it cut off"):
        assert locate(str(cut)).notes
    with pytest.raises(BenchError) as error:
        load_model(locate(str(cut)))
    assert "\n" not in str(error.value)


def test_the_package_is_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.model.files.find_spec", lambda name: None)
    with pytest.raises(BenchError, match="needs the package gguf; pip install gguf"):
        locate(str(file))

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.model.source import EMBEDDED_FOLDER, locate


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "copy"))


def test_fingerprint_is_of_the_content_and_not_of_the_path(copy: Path) -> None:
    ours, other = locate("embedded"), locate(str(copy))
    assert (ours.fingerprint, ours.tokenizer_fingerprint) == (other.fingerprint, other.tokenizer_fingerprint)


def test_one_changed_byte_of_the_weights_changes_the_fingerprint(copy: Path) -> None:
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert locate(str(copy)).fingerprint != locate("embedded").fingerprint


def test_a_changed_chat_template_changes_the_tokenizer_fingerprint_alone(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert locate(str(copy)).tokenizer_fingerprint != locate("embedded").tokenizer_fingerprint
    assert locate(str(copy)).fingerprint == locate("embedded").fingerprint


def test_what_the_saving_library_adds_to_the_config_does_not_count(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9", "_name_or_path": "/elsewhere"}))
    assert locate(str(copy)).fingerprint == locate("embedded").fingerprint


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BenchError, match=r"pytorch_model\.bin.*expected \*\.safetensors"):
        locate(str(copy))


@pytest.mark.parametrize(
    ("name", "message"),
    [("./nowhere", "no such folder"), ("nowhere/at/all", "no such folder"), (__file__, "is a file")],
)
def test_what_is_no_model(name: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        locate(name)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"config\.json is missing"):
        locate(str(tmp_path))


def test_a_broken_config_names_the_line(copy: Path) -> None:
    (copy / "config.json").write_text('{"a": 1,\n oops}')
    with pytest.raises(BenchError, match=r"config\.json:2"):
        locate(str(copy))


def test_a_hub_id_without_network_is_one_line() -> None:
    with pytest.raises(BenchError, match="could not be fetched") as error:
        locate("someone/some-model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "causal"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "causal"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True}, "causal"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "seq2seq"),
        ({"model_type": "t5", "architectures": ["T5WithLMHeadModel"], "is_encoder_decoder": True}, "seq2seq"),
        ({"model_type": "mt5"}, "seq2seq"),
        ({"model_type": "bart", "architectures": ["BartForCausalLM"], "is_encoder_decoder": False}, "causal"),
        ({"model_type": "unheard_of", "is_encoder_decoder": True}, "seq2seq"),
        ({"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]}, "causal"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "encoder"),
        ({"model_type": "bert"}, "encoder"),
        ({"model_type": "bert", "architectures": None}, "encoder"),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, "encoder"),
        ({"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]}, "encoder"),
        ({"model_type": "mpnet", "architectures": ["MPNetModel"]}, "encoder"),
        ({"model_type": "unheard_of", "architectures": ["UnheardOfForMaskedLM"]}, "encoder"),
        ({"model_type": "unheard_of", "architectures": ["UnheardOfModel"]}, "causal"),
        ({}, "causal"),
    ],
)
def test_the_configuration_says_what_a_model_can_do(copy: Path, config: dict[str, object], kind: str) -> None:
    (copy / "config.json").write_text(json.dumps(config))
    assert locate(str(copy)).kind == kind


def test_the_packaged_sentence_encoder_goes_by_its_name() -> None:
    source = locate("all-MiniLM-L6-v2")
    assert (source.name, source.kind) == ("all-MiniLM-L6-v2", "encoder")
    assert (source.folder / "model.safetensors").is_file()
    assert locate(str(source.folder)).fingerprint == source.fingerprint


def test_models_are_located_without_torch() -> None:
    code = "import sys; from bench.model.source import locate; locate('embedded'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_configuration_that_is_no_mapping(copy: Path) -> None:
    (copy / "config.json").write_text("[1]")
    with pytest.raises(BenchError, match=r"config\.json: found a list; expected a mapping"):
        locate(str(copy))

"""What a model's weights are kept in: types of number, few bits, and what cannot be trained over them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cost.meter import Meter
from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.model.load import load_model
from bench.model.source import Dtype, Loading, Quantize, locate
from bench.run.fit import fit, load_base
from bench.strategy.spec import load_strategy
from bench.suite import Cell, Suite, expand, load_suite

SHORT = {"tuning.epochs": 1, "tuning.evaluations": 1}


def cells(strategies: list[str], dtype: Dtype = "auto", quantize: Quantize = "none") -> list[Cell]:
    suite = Suite(
        tasks=["product_support"], strategies=strategies, seeds=[0], limit=4, budget={"train_examples": 16, "validation_examples": 4},  # type: ignore[arg-type]
        settings=SHORT, dtype=dtype, quantize=quantize,
    )  # fmt: skip
    return expand(suite, locate(suite.model, suite.loading))


def answer(model: LanguageModel) -> str:
    prompt = model.prompt_ids([{"role": "user", "content": "What is the color of Zorba?"}])
    return next(iter(model.generate([prompt], 6)))[0][1].text


def test_how_a_model_is_loaded_makes_it_another_one() -> None:
    loadings = [Loading(), Loading("float32"), Loading("bfloat16"), Loading("float16"), Loading(quantize="nf4"), Loading(quantize="int8")]
    assert len({locate("embedded", each).fingerprint for each in loadings}) == len(loadings)
    assert locate("embedded").fingerprint == locate("embedded", Loading("auto", "none")).fingerprint


@pytest.mark.parametrize(
    ("loading", "kept"),
    [
        (Loading("bfloat16"), {torch.bfloat16}),
        (Loading("float16"), {torch.float16}),
        (Loading(quantize="int8"), {torch.float32, torch.int8}),
        (Loading("bfloat16", "nf4"), {torch.bfloat16, torch.uint8}),
    ],
)
def test_weights_are_kept_as_asked_for_and_answer(loading: Loading, kept: set[torch.dtype], embedded: Any) -> None:
    model = load_model(locate("embedded", loading), quantize=loading.quantize)
    assert {p.dtype for p in model.network.parameters()} == kept
    assert model.quantized == loading.quantize
    assert answer(model) == answer(embedded)


@pytest.mark.parametrize(("strategy", "dtype", "quantize"), [("last-layers", "bfloat16", "none"), ("lora", "auto", "int8")])
def test_training_over_such_a_base(strategy: str, dtype: Dtype, quantize: Quantize, tmp_path: Path) -> None:
    (cell,) = cells([strategy], dtype, quantize)
    chosen = cell.strategy.with_settings({axis: values[0] for axis, values in cell.strategy.search.items() if isinstance(values, list)})
    meter = Meter()
    fitted = fit(cell, chosen, tmp_path, meter, lambda text: None)
    moving = {n: p for n, p in fitted.model.network.named_parameters() if p.requires_grad}
    assert {p.dtype for p in moving.values()} == {torch.float32}
    frozen = {p.dtype for p in fitted.model.network.parameters() if not p.requires_grad}
    assert frozen == ({torch.bfloat16} if dtype == "bfloat16" else {torch.float32, torch.int8})
    assert fitted.model.compute_dtype == (torch.bfloat16 if dtype == "bfloat16" else None)
    base = dict(load_base(cell, chosen, Meter()).network.named_parameters())
    assert any(name not in base or not torch.equal(p.detach(), base[name].float()) for name, p in moving.items())
    with meter.phase("answer"):
        assert len([a for batch in fitted.answer(fitted.requests(cell.task.test)) for a in batch]) == 4


@pytest.mark.parametrize(
    ("quantize", "strategy", "reason"),
    [
        ("nf4", "full", "the base is loaded in nf4, and weights of few bits cannot be trained"),
        ("int8", "bitfit", "the base is loaded in int8, and weights of few bits"),
        ("int8", "qlora", "the base is loaded in int8, and cannot be in nf4 too"),
        ("nf4", "pissa", "PiSSA has to split its weights"),
        ("nf4", "loha", "hides the shape of weights that LOHA goes by"),
        ("int8", "dora", "DoRA cannot read the length of its weights"),
    ],
)
def test_what_has_no_meaning_over_few_bits_is_skipped(quantize: Quantize, strategy: str, reason: str) -> None:
    (cell,) = cells([strategy], quantize=quantize)
    assert reason in str(cell.not_applicable)


def test_what_has_a_meaning_over_few_bits() -> None:
    found = cells(["zero-shot", "lora", "qlora", "ia3", "bottleneck"], quantize="nf4")
    assert [cell.not_applicable for cell in found] == [None] * 5
    assert {cell.not_applicable is None for cell in cells(["lora", "loha", "full", "qlora"])} == {True}


def test_float16_is_for_answers_alone() -> None:
    zero_shot, lora = cells(["zero-shot", "lora"], "float16")
    assert zero_shot.not_applicable is None
    assert "training in it needs loss scaling" in str(lora.not_applicable)


def test_other_bits_than_those_of_the_source_are_refused() -> None:
    source = locate("embedded", Loading(quantize="int8"))
    with pytest.raises(BenchError, match=r"tuning\.quantize: found nf4 for model embedded: the base is loaded in int8"):
        load_model(source, quantize="nf4")
    assert load_model(source).quantized == "int8"


def test_encoders_endpoints_and_quantized_files_cannot_be_loaded_so(tmp_path: Path) -> None:
    import json
    import shutil

    from bench.model.source import EMBEDDED_FOLDER

    with pytest.raises(BenchError, match="is an encoder, which is loaded in full; found quantize int8, expected none"):
        locate("all-MiniLM-L6-v2", Loading(quantize="int8"))
    with pytest.raises(BenchError, match="is served elsewhere; found dtype bfloat16, expected auto"):
        locate("m@http://localhost/v1", Loading("bfloat16"))
    copy = Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(BenchError, match=r"is already quantized \(gptq\); found quantize nf4"):
        locate(str(copy), Loading(quantize="nf4"))
    assert locate(str(copy)).quantized == "gptq"


def test_an_encoder_in_bfloat16_trains_its_head(tmp_path: Path) -> None:
    suite = Suite(
        model="all-MiniLM-L6-v2", tasks=["ticket_triage"], strategies=["lora"], seeds=[0], limit=4, dtype="bfloat16", settings=SHORT,
        budget={"train_examples": 16, "validation_examples": 4},  # type: ignore[arg-type]
    )  # fmt: skip
    (cell,) = expand(suite, locate(suite.model, suite.loading))
    chosen, meter = load_strategy("lora")[1].with_settings(SHORT), Meter()
    fitted = fit(replace(cell, strategy=chosen), chosen, tmp_path, meter, lambda text: None)
    assert torch.bfloat16 in {p.dtype for p in fitted.model.network.parameters()}
    with meter.phase("answer"):
        assert len([a for batch in fitted.answer(fitted.requests(cell.task.test)) for a in batch]) == 4


def test_the_default_loading_leaves_a_runs_name_as_it_was() -> None:
    suite = load_suite("smoke")
    assert suite.digest != suite.model_copy(update={"dtype": "bfloat16"}).digest
    earlier = suite.model_dump_json(exclude={"dtype", "quantize"})
    import hashlib

    assert suite.digest == hashlib.sha256(earlier.encode()).hexdigest()

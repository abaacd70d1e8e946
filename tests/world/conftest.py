import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bench.world.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)

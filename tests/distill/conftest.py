import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    from helpers.tiny_models import save_sentence_transformer

    return save_sentence_transformer(tmp_path_factory.mktemp("models") / "teacher")


@pytest.fixture(scope="session")
def prompted(tmp_path_factory):
    from helpers.tiny_models import save_sentence_transformer

    prompts = {"query": "query: ", "passage": "page: "}
    return save_sentence_transformer(tmp_path_factory.mktemp("models") / "prompted", prompts=prompts)


@pytest.fixture
def teacher(bert):
    from ibkd_retrieval.encoders.encoder import Encoder

    return Encoder.load(str(bert), device="cpu", dtype="float32")

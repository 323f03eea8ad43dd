import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    from helpers.tiny_models import save_sentence_transformer

    return save_sentence_transformer(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def prompted(tmp_path_factory):
    from helpers.tiny_models import save_sentence_transformer

    prompts = {"query": "query: ", "passage": "page: "}
    return save_sentence_transformer(tmp_path_factory.mktemp("models") / "prompted", prompts=prompts)


@pytest.fixture(scope="session")
def plain_bert(tmp_path_factory):
    from helpers.tiny_models import save_plain_transformer

    return save_plain_transformer(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="session")
def mpnet(tmp_path_factory):
    from helpers.tiny_models import save_sentence_transformer

    return save_sentence_transformer(tmp_path_factory.mktemp("models") / "mpnet", "mpnet")

"""The other frameworks, on one thread; without them these tests are skipped."""

import pytest

MISSING = "parity: torch, transformers and peft are not installed"


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.parity)


@pytest.fixture(scope="session")
def torch():
    torch = pytest.importorskip("torch", reason=MISSING)
    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="session")
def transformers(torch):
    return pytest.importorskip("transformers", reason=MISSING)


@pytest.fixture(scope="session")
def peft(transformers):
    return pytest.importorskip("peft", reason=MISSING)


@pytest.fixture(scope="session")
def make_gpt2(torch, transformers):
    """make_gpt2(config, kind="GPT2LMHeadModel") is transformers' model of our config's sizes,
    in float64, with random weights of O(0.3)."""

    def make(c, kind="GPT2LMHeadModel", **settings):
        config = transformers.GPT2Config(
            vocab_size=c.vocab, n_positions=c.context, n_embd=c.width, n_layer=c.layers,
            n_head=c.heads, n_inner=c.mlp, layer_norm_epsilon=c.eps, **settings,
        )  # fmt: skip
        model = getattr(transformers, kind)(config).double().eval()
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p += 0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
        return model

    return make

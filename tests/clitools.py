"""What the tests of the command line share: a tiny base, and how a command is run and read."""

import json
import shutil

import pytest

from minipeft import cli
from minipeft.course.compare import _bench
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig, ViT, ViTConfig
from minipeft.storage.checkpoint import save_model
from minipeft.storage.files import data_dir

QUICK = ["--steps", "3", "--n", "16", "--batch", "4"]


@pytest.fixture(scope="module", autouse=True)
def small_base(tmp_path_factory):
    """Tiny untrained models in the place of the shipped ones."""
    folder, shipped = tmp_path_factory.mktemp("data"), data_dir()
    (folder / "models").mkdir()
    shutil.copy(shipped / "tokenizer.json", folder)
    sizes = {"context": 160, "width": 8, "layers": 2, "heads": 2}
    for name, model in (
        ("tiny-gpt", GPT(GPTConfig(vocab=2000, **sizes))),
        ("tiny-bert", BERT(BERTConfig(vocab=2001, **sizes))),
        ("tiny-vit", ViT(ViTConfig(16, 4, 1, 8, 2, 2, classes=16))),
    ):
        save_model(model, folder / "models" / f"{name}.safetensors")
    patch = pytest.MonkeyPatch()
    patch.setenv("MINIPEFT_DATA", str(folder))
    _bench.cache_clear()
    yield folder
    patch.undo()
    _bench.cache_clear()


def tell(capsys, *arguments):
    """The text of a command that must succeed."""
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def value(capsys, *arguments):
    """The JSON value of a command that must succeed; stdout must hold nothing else."""
    return json.loads(tell(capsys, *arguments, "--json"))


def fails(capsys, code, *arguments):
    """What stderr tells of a command that must fail: one screen, no traceback, stdout empty."""
    try:
        got = cli.main([*arguments, "--json"] if arguments else [])
    except SystemExit as stop:  # argparse
        got = stop.code
    out, err = capsys.readouterr()
    assert got == code and out == ""
    assert "Traceback" not in err and 0 < len(err.splitlines()) < 30
    return err

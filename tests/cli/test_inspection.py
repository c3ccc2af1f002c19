"""What a file is said to hold is what it holds."""

import numpy as np
import pytest

from minipeft.cli.inspection import LONGEST, FileReport
from minipeft.contract import attach
from minipeft.methods import LoRA, Quantize, VeRA
from minipeft.storage.checkpoint import CheckpointError, load_model, save_arrays, save_model
from minipeft.training.loop import fit
from tests.clitools import value
from tests.tiny import Rows, gpt, llama, tokenizer


def test_an_adapter_names_its_method_its_count_and_its_base(tmp_path):
    path, model = tmp_path / "a.safetensors", load_model("tiny-gpt")
    with attach(model, LoRA(r=2)) as at:
        at.save(path)
        found = FileReport(path)
        assert found.summary.total == at.count()
    assert found.facts["kind"] == "adapter" and found.facts["method"] == "lora"
    assert found.facts["settings"]["r"] == 2 and found.facts["shipped base"] == "tiny-gpt"
    assert "blocks.0.attn.q_proj.A" in str(found) and "<table" in found._repr_html_()
    other = gpt()
    with attach(other, LoRA(r=2)) as at:
        at.save(path)
    assert FileReport(path).facts["shipped base"] == "none of the shipped ones"


def test_a_model_tells_its_config_and_its_card(tmp_path):
    path, model = tmp_path / "m.safetensors", gpt()
    save_model(model, path, {"made": "by hand", "curve": [1, 2]}, dtype="float16")
    found = FileReport(path)
    assert found.facts["kind"] == "model" and found.facts["config"]["layers"] == 2
    assert found.facts["made"] == "by hand" and "curve" not in found.facts
    assert found.facts["dtypes"] == "float16"
    assert found.summary.total == model.num_parameters()
    assert {row["path"] for row in found.as_dict()["arrays"]} == set(model.state_dict())


def test_a_llama_is_told_counted_and_foretold(tmp_path, capsys):
    path = str(tmp_path / "llama.safetensors")
    save_model(llama(dtype=np.float32), path)
    told = value(capsys, "inspect", path)
    assert told["model"] == "llama" and told["config"]["kv_heads"] == 2
    counted = value(capsys, "params", "--model", path, "--method", "lora", "--set", "r=4")
    assert counted["trainable"] == 2 * 4 * (16 + 16 + 16 + 8)
    step = ["--batch", "2", "--length", "8", "--measure"]
    cost = value(capsys, "memory", "--model", path, "--method", "lora", *step)
    assert cost["predicted"]["activations"] == cost["measured"]["activations"] > 0


def test_a_shipped_model_is_told_by_its_name():
    found = FileReport("tiny-bert")
    assert found.facts["kind"] == "model" and found.facts["name"] == "tiny-bert"
    assert found.path.name == "tiny-bert.safetensors"
    with pytest.raises(FileNotFoundError, match="Did you mean 'tiny-bert'"):
        FileReport("tiny-brt")


def test_a_training_state_tells_how_far_it_came(tmp_path):
    path, model = tmp_path / "run.safetensors", gpt()
    with attach(model, LoRA(r=2)):
        loss = fit(model, Rows(tokenizer().vocab_size), steps=3, lr=0.01, batch=2, quiet=True,
                   checkpoint=path).loss  # fmt: skip
    found = FileReport(path)
    assert found.facts["kind"] == "training state" and found.facts["done"] == "3 of 3 steps"
    assert found.facts["last loss"] == loss[-1] and "LoRA(r=2" in found.facts["methods"][0]


def test_arrays_of_others_and_damaged_files(tmp_path):
    path = tmp_path / "x.safetensors"
    save_arrays(path, {"w": np.array([np.nan, 1.0])}, {"by": "others"}, allow_nonfinite=True)
    assert FileReport(path).facts["by"] == "others"
    save_arrays(path, {}, {"format": "minipeft-training", "settings": "[]"})
    with pytest.raises(CheckpointError, match="settings must be an object, got"):
        FileReport(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        FileReport(path)


def test_what_trains_is_told_apart_from_state_and_an_empty_card_is_left_out(tmp_path):
    path = tmp_path / "a.safetensors"
    with attach(gpt(), VeRA(r=2)) as at:
        at.save(path)
        found = FileReport(path)
        assert found.summary.trainable == at.count() < found.summary.total
        assert "card" not in found.facts
        at.save(path, {"task": "x" * 500})
    found = FileReport(path)
    assert found.facts["card"] == {"task": "x" * 500}
    (line,) = [line for line in str(found).splitlines() if line.startswith("card")]
    told = line.split("  ")[-1].strip()
    assert told.endswith(" …") and len(told) == LONGEST


def test_a_state_before_its_first_step_has_no_last_loss(tmp_path):
    path = tmp_path / "x.safetensors"
    facts = {"format": "minipeft-training", "settings": '{"steps": 4, "methods": []}',
             "history": '{"loss": []}', "steps": "0", "machine": "x"}  # fmt: skip
    save_arrays(path, {"w": np.ones(1)}, facts)
    found = FileReport(path)
    assert found.facts["last loss"] is None and found.facts["done"] == "0 of 4 steps"


def test_what_lies_under_an_adapter_is_told_by_name(tmp_path):
    model = gpt()
    attach(model, Quantize())
    attach(model, LoRA(r=2)).save(tmp_path / "a.safetensors")
    found = FileReport(tmp_path / "a.safetensors")
    assert found.as_dict()["over"] == ["quant"] and "quant" in str(found)


@pytest.mark.parametrize("key", ["settings", "history"])
def test_a_hostile_state_is_refused(key, tmp_path):
    path = tmp_path / "x.safetensors"
    facts = {"format": "minipeft-training", "settings": "{}", "history": "{}", "steps": "1",
             "machine": "x"} | {key: "[" * 100_000}  # fmt: skip
    save_arrays(path, {}, facts)
    with pytest.raises(CheckpointError, match=f"{key} is nested too deeply"):
        FileReport(path)

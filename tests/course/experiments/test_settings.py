"""Grids of settings, and that those of every experiment stay: stored results are found by them."""

import hashlib
import json

import pytest

from minipeft.course.experiments import EXPERIMENTS
from minipeft.course.experiments.settings import Axis, always, grid


def rows(made):
    return [tuple(s.values()) for s in made]


def test_a_grid_goes_through_all_and_a_fast_run_takes_the_first():
    made = grid(task="route", seed=(0, 1), r=[1, 8])
    assert made(False)[1] == {"task": "route", "seed": 0, "r": 8}
    assert rows(made(False)) == [("route", 0, 1), ("route", 0, 8), ("route", 1, 1), ("route", 1, 8)]
    assert rows(made(True)) == [("route", 0, 1)]


def test_a_fast_run_may_take_others_all_or_none():
    made = grid(kind=always("ab"), d=always((5, 6)), steps=Axis((100, 200), fast=4))
    assert rows(made(True)) == [("ab", 5, 4), ("ab", 6, 4)]
    assert rows(made(False)) == [("ab", d, steps) for d in (5, 6) for steps in (100, 200)]
    assert grid(d=Axis((1, 2), fast=()), seed=0)(True) == []


def test_outer_axes_change_last_and_keep_their_place():
    made = grid(outer="seed n", method=("lora", "full"), n=(16, 32), seed=(0, 1))
    found = rows(made(False))
    assert found[:3] == [("lora", 16, 0), ("full", 16, 0), ("lora", 32, 0)] and len(found) == 8
    assert list(made(False)[0]) == ["method", "n", "seed"]


def test_an_axis_may_depend_on_those_outside():
    ranks = {"lora": (2, 8), "full": (0,)}
    made = grid(method=always(ranks), r=lambda s: ranks[s["method"]],
                steps=lambda s: Axis(10 * s["r"], fast=1))  # fmt: skip
    assert rows(made(False)) == [("lora", 2, 20), ("lora", 8, 80), ("full", 0, 0)]
    assert rows(made(True)) == [("lora", 2, 1), ("full", 0, 1)]
    assert rows(grid(a=1, b=Axis(lambda s: (s["a"], 5), fast=0))(False)) == [(1, 1), (1, 5)]


def test_settings_that_go_together_stand_beside_the_others():
    pairs = [{"method": "dora", "r": 4}, {"method": "full"}]
    made = grid(outer="seed", task="nli", of=pairs, lr=lambda s: s["of"].get("r", 0), seed=(0, 1))
    assert made(False)[0] == {"task": "nli", "method": "dora", "r": 4, "lr": 4, "seed": 0}
    assert list(made(False)[0]) == ["task", "method", "r", "lr", "seed"]
    assert made(False)[1] == {"task": "nli", "method": "full", "lr": 0, "seed": 0}


def test_one_grid_after_another():
    made = grid(a=(1, 2)) + grid(a=Axis(3, fast=())) + grid(b=4)
    assert made(False) == [{"a": 1}, {"a": 2}, {"a": 3}, {"b": 4}]
    assert made(True) == [{"a": 1}, {"b": 4}]


SETTINGS = {  # of the fast list and of the whole one: how many, and a digest
    "base_probes": (1, "273d4fa27a3b", 21, "4186d13543af"),
    "world_probes": (2, "0038e6e3a1ea", 93, "d41024ec8ce5"),
    "reader_probes": (1, "cad8925d4dd4", 23, "abbe7b8c56ef"),
    "picture_probes": (1, "81e79fa09b2e", 18, "d708f25ad994"),
    "ladder": (1, "c13604bfcce8", 14, "168682cbd6e3"),
    "route_rates": (3, "0919db3c5ac8", 108, "1c1ad3799314"),
    "learning_rates": (21, "f82bff54b6f0", 504, "4f9a29f591d9"),
    "lora_matrices": (8, "cd7066316546", 280, "c4d7fb53a821"),
    "lora_ranks": (15, "0d1972c0a5ce", 225, "6a489441f933"),
    "lora_small_data": (2, "8682038094f0", 60, "45d5f5c4668d"),
    "lora_spectra": (1, "7190e2b0ab0a", 10, "df8b20a764af"),
    "lora_rslora": (16, "75d5a96d562f", 80, "0a42a9dd26d0"),
    "lora_merge_drift": (6, "2f780be987ba", 30, "86df9f92ab06"),
    "lora_latency": (1, "338da30d371f", 3, "22aa6d79889c"),
    "lora_family_rates": (7, "5e828f1ba92d", 228, "b81e780b8293"),
    "lora_family": (7, "184f8d7812bd", 200, "cbd78723b289"),
    "lora_family_codes": (2, "cc23a1f46730", 30, "835be25cf850"),
    "subset_rates": (5, "750dc1d99a72", 40, "94c84d1229b6"),
    "subset_scores": (4, "e40053593cb5", 95, "b48eaf885c24"),
    "subset_where": (6, "41dd521cb38e", 60, "03662498b204"),
    "subset_untrained": (1, "b418bea8a2f4", 10, "e1df0d2ab377"),
    "subset_probe": (2, "1d1512d45fbc", 20, "dfdf6a324a01"),
    "subset_forgetting": (1, "6369fd7a8b38", 60, "231bbe91ae62"),
    "subset_cost": (2, "c0846ee66c9b", 11, "ec3d2dcb4552"),
    "quant_loss": (1, "e5a45a8690fe", 69, "342b8c6db8eb"),
    "quant_outliers": (2, "018736a3bd67", 120, "3eaa5ee0b290"),
    "quant_zero_shot": (1, "b43c656011b7", 150, "fe053ac079c6"),
    "quant_training": (1, "3d6f4c487411", 80, "8c89196206eb"),
    "subspace_rates": (4, "714c2b4b25cc", 29, "e4671fbf4883"),
    "subspace_digits": (2, "1932a6f1e191", 51, "2e8793fe9d84"),
    "subspace_labels": (2, "f2701e8a883f", 40, "a4e23385045c"),
    "subspace_pretraining": (2, "471af822dce7", 120, "2760ee9a9b80"),
    "subspace_ladder": (2, "a6efd4d5b20c", 40, "bd6cf5f92cc9"),
    "subspace_frozen": (2, "c549f366036d", 16, "3721c0b3d0bd"),
    "subspace_route": (2, "2abcafdaadd0", 80, "469d98ee827a"),
    "subspace_kin": (1, "92fc677d362e", 25, "3e2fadc7ffe9"),
    "pruning_rates": (1, "85b2dd9a7f73", 90, "542f8948f264"),
    "pruning_kept": (4, "973f4177d146", 50, "6f41d13798a7"),
    "pruning_reader_rates": (1, "5a5a3b2ac2a5", 16, "dafac0b45180"),
    "pruning_reader": (1, "9d5ce1d70673", 35, "7f3eaca444d8"),
    "pruning_soft": (1, "0a792fa3e127", 11, "989993d8f976"),
    "pruning_moves": (1, "b55cd4ffaa85", 5, "3651e3919e4c"),
    "pruning_tickets": (1, "edf55337e7ed", 5, "5a3cb6b7a759"),
    "adapter_rates": (14, "a0807501fda1", 168, "15b2b13ef4eb"),
    "adapter_wide": (3, "8042d0efbaab", 120, "8e0237619330"),
    "adapter_sizes": (2, "5eae0a010e6c", 55, "3140b9c7d036"),
    "adapter_places": (1, "87ee0ed0dc9c", 30, "eb4735c1301e"),
    "adapter_removed": (2, "4c7128947c86", 10, "47eca9f7b76f"),
    "adapter_drift": (3, "9bc081c7dfd0", 45, "23cc26374bcf"),
    "adapter_few_rates": (3, "61cccaddc96d", 36, "323ebbf80a82"),
    "adapter_few": (3, "1251a42987a5", 15, "c627a9bf18d5"),
    "adapter_turned": (1, "8c578fb5ff31", 5, "aa2eca9ac0a7"),
    "adapter_latency": (1, "12ac6ca5384b", 3, "373362c587f6"),
    "ia3_loss_rates": (1, "277f0184bd70", 48, "c2bc4dbbf739"),
    "ia3_losses": (4, "2f2b1b9f3c90", 20, "1e32fb2bb66b"),
    "ia3_recipe_rates": (2, "2b10d83e5ac3", 48, "9e1a0097f457"),
    "ia3_tasks": (3, "bf4026cf218e", 100, "40525bf9652d"),
    "ia3_vectors": (1, "4b46fc7dd1f0", 5, "8545a6a06552"),
    "ia3_kin_rates": (1, "9f8e96ac5bf0", 36, "288eeeee0bcc"),
    "ia3_kin": (4, "bc6f6b8ce90d", 8, "18c08aa0e9f1"),
    "prefix_start": (4, "d6687c769e25", 60, "f4f03a2629f7"),
    "prefix_length": (1, "b86b94ff8e17", 60, "d729ceec0d01"),
    "prefix_special": (1, "623ca673ad6a", 30, "d383a312722a"),
    "prefix_layers": (1, "feea280f5838", 60, "5ec3874bc53e"),
    "prefix_infix": (2, "19df345c4552", 30, "b9e455081131"),
    "prefix_encoder": (2, "14a5b4ac06ca", 20, "b118811b1146"),
    "prefix_few_rates": (3, "004dc2e5482a", 24, "63fc71b0dfa2"),
    "prefix_few": (3, "5c7cbec3c3af", 35, "b1b44ebc30e0"),
    "prompt_length": (1, "b86b94ff8e17", 95, "8a8c7c78c6e7"),
    "prompt_start": (3, "db8322c67513", 30, "b829dd9c2519"),
    "prompt_scale": (1, "55f6eacb93b3", 60, "95901d7f7cc5"),
    "prompt_shots": (1, "7153dda0fc41", 45, "528a697f035a"),
    "prompt_search": (1, "490947edcd5e", 5, "6e185cfbc7ae"),
    "prompt_wordings": (1, "bac1c47f0031", 2, "d02775e454c9"),
    "prompt_shift": (3, "c7e645306387", 30, "1b5841f7d028"),
    "prompt_ensemble": (1, "e190e635c946", 5, "5d76a2c54b69"),
    "ptuning_encoders": (3, "5e68e839e9bb", 80, "90bcd5ac9a5e"),
    "ptuning_places": (1, "7355608543ca", 10, "51043d135bb8"),
    "ptuning_ways": (3, "496dd8decd6a", 60, "e26b03727ada"),
    "ptuning_starts": (3, "cbde33c3ddaf", 35, "2c12e0bf2717"),
    "calibration_contexts": (3, "df9eec0bda9c", 430, "7a17bf11acbe"),
    "calibration_labels": (11, "9372d69ef6bc", 240, "0b8eaa8ce364"),
    "icl_rates": (1, "c5a314b58503", 84, "a377ba737cf9"),
    "icl_shown": (1, "1397d428adcd", 85, "edb63fd1a332"),
    "icl_tuned": (1, "48b6c8a2f860", 140, "dee7ccd6088d"),
    "icl_unscramble": (1, "ecee2d74d14a", 60, "8ea9631e882d"),
    "unified_places": (1, "1ba5624d1949", 66, "bf9c85924642"),
    "unified_rows": (1, "e913af573e14", 60, "dd8e8edb0e82"),
    "editing_vectors": (7, "53cfee483973", 111, "1922db4054f7"),
    "editing_facts": (4, "14475546b5d0", 49, "941c7b6b4b2b"),
    "steering_rates": (1, "e4f46487df7f", 24, "6aeeab0611b4"),
    "steering_alpha": (1, "afe897b7d853", 44, "ee8c39dc9a6d"),
    "steering_random": (1, "7559c0d5bfda", 10, "081bda5e50a7"),
    "steering_against": (1, "468737821c7a", 26, "e2a1c864da9a"),
    "steering_ways": (1, "2091f82c33be", 20, "5bd577308a14"),
    "steering_pairs": (1, "3ae312643a03", 20, "67989e66ee7d"),
    "steering_heads": (1, "087343cb4d38", 20, "a544b89ccba1"),
    "vision_rates": (1, "0cecd61d6a83", 72, "993d018ad023"),
    "vision_vtab": (1, "3373756e605e", 210, "4156701ee292"),
    "vision_long": (1, "f0a905560c2b", 60, "b9d87c7fb974"),
}


def summary(experiment):
    found = []
    for fast in (True, False):
        settings = experiment.settings(fast)
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        found += [len(settings), digest[:12]]
    return tuple(found)


def test_every_experiment_is_listed():
    assert list(SETTINGS) == list(EXPERIMENTS)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_stay_as_they_are(name):
    assert summary(EXPERIMENTS[name]) == SETTINGS[name]

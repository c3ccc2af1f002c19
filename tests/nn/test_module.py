"""Module: paths, ties, strict state, summary, wrappers."""

from types import SimpleNamespace

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.models import GPT, GPTConfig, build, preset
from minipeft.nn import Embedding, Linear, Module, ModuleList, Parameter, init

LIKE = init.prototype()


class Pair(Module):
    """Two layers, a list, and a tie."""

    def __init__(self):
        self.first = Linear(3, 4, rng=Rng(0))
        self.tied = Linear(3, 4, bias=False, weight=self.first.weight)
        self.rest = ModuleList([Linear(4, 4, rng=Rng(i)) for i in (1, 2)])
        self.note = "not a part"

    def forward(self, x):
        return self.rest[1](self.rest[0](self.first(x)))


class Doubled(Module):
    """A wrapper with a Parameter of its own."""

    wraps = added = True

    def __init__(self, base):
        self.base = base
        self.gain = Parameter(np.full(4, 2.0, np.float32))

    def forward(self, x):
        return self.base(x) * self.gain


def test_paths_follow_the_order_of_the_attributes():
    paths = [path for path, _ in Pair().named_modules()]
    assert paths == ["", "first", "tied", "rest", "rest.0", "rest.1"]
    assert [path for path, _ in Pair().named_parameters()] == [
        "first.weight", "first.bias", "rest.0.weight", "rest.0.bias", "rest.1.weight", "rest.1.bias"
    ]  # fmt: skip


def test_a_shared_parameter_counts_once_but_stands_in_two_places():
    model = Pair()
    assert model.num_parameters() == 16 + 2 * 20 == sum(p.size for p in model.parameters())
    shared = [p.path for p in model.places() if p.parameter is model.first.weight]
    assert shared == ["first.weight", "tied.weight"]
    assert "tied.weight" not in model.state_dict()


def test_get_and_set_by_path():
    model = Pair()
    assert model.get("") is model and model.get("rest.1") is model.rest[1]
    model.set("rest.1", Linear(4, 2, rng=Rng(0)))
    assert model(np.ones((1, 3), np.float32)).shape == (1, 2)
    with pytest.raises(KeyError, match="Pair has first, tied, rest, not 'last'"):
        model.get("last.weight")
    with pytest.raises(KeyError, match="no part 'rest.7': ModuleList has 0, 1, not '7'"):
        model.set("rest.7", Linear(4, 4))
    with pytest.raises(ValueError, match="a path is needed"):
        model.set("", Linear(4, 4))


def test_module_list_is_a_sequence():
    parts = Pair().rest
    parts.handles = []  # as attach() sets them
    assert len(parts) == 2 and list(parts) == [parts[0], parts[1]] and parts[-1] is parts[1]
    for i in (2, -3):
        with pytest.raises(IndexError, match=f"module {i} of 2"):
            parts[i]


def test_a_wrapper_adds_nothing_to_paths_or_state():
    model = Pair()
    before = model.state_dict()
    weight = model.first.weight
    model.set("first", Doubled(model.first))
    assert [path for path, _ in model.named_modules()][1] == "first"
    assert model.get("first").wraps
    assert {"first.weight", "first.gain"} <= {path for path, _ in model.named_parameters()}
    assert [p.added for p in model.places() if p.path == "first.gain"] == [True]
    state = model.base_arrays()
    assert list(state) == list(before) and state["first.weight"] is weight.data


def test_parts_that_a_method_added_are_not_the_base():
    model = Module()
    model.part, model.more = Doubled(Linear(4, 4)), Linear(2, 2)
    model.more.added = True
    assert list(model.state_dict()) == ["part.weight", "part.bias"]
    assert [p.added for p in model.places()] == [False, False, True, True, True]


def test_set_sees_through_a_wrapper_around_the_parent():
    model = Module()
    model.pair = Doubled(Pair())
    assert model.locate("pair.first") == (model.pair.base, "first")
    new = Linear(3, 4)
    model.set("pair.first", new)
    assert model.pair.base.first is new and model.get("pair.first") is new
    assert "first" not in vars(model.pair)


def test_two_parameters_at_one_path_get_different_names():
    model = Module()
    model.part = Doubled(Doubled(Linear(4, 4)))
    names = [name for name, _ in model.named_parameters()]
    assert names == ["part.weight", "part.bias", "part.gain", "part.gain#2"]


# -- state --------------------------------------------------------------------------------------


def test_state_goes_into_another_model_with_the_same_bits():
    source, target = Pair(), Pair()
    for p in source.parameters():
        p.data = Rng(7).normal(p.shape).astype(np.float32)
    target.load_state_dict(source.state_dict())
    x = Rng(1).normal((5, 3)).astype(np.float32)
    assert np.array_equal(source(x).data, target(x).data)
    for p, q in zip(source.parameters(), target.parameters(), strict=True):
        assert not np.shares_memory(p.data, q.data)


def test_load_keeps_the_tie_the_dtype_and_counts_the_change():
    model = Pair()
    state = {name: array.astype(np.float64) for name, array in model.state_dict().items()}
    versions = [p.version for p in model.parameters()]
    model.load_state_dict(state)
    assert model.tied.weight is model.first.weight
    assert {p.dtype.name for p in model.parameters()} == {"float32"}
    assert [p.version for p in model.parameters()] == [v + 1 for v in versions]


def test_load_lays_arrays_out_in_rows():
    model = Pair()  # an importer gives transposed views; optimizers walk flat, in place
    model.load_state_dict({"first.weight": np.ones((3, 4), np.float32).T}, strict=False)
    assert model.first.weight.data.flags.c_contiguous


def test_a_state_that_does_not_fit_is_refused_with_a_table_and_changes_nothing():
    model = Pair()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    state = {name: array + 1 for name, array in before.items()}
    state["rest.2.weight"] = state.pop("rest.1.weight")
    state["first.bias"] = np.zeros(5, np.float32)
    with pytest.raises(ValueError) as error:
        model.load_state_dict(state)
    assert str(error.value).splitlines() == [
        "the state does not fit the model:",
        "  wrong shape  first.bias: wanted (4,), got (5,)",
        "  missing      rest.1.weight",
        "  unexpected   rest.2.weight",
    ]
    for name, array in model.state_dict().items():
        assert np.array_equal(array, before[name])


def test_a_long_table_is_cut():
    model = GPT(GPTConfig(vocab=5, context=4, width=4, layers=1, heads=1))
    with pytest.raises(ValueError, match="… 8 more"):
        model.load_state_dict({})


def test_without_strict_only_shapes_matter():
    model = Pair()
    model.load_state_dict({"first.bias": np.ones(4), "elsewhere": np.ones(1)}, strict=False)
    assert model.first.bias.data.tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="wrong shape  first.bias"):
        model.load_state_dict({"first.bias": np.ones(5)}, strict=False)


def test_no_loading_under_an_attached_method():
    model = Pair()
    for part in (model, model.first):  # to a part of it too
        part.handles = [SimpleNamespace(number=0, model=part)]
        with pytest.raises(RuntimeError, match="detach it first"):
            model.load_state_dict(model.base_arrays())
        part.handles = []


def test_a_list_counts_from_the_end_too():
    parts = [Linear(2, 2) for _ in range(3)]
    several = ModuleList(parts)
    assert [several[i] for i in (0, 1, 2, -1, -2, -3)] == [*parts, parts[2], parts[1], parts[0]]
    assert list(several) == parts and len(several) == 3
    for i in (3, -4):
        with pytest.raises(IndexError, match=f"module {i} of 3"):
            several[i]


# -- Parameter ----------------------------------------------------------------------------------


def test_a_parameter_counts_its_changes_and_keeps_its_shape():
    p = Parameter(np.zeros((2, 3)))
    p.data = np.ones((2, 3))
    assert p.version == 1
    with pytest.raises(ValueError, match=r"data must keep its shape \(2, 3\), got \(3, 2\)"):
        p.data = np.ones((3, 2))


def test_a_clone_is_a_trainable_copy_and_state_shows_the_original():
    model = Pair()
    model.first.weight.requires_grad = False
    original = model.first.weight
    clone = model.first.weight = original.clone()
    assert clone.requires_grad and clone.base is original
    assert not np.shares_memory(clone.data, original.data)
    clone.data += 1
    assert model.base_arrays()["first.weight"] is original.data


def test_the_original_of_a_clone_moves_with_it(backend):
    """Else a method that is detached there would put back an array of the host."""
    model = Pair()
    original = model.first.weight
    model.first.weight = original.clone().clone()
    middle = model.first.weight.base
    model.to("cpu" if backend is np else "cuda")
    kind = type(backend.zeros(1))
    assert {type(p.data) for p in (model.first.weight, middle, original)} == {kind}


# -- summary ------------------------------------------------------------------------------------


def test_summary_shows_every_parameter_and_the_totals():
    model = Pair()
    model.first.weight.requires_grad = False
    summary = model.summary()
    assert (summary.total, summary.trainable) == (56, 44)
    lines = str(summary).splitlines()
    assert lines[0].split() == ["path", "shape", "parameters", "trains", "bytes"]
    assert lines[1] == "first.weight   4x3            12                   48"
    assert lines[2].split() == ["first.bias", "4", "4", "yes", "16"]
    assert lines[-1].split() == ["total", "56", "44", "(78.57", "%)", "224"]
    assert len({len(line) for line in lines}) == 1
    assert repr(summary) == str(summary)


def test_summary_as_html_has_a_row_per_parameter_and_escapes():
    model = Module()
    setattr(model, "<b>", Linear(2, 2))
    page = model.summary()._repr_html_()
    assert page.startswith("<table><tr><th>path</th>") and page.endswith("</table>")
    assert page.count("<tr>") == 4
    assert "<td>&lt;b&gt;.weight</td>" in page and "<b>" not in page


def test_an_empty_module_has_an_empty_summary():
    assert str(Module().summary()).splitlines()[-1].split() == [
        "total",
        "0",
        "0",
        "(0.00",
        "%)",
        "0",
    ]


def test_repr_is_the_tree_with_its_shapes():
    model = Pair()
    assert repr(model).splitlines() == [
        "Pair(56 parameters)",
        "  first: Linear  weight 4x3, bias 4",
        "  tied: Linear  weight 4x3",
        "  rest 0-1: Linear  weight 4x4, bias 4",
    ]
    assert repr(model.first) == "Linear(16 parameters)  weight 4x3, bias 4"
    assert f"{model} of two" == "Pair(56 parameters) of two"
    model.rest.set("1", Doubled(model.rest[1]))
    assert repr(model).splitlines()[3:] == [
        "  rest 0: Linear  weight 4x4, bias 4",
        "  rest 1: Doubled  gain 4",
        "    on Linear  weight 4x4, bias 4",
    ]
    assert repr(model.rest).splitlines()[:2] == [
        "ModuleList(44 parameters)", "  0: Linear  weight 4x4, bias 4",
    ]  # fmt: skip


def test_the_tree_of_a_model_folds_blocks_that_are_alike():
    model = build(preset("gpt3-175b"), init="shape")
    lines = repr(model).splitlines()
    assert lines[0] == "GPT(174,604,259,328 parameters)" and max(map(len, lines)) < 80
    (block,) = (i for i, line in enumerate(lines) if line == "  blocks 0-95: Block")
    assert "    attn: Attention" in lines[block:] and len(lines) < 25
    assert "      q_proj: Linear  weight 12288x12288, bias 12288" in lines
    with pytest.raises(AttributeError):
        model._repr_html_  # noqa: B018


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        Module()()


# -- shape-only arrays --------------------------------------------------------------------------


def test_shape_only_arrays_have_no_memory_and_say_so():
    like = init.prototype(shape_only=True)
    table = Embedding(5000, 2000, rng=Rng(0), like=like).weight
    assert table.size == 10**7 and table.data.strides == (0, 0) and init.is_shape_only(table.data)
    assert init.is_shape_only(table.clone().data)
    assert not any(init.is_shape_only(a) for a in (np.zeros((3, 3)), np.zeros(1), np.zeros((1, 2))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_drawn_arrays_follow_dtype_and_law(dtype):
    like = init.prototype(dtype)
    normal = init.normal((200, 200), like, Rng(0), 0.5)
    uniform = init.uniform((200, 200), like, Rng(0), 0.5)
    assert normal.dtype == uniform.dtype == init.zeros((2,), like).dtype == dtype
    assert abs(normal.std() - 0.5) < 0.01 and abs(normal.mean()) < 0.01
    assert abs(uniform.std() - 0.5 / 3**0.5) < 0.01 and abs(uniform).max() <= 0.5
    assert init.ones((2,), like).tolist() == [1, 1]


def test_a_model_moves_to_the_cpu_and_back_unchanged(backend):
    from minipeft.models import GPT, GPTConfig

    model = GPT(GPTConfig(vocab=11, context=8, width=8, layers=1, heads=2))
    before, model.blocks[0].mask = model.state_dict(), np.ones(3)
    model.to("cpu" if backend is np else "cuda")
    assert type(model.emb.tok.weight.data) is type(backend.zeros(1))
    assert type(model.blocks[0].mask) is type(backend.zeros(1))
    model.to("cpu")
    assert all((model.state_dict()[k] == before[k]).all() for k in before)
    with pytest.raises(ValueError, match="device must be"):
        model.to("gpu")

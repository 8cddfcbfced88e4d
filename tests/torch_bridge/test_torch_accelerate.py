from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from bridge_samples import block, net, sequential  # noqa: E402
from torch import nn  # noqa: E402

from kgen.blocks.convfirst import Problem  # noqa: E402
from kgen.torch import ConvFirst, Row, accelerate, accelerated  # noqa: E402
from kgen.torch.accelerated import AcceleratedBlock  # noqa: E402

accelerate_module = import_module("kgen.torch.accelerate")  # the package has the function by that name
PATHS = ("stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1")


def test_every_block_of_a_net_is_replaced():
    model, x = net(), torch.randn(2, 1, 8, 8)
    names, want = list(model.state_dict()), model(x)
    report = accelerate(model)
    assert report.rows == tuple(Row(path, "ConvFirst", True) for path in PATHS)
    assert all(isinstance(model.get_submodule(path), AcceleratedBlock) for path in PATHS)
    assert list(model.state_dict()) == names
    assert torch.equal(model(x), want)


def test_the_replaced_net_gives_the_same_by_kernels(monkeypatch):
    model, x = net(), torch.randn(2, 1, 8, 8)
    want = model(x)
    accelerate(model)
    monkeypatch.setattr(accelerated, "_KERNEL_DEVICES", ("cpu",))
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        for run in (model.half(), compiled):
            torch.testing.assert_close(run(x.half()).float(), want, rtol=1e-2, atol=1e-2)


def test_training_goes_through_the_stock_layers_again():
    model, x = net(), torch.randn(2, 1, 8, 8)
    accelerate(model)
    model.train()
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_unsupported_blocks_stay_and_are_told():
    good, bad = sequential(), sequential(nn.Hardswish)
    model = nn.Sequential(good, bad, nn.ReLU()).eval()
    first, second = accelerate(model).rows
    assert (first.path, first.block, first.replaced) == ("0", "Sequential", True)
    assert (second.path, second.replaced) == ("1", False)
    assert "Hardswish" in second.reason
    assert model[1] is bad


def test_weights_that_fit_no_kernel_are_a_reason():
    model = nn.Sequential(block(), nn.ReLU())
    model[0].expand.weight.data.fill_(float("nan"))
    (row,) = accelerate(model).rows
    assert "expand.weight must be finite" in row.reason


def test_a_model_in_training_mode_stays():
    model = net().train()
    assert {row.reason for row in accelerate(model).rows} == {"it is in training mode; call eval() first"}
    assert isinstance(model.get_submodule(PATHS[0]), ConvFirst)


def test_an_example_leaves_statistics_alone():
    model = net()
    model.stem.train()
    before = model.stem.bn.running_mean.clone()
    assert {row.problem for row in accelerate(model, torch.randn(2, 1, 8, 8)).rows} == {None}
    assert torch.equal(model.stem.bn.running_mean, before)


def test_the_model_itself_cannot_be_replaced():
    (row,) = accelerate(block()).rows
    assert row.path == ""
    assert "put it into a container" in row.reason


def test_a_shared_block_stays_shared():
    shared = block()
    model = nn.ModuleDict({"a": nn.Sequential(shared, shared), "b": nn.Sequential(nn.ReLU(), shared)}).eval()
    report = accelerate(model)
    assert [row.path for row in report.rows] == ["a.0", "a.1", "b.1"]
    assert model["a"][0] is model["a"][1] is model["b"][1]
    assert isinstance(model["a"][0], AcceleratedBlock)


def test_again_there_is_nothing_left_to_replace():
    model = net()
    accelerate(model)
    assert accelerate(model).rows == ()


class TestExample:
    @pytest.fixture
    def found(self, monkeypatch):
        """A GPU with an exact, a near, stale and no config, for the three blocks in turn."""
        entries = [SimpleNamespace(exact=True, stale=False), SimpleNamespace(exact=False, stale=True), None]
        asked = []

        def lookup(problem, device):
            asked.append((problem, device))
            return entries[len(asked) - 1]

        monkeypatch.setattr(accelerate_module, "lookup", lookup)
        monkeypatch.setattr(accelerate_module, "local_devices", lambda: ("gpu",))
        monkeypatch.setattr(accelerate_module, "find_device", lambda spec: f"device {spec}")
        return asked

    def test_problems_and_configs_are_told(self, found):
        report = accelerate(net(), torch.randn(3, 1, 16, 12))
        wide, narrow = Problem(3, 8, 6, 16, 2), Problem(3, 4, 3, 32, 2)
        assert [row.problem for row in report.rows] == [wide, narrow, narrow]
        assert [row.tuned for row in report.rows] == ["exact", "near, stale", "missing"]
        assert {device for _, device in found} == {"device None"}

    def test_the_examples_dtype_counts(self, found):
        report = accelerate(net().bfloat16(), torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16))
        assert {row.problem.dtype for row in report.rows} == {"bfloat16"}

    def test_without_a_gpu_nothing_is_looked_up(self, found, monkeypatch):
        monkeypatch.setattr(accelerate_module, "local_devices", lambda: ())
        assert {row.tuned for row in accelerate(net(), torch.zeros(1, 1, 8, 8)).rows} == {"no GPU"}
        assert not found

    def test_a_block_that_is_not_called_has_no_problem(self, found):
        model = net()
        model.spare = block()
        *_, row = accelerate(model, torch.zeros(1, 1, 8, 8)).rows
        assert (row.path, row.replaced, row.problem, row.tuned) == ("spare", True, None, None)

    def test_the_hooks_are_gone(self, found):
        model = net()
        model.spare = hooked = block(activation="relu")
        hooked.activation = nn.Tanh()
        accelerate(model, torch.zeros(1, 1, 8, 8))
        assert not hooked._forward_pre_hooks

    def test_the_report_is_a_table(self, found):
        model = net()
        model.spare = sequential(nn.Hardswish)
        lines = str(accelerate(model, torch.zeros(1, 1, 8, 8))).splitlines()
        assert lines[0].split() == ["path", "block", "replaced", "reason", "problem", "tuned"]
        assert "convfirst(batch 1, 4x4, 16 channels, expansion 2, silu, float16)" in lines[1]
        assert lines[1].endswith("exact")
        assert lines[4].split()[:3] == ["spare", "Sequential", "no"]
        assert lines[-1] == "replaced 3 of 4 blocks"

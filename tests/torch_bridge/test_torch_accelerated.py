"""The block that takes another one's place: when it runs the kernel, and how it follows its parameters."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bridge_samples import assert_right, block, image  # noqa: E402
from torch import nn  # noqa: E402

from kgen.runtime import KgenWarning  # noqa: E402
from kgen.torch import ConvFirst, accelerated  # noqa: E402
from kgen.torch.accelerated import AcceleratedBlock  # noqa: E402
from kgen.torch.structure import structure_of  # noqa: E402


def fast(module):
    return AcceleratedBlock(module, structure_of(module))


def adapting(module):
    module.expand_bn.train()
    return module


@pytest.fixture
def module():
    return block()


@pytest.fixture
def calls(monkeypatch):
    """The dtypes of the operator's calls, with CPU tensors taken for CUDA ones."""
    calls = []

    def counted(x, *rest):
        calls.append(rest[3])
        return real(x, *rest)

    real = accelerated.convfirst
    monkeypatch.setattr(accelerated, "convfirst", counted)
    monkeypatch.setattr(accelerated, "_KERNEL_DEVICES", ("cpu",))
    return calls


class TestWhatRuns:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("options", [{}, {"expansion": 1.5}, {"residual": False}, {"activation": "relu"}], ids=str)
    def test_the_kernel_on_16_bits(self, calls, dtype, options):
        module = block(**options).to(dtype)
        x = image(dtype=dtype)
        with torch.no_grad():
            y = fast(module)(x)
        assert calls == [str(dtype).removeprefix("torch.")]
        assert_right(module, x, y)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_kernel_in_autocasts_dtype(self, calls, module, dtype):
        with torch.no_grad(), torch.autocast("cpu", dtype):
            y = fast(module)(image())
        assert calls == [str(dtype).removeprefix("torch.")]
        assert_right(module, image().to(dtype), y)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda module, x: (module, x),  # float32
            lambda module, x: (module.train(), x),
            lambda module, x: (adapting(module.half()), x.half()),
            lambda module, x: (module.half(), x[:0].half()),
        ],
        ids=["float32", "training", "one BatchNorm in training", "no image"],
    )
    def test_the_stock_layers_elsewhere(self, calls, module, spoil):
        stock, x = spoil(copy.deepcopy(module), image())
        replaced, _ = spoil(fast(module), image())
        with torch.no_grad():
            assert torch.equal(replaced(x), stock(x))
        assert not calls

    def test_the_stock_layers_on_a_cpu(self, module):
        x = image(dtype=torch.float16)
        with torch.no_grad():
            assert torch.equal(fast(module).half()(x), module(x))

    def test_the_stock_layers_where_autograd_records(self, calls, module):
        replaced, x = fast(module.half()), image(dtype=torch.float16)
        replaced(x).sum().backward()
        assert module.expand.weight.grad is not None
        replaced.requires_grad_(False)
        replaced(x.requires_grad_()).sum().backward()
        assert x.grad is not None
        assert not calls
        replaced(x.detach())
        assert calls == ["float16"]

    def test_what_the_stock_layers_refuse_is_their_error(self, calls, module):
        replaced = fast(module.half())
        with torch.no_grad(), pytest.raises(RuntimeError, match="channels"):
            replaced(image(channels=16, dtype=torch.float16))
        with torch.no_grad(), pytest.raises(ValueError, match="expected 4D input"):
            replaced(image(dtype=torch.float16)[0])

    @pytest.mark.parametrize("autocast", [True, False])
    def test_one_graph_under_compile(self, monkeypatch, module, autocast):
        monkeypatch.setattr(accelerated, "_KERNEL_DEVICES", ("cpu",))
        replaced = fast(module)
        x = image() if autocast else image(dtype=torch.float16)
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph

        compiled = torch.compile(replaced, fullgraph=True, backend=backend)
        with torch.inference_mode(), torch.autocast("cpu", torch.float16, enabled=autocast):
            assert torch.equal(compiled(x), replaced(x))
        assert any("convfirst" in str(node.target) for node in graphs[0].graph.nodes)

    def test_compiled_gradients_go_through_the_stock_layers(self, calls, module):
        compiled = torch.compile(fast(module), fullgraph=True, backend="aot_eager")
        compiled(image()).sum().backward()
        assert module.project.weight.grad is not None
        assert not calls


class TestParameters:
    @pytest.fixture
    def x(self, calls):
        return image(dtype=torch.float16)

    def test_names_and_parameters_stay(self, module):
        replaced = fast(module)
        assert list(replaced.state_dict()) == list(module.state_dict())
        assert all(a is b for a, b in zip(replaced.parameters(), module.parameters(), strict=True))

    @torch.no_grad()
    def test_training_goes_on_and_evaluation_follows(self, x):
        replaced = fast(block())
        before = replaced(x)
        replaced.train()
        assert replaced._block[0].training
        assert replaced.conv_bn.training
        replaced(image())  # changes the running statistics
        replaced.project.weight.mul_(2)
        replaced.eval()
        after = replaced(x)
        assert not torch.equal(before, after)
        assert_right(replaced._block[0], x, after)

    @torch.no_grad()
    def test_a_loaded_state_dict_is_followed_in_place(self, x):
        model, other = nn.Sequential(fast(block())), nn.Sequential(block())
        other[0].expand.weight.data.mul_(0.5)
        packed = model[0].packed_float16.data_ptr()
        model.load_state_dict(other.state_dict())
        assert model[0].packed_float16.data_ptr() == packed
        assert_right(other[0], x, model(x))

    @torch.no_grad()
    def test_a_change_in_evaluation_mode_needs_eval(self, x):
        replaced = fast(block())
        before = replaced(x)
        replaced.project_bn.weight.mul_(2)
        assert torch.equal(replaced(x), before)
        replaced.eval()
        assert_right(replaced._block[0], x, replaced(x))

    @torch.no_grad()
    def test_a_compiled_block_follows_too(self, x):
        replaced = fast(block())
        compiled = torch.compile(replaced, fullgraph=True, backend="aot_eager")
        compiled(x)
        replaced.project.weight.mul_(2)
        compiled.eval()
        assert_right(replaced._block[0], x, compiled(x))

    @torch.no_grad()
    def test_a_cast_is_followed(self, x):
        replaced = fast(block())
        assert replaced.packed_float16 is not None
        assert replaced.packed_bfloat16 is not None
        replaced.half()
        assert replaced.packed_bfloat16 is None
        assert replaced.packed_float16.dtype is torch.uint8
        assert_right(replaced._block[0], x, replaced(x))
        replaced.float()
        assert replaced.packed_bfloat16 is not None

    @torch.no_grad()
    def test_a_copy_is_independent(self, x):
        replaced = fast(block())
        want = replaced(x)
        for other in (copy.deepcopy(replaced), pickle.loads(pickle.dumps(replaced))):
            other.project.weight.zero_()
            other.eval()
            assert torch.equal(replaced(x), want)
            assert_right(other._block[0], x, other(x))

    def test_made_in_inference_mode_it_can_be_changed_outside(self):
        module = block()
        with torch.inference_mode():
            replaced = fast(module)
        replaced.eval()

    @torch.no_grad()
    def test_weights_that_fit_no_kernel_are_told_and_run_in_stock_layers(self, x, calls):
        replaced = fast(block())
        replaced.expand.weight.fill_(float("nan"))
        with pytest.warns(KgenWarning, match=r"expand.weight must be finite.*runs in stock layers"):
            replaced.eval()
        with pytest.warns(KgenWarning, match="stock layers"):
            replaced.half()
        replaced(x)
        assert not calls

    def test_a_dtype_that_the_weights_overflow_is_left_out(self):
        module = block()
        with torch.no_grad():
            module.project_bn.running_var.fill_(1e-14)
            module.project_bn.eps = 1e-20
        replaced = fast(module)
        assert replaced.packed_float16 is None
        assert replaced.packed_bfloat16 is not None

    @pytest.mark.filterwarnings("ignore:.*runs in stock layers")  # empty memory may hold NaN
    def test_the_meta_device_waits_for_weights(self):
        replaced = fast(block()).to("meta").to_empty(device="cpu")
        replaced.load_state_dict(block().state_dict())
        np.testing.assert_array_equal(replaced.packed_float16.numpy(), fast(block()).packed_float16.numpy())


def test_it_tells_what_it_computes():
    text = repr(fast(block(expansion=1.5, residual=False)))
    assert "convfirst(32 channels, expansion 1.5, silu, no residual)" in text
    assert ConvFirst.__name__ not in text

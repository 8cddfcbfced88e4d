from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import replace

import pytest
from host_time import host_us

from kgen import launch
from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.compile import Cubin, compile_cubin
from kgen.devices import find_device
from kgen.errors import DeviceError
from kgen.launch import LaunchError, LoadedProgram
from kgen.render import render

H200 = find_device("h200")
PROBLEM = Problem(batch=2, height=3, width=4, channels=16, expansion=1)
CONFIG = default_config(PROBLEM, H200)
CUBIN = Cubin(b"cubin", "sm_90", "", {}, "", 0.0)


class FakeDriver:
    """Records what the CUDA driver is asked to do."""

    def __init__(self, monkeypatch):
        pytest.importorskip("cupy")
        import cupy.cuda
        import cupy.cuda.function
        from cupy_backends.cuda.api import driver, runtime

        self.current, self.launches, self.chosen, self.attributes, self.refuses = 1, [], [], [], False
        self.error = driver.CUDADriverError
        fake = self

        class Device:
            def __init__(self, ordinal):
                self.ordinal = ordinal

            def __enter__(self):
                fake.current = self.ordinal

            def __exit__(self, *_):
                fake.current = 1

        class Function:
            def __init__(self, symbol):
                self.ptr = 1000 + len(symbol)

        class Module:
            def load(self, data):
                fake.loaded = (fake.current, data)

            def get_function(self, symbol):
                return Function(symbol)

        monkeypatch.setattr(cupy.cuda, "Device", Device)
        monkeypatch.setattr(cupy.cuda.function, "Module", Module)
        monkeypatch.setattr(driver, "funcSetAttribute", lambda *arguments: self.attributes.append(arguments))
        functions = {("cuLaunchKernelEx", 4): self.launch, ("cuOccupancyMaxActiveClusters", 3): self.occupancy}
        monkeypatch.setattr(launch, "driver_function", lambda *name: functions[name])
        monkeypatch.setattr(runtime, "getDevice", lambda: self.current)
        monkeypatch.setattr(runtime, "setDevice", lambda ordinal: setattr(self, "current", ordinal))

    def occupancy(self, clusters, handle, config):
        wanted = config._obj.attributes[0]
        assert (wanted.id, config._obj.block[0]) == (4, handle)
        clusters._obj.value = 120 // wanted.value[0]
        return 0

    def launch(self, config_address, handle, parameters, extra):
        if self.refuses:
            return 1
        config = launch._LaunchConfig.from_address(config_address)
        (gx, gy, gz), (bx, by, bz) = config.grid, config.block
        assert (gy, gz, by, bz, extra) == (1, 1, 1, 1, None)
        addresses = (ctypes.c_void_p * 5).from_address(parameters)
        pointers = [ctypes.c_uint64.from_address(address).value for address in addresses[:4]]
        batch = ctypes.c_int.from_address(addresses[4]).value
        time.sleep(1e-4)  # lets other threads in, as the driver does
        self.launches.append(
            (self.current, handle, gx, bx, config.shared_bytes, config.stream or 0, (*pointers, batch))
        )
        self.chosen.append([(one.id, *one.value) for one in config.attributes[: config.attribute_count]])
        return 0


@pytest.fixture
def driver(monkeypatch):
    return FakeDriver(monkeypatch)


@pytest.fixture
def program():
    return plan(PROBLEM, CONFIG, replace(H200, ordinal=0))


def test_the_cubin_is_loaded_on_its_device_with_all_its_shared_memory(driver, program):
    LoadedProgram(program, CUBIN)
    assert driver.loaded == (0, b"cubin")
    assert driver.current == 1
    dynamic_shared = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    sizes = [value for _, attribute, value in driver.attributes if attribute == dynamic_shared]
    assert sizes == [kernel.shared_bytes for kernel in program.kernels]


def test_kernels_are_launched_in_order_with_their_shapes_and_parameters(driver, program):
    pointers = (2**40 + 16, 2**41 + 32, 0, 2**63 + 48)
    LoadedProgram(program, CUBIN).launch(*pointers, 7, 99)
    shapes = [
        (0, 1000 + len(kernel.symbol), kernel.grid, kernel.threads, kernel.shared_bytes, 99, (*pointers, 7))
        for kernel in program.kernels
    ]
    assert len(shapes) == 2
    assert driver.launches == shapes


def test_a_kernel_begins_early_and_in_clusters_where_its_plan_says_so(driver, program):
    first, second = program.kernels
    kernels = (first, replace(second, begins_early=True), replace(first, cluster=4, begins_early=True))
    LoadedProgram(replace(program, kernels=kernels), CUBIN).launch(16, 16, 16, 16, 1, 0)
    assert driver.chosen == [[], [(6, 1, 0, 0)], [(4, 4, 1, 1), (6, 1, 0, 0)]]


def test_clusters_that_work_through_many_items_all_run_at_once(driver, program):
    first = program.kernels[0]
    many = replace(first, grid=132, work_items=500, threads=1000 + len(first.symbol))
    kernels = [replace(many, cluster=cluster) for cluster in (1, 2, 4)]
    kernels.append(replace(many, cluster=4, work_items=132))  # one each: those that find no room come later
    LoadedProgram(replace(program, kernels=tuple(kernels)), CUBIN).launch(16, 16, 16, 16, 1, 0)
    assert [launched[2] for launched in driver.launches] == [132, 120, 120, 132]


def test_the_callers_current_device_is_restored(driver, program):
    loaded = LoadedProgram(program, CUBIN)
    loaded.launch(16, 16, 16, 16, 1, 0)
    loaded.launch(16, 16, 16, 16, 1, 0)
    assert driver.current == 1
    assert {launch[0] for launch in driver.launches} == {0}


def test_launches_of_threads_do_not_mix(driver, program):
    loaded = LoadedProgram(program, CUBIN)
    driver.current = 0

    def run(number):
        for _ in range(20):
            loaded.launch(number, number, number, number, number, number)

    threads = [threading.Thread(target=run, args=(16 * number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(driver.launches) == 4 * 20 * 2
    for first, second in zip(driver.launches[::2], driver.launches[1::2], strict=True):
        stream = first[5]
        assert first[6] == second[6] == (stream,) * 5
        assert second[5] == stream


def test_a_refused_launch_is_a_launch_error(driver, program):
    loaded = LoadedProgram(program, CUBIN)
    driver.refuses = True
    loaded._driver_error = ValueError  # the driver's own names its status with the driver's help
    with pytest.raises(LaunchError, match="refuses to launch the kernels of convfirst"):
        loaded.launch(16, 16, 16, 16, 1, 0)


def test_a_program_for_a_datasheet_does_not_load():
    with pytest.raises(DeviceError, match="kernels run on a local GPU only, but h200 names a datasheet"):
        LoadedProgram(plan(PROBLEM, CONFIG, H200), CUBIN)


def on_gpu():
    device = find_device("cuda:0")
    program = plan(PROBLEM, CONFIG, device)
    return program, compile_cubin(render(program), program.arch)


@pytest.mark.gpu
def test_launching_costs_little_more_than_the_drivers_launches():
    import cupy

    program, cubin = on_gpu()
    loaded = LoadedProgram(program, cubin)
    memory = cupy.zeros(1 << 20, dtype="uint8")
    pointer = int(memory.data.ptr)
    arguments = (pointer, pointer + (1 << 18), pointer + (1 << 19), pointer + 3 * (1 << 18), PROBLEM.batch, 0)
    loaded.launch(*arguments)
    driver, parameters = loaded._launch_kernel, loaded._parameters.address

    def by_the_driver():
        for handle, _, config in loaded._kernels:
            driver(config, handle, parameters, None)

    assert len(program.kernels) == 2
    assert host_us(lambda: loaded.launch(*arguments)) < 1.5 * host_us(by_the_driver)


@pytest.mark.gpu
def test_a_broken_cubin_is_a_launch_error():
    program, cubin = on_gpu()
    with pytest.raises(LaunchError, match="rejects the kernels of convfirst"):
        LoadedProgram(program, replace(cubin, data=b"not a cubin"))


@pytest.mark.gpu
def test_an_illegal_launch_shape_is_a_launch_error():
    program, cubin = on_gpu()
    kernels = tuple(replace(kernel, threads=4096) for kernel in program.kernels)
    loaded = LoadedProgram(replace(program, kernels=kernels), cubin)
    with pytest.raises(LaunchError, match="refuses to launch"):
        loaded.launch(16, 16, 16, 16, 1, 0)


@pytest.mark.gpu
def test_too_much_shared_memory_is_a_launch_error():
    program, cubin = on_gpu()
    kernels = tuple(replace(kernel, shared_bytes=1 << 20) for kernel in program.kernels)
    with pytest.raises(LaunchError):
        LoadedProgram(replace(program, kernels=kernels), cubin)

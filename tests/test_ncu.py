"""Running a command under Nsight Compute, which a script plays, and reading its CSV."""

from __future__ import annotations

from pathlib import Path

import pytest
from ncu_script import fake_ncu

from kgen.ncu import CountersError, Launch, NotPermittedError, Profiler, parse

DRAM = ["dram__bytes_read.sum", "dram__bytes_write.sum"]
WIDE = """==PROF== Connected to process 7 (/usr/bin/python3.12)
==PROF== Profiling "convfirst_conv": Application replay pass 1
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","CC","dram__bytes_read.sum","dram__bytes_write.sum"
"","","","","","","","byte","byte"
"0","7","python3.12","127.0.0.1","convfirst_conv","1","9.0","1,000","200.5"
"1","7","python3.12","127.0.0.1","convfirst_project(const T *, int)","1","9.0","5","n/a"
"2","7","python3.12","127.0.0.1","convfirst_conv","1","9.0","3,000","100.5"
==PROF== Disconnected from process 7
"""
LONG = """"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","convfirst_conv","Command line profiler metrics","dram__bytes_read.sum","byte","1,000"
"0","convfirst_conv","Command line profiler metrics","dram__bytes_write.sum","byte","200"
"1","convfirst_conv","Command line profiler metrics","dram__bytes_read.sum","byte","3,000"
"""


def test_launches_are_in_order_with_the_counters_that_are_numbers() -> None:
    assert parse(WIDE) == (
        Launch("convfirst_conv", {DRAM[0]: 1000.0, DRAM[1]: 200.5}),
        Launch("convfirst_project", {DRAM[0]: 5.0}),
        Launch("convfirst_conv", {DRAM[0]: 3000.0, DRAM[1]: 100.5}),
    )


def test_a_line_for_each_counter_is_read_alike() -> None:
    launches = Launch("convfirst_conv", {DRAM[0]: 1000.0, DRAM[1]: 200.0}), Launch("convfirst_conv", {DRAM[0]: 3000.0})
    assert parse(LONG) == launches


@pytest.mark.parametrize("output", ["", "==ERROR== The application returned an error code (1).\n", WIDE[:200]])
def test_output_without_rows_holds_no_launches(output: str) -> None:
    assert parse(output) == ()


def test_only_counters_that_ncu_knows_are_asked_for(tmp_path: Path) -> None:
    assert fake_ncu(tmp_path, "").known(DRAM) == DRAM[:1]
    assert Profiler("false", 5.0).known(DRAM) == DRAM


def test_the_command_comes_last_and_nothing_flushes_caches(tmp_path: Path) -> None:
    body = "assert a[-2:] == ['python', 'child'] and a[a.index('--cache-control') + 1] == 'none'"
    assert len(fake_ncu(tmp_path, f"{body}\nlog.write_text({WIDE!r})").run(["python", "child"], DRAM)) == 3


def test_a_counter_that_ncu_refuses_costs_only_itself(tmp_path: Path) -> None:
    refusal = "==ERROR== Failed to find metric dram__other.sum"
    ncu = fake_ncu(tmp_path, f"log.write_text({refusal!r} if 'dram__other.sum' in wanted else {WIDE!r})")
    assert len(ncu.run([], [DRAM[0], "dram__other.sum"])) == 3


def test_a_failing_run_tells_the_end_of_its_output_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CountersError, match=r"counted none and ended with: .*first \| out of memory; run it by hand"):
        fake_ncu(tmp_path, "print('first\\n\\nout of memory')").run([], DRAM)


def test_counters_that_the_driver_keeps_to_root_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(NotPermittedError, match="run as root"):
        fake_ncu(tmp_path, "log.write_text('==ERROR== ERR_NVGPUCTRPERM - no permission')").run([], DRAM)

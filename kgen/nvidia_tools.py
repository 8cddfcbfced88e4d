"""NVIDIA's command-line tools: finding one, and running one to its end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence


def find_tool(name: str) -> str | None:
    """The tool's executable, from the PATH or from the CUDA toolkit's usual folder."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def tool_version(command: str) -> str:
    """The line in which a tool tells its version."""
    told = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    return next((line.strip() for line in told.splitlines() if re.match("version", line, re.I)), told.strip())


def run_to_end(command: Sequence[str], timeout_s: float) -> tuple[int | None, str]:
    """The command's exit code and output; None when it took too long and was ended."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that the tool and the child below it end together
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, f"{output}\nended after {timeout_s:g} s"
    return process.returncode, output

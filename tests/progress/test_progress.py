"""What is said while the work goes on."""

# SPDX-License-Identifier: MIT

import pytest

from ggufmix import progress


def test_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal: a line every few seconds with done, total, speed, time left and tensor;
    a second piece of work starts over. Nothing goes to stdout.
    """
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.shown() as bar:
        for second in range(1, 13):
            clock[0] = float(second)
            bar.step("blk.0.x", second << 20, 20 << 20)
        clock[0] = 100.0
        bar.step("blk.0.y", 1 << 20, 20 << 20)
        clock[0] = 106.0
        bar.step("blk.0.y", 3 << 20, 20 << 20)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "5.00 MiB of 20.00 MiB, 1.00 MiB/s, 15 s left, blk.0.x",
        "10.00 MiB of 20.00 MiB, 1.00 MiB/s, 10 s left, blk.0.x",
        "3.00 MiB of 20.00 MiB, 512.00 KiB/s, 34 s left, blk.0.y",
    ]


def test_slow_work_in_another_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts that take minutes each: what is not done yet is not divided by, and a rate below one
    is no zero.
    """
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.shown("prompts") as bar:
        clock[0] = 60.0
        bar.step("answering", 0, 40)
        clock[0] = 120.0
        bar.step("answering", 3, 40)
    assert capsys.readouterr().err.splitlines() == [
        "3 prompts of 40 prompts, 0.025 prompts/s, 1480 s left, answering"
    ]

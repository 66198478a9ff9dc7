"""`python -m kparallel` is the command line."""

import runpy
import sys

import pytest

import kparallel


def test_it_runs_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kparallel", "--version"])
    with pytest.raises(SystemExit) as ending:
        runpy.run_module("kparallel", run_name="__main__")
    assert ending.value.code == 0 and kparallel.__version__ in capsys.readouterr().out

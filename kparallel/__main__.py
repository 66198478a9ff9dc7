"""`python -m kparallel` is the command `kparallel`."""

from kparallel.launcher.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="kparallel")

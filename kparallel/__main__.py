"""`python -m kparallel` is the command `kparallel`."""

from kparallel.launch.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="kparallel")

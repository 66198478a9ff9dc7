"""What `kparallel test` runs on the workers: training held against one device, and each link measured."""

__all__: list[str] = []

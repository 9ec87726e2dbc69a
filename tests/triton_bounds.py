"""Triton's interpreter with an eye on memory: a kernel that reads or writes outside its tensors fails.

On a GPU such a read mostly goes unnoticed, until the allocation before it happens to be nobody's.
"""

import numpy as np


def check_bounds(monkeypatch) -> None:
    """Have every unmasked address of a load, store or atomic operation checked against the kernel's arguments."""
    from triton.runtime import interpreter

    known: list[tuple[int, int]] = []  # [begin, end) of the arguments' memory
    begin_launch = interpreter.GridExecutor._init_args_hst

    def noted(self, args, kwargs):
        host = begin_launch(self, args, kwargs)
        storages = [arg.untyped_storage() for arg in (*host[0], *host[1].values()) if hasattr(arg, "untyped_storage")]
        known[:] = [(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages]
        return host

    def checked(operation, pointers_at, mask_at):
        def wrapped(self, *args):
            pointers = args[pointers_at]
            size = pointers.get_element_ty().primitive_bitwidth // 8
            begins = pointers.data[args[mask_at].data.astype(bool)].astype(np.int64)
            inside = np.zeros(begins.shape, bool)
            for first, end in known:
                inside |= (begins >= first) & (begins + size <= end)
            assert inside.all(), f"{operation.__name__}: {(~inside).sum()} addresses outside the kernel's tensors"
            return operation(self, *args)

        return wrapped

    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", noted)
    builder = interpreter.InterpreterBuilder
    for name, *places in (("create_masked_load", 0, 1), ("create_masked_store", 0, 2), ("create_atomic_rmw", 1, 3)):
        monkeypatch.setattr(builder, name, checked(getattr(builder, name), *places))

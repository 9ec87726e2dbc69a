"""Devices are chosen, or refused in one line."""

import errno
from types import SimpleNamespace

import pytest
import torch

from lcutils.devices import choose_device, reserved_device
from lcutils.errors import UserError


def test_auto_is_cuda_or_cpu():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with reserved_device("cpu") as device:
        assert device == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "quantum", "cuda:99"])
def test_devices_that_are_not_there(name):
    with pytest.raises(UserError, match=f"device: {name}.*use auto, cuda or cpu") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


def test_a_device_without_fp64_is_refused(monkeypatch):
    def no_fp64(*args, **kwargs):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(torch, "zeros", no_fp64)
    with pytest.raises(UserError, match="no fp64"):
        choose_device("mps")


def test_a_lock_of_another_user_is_one_line(monkeypatch):
    monkeypatch.setattr("lcutils.devices.choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1-2"))

    def refuse(lock, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("lcutils.devices.FileLock.acquire", refuse)
    message = (
        r"lcutils-gpu-1-2-0.lock: cannot be locked \(Permission denied\); ask its owner to delete it, or name a GPU"
    )
    with pytest.raises(UserError, match=message), reserved_device("auto"):
        pass

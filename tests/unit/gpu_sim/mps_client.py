"""A CUDA program for the MPS tests: evaluates one line of standard input after the other and prints each result.

It runs by itself, as `python mps_client.py`; `tests.unit.gpu_sim.mps.Client` is the other end.
"""

import ctypes
import json
import os
import sys

cuda = ctypes.CDLL("libcuda.so.1")
MIB = 2**20


def name(code: int) -> str:
    text = ctypes.c_char_p()
    assert cuda.cuGetErrorName(code, ctypes.byref(text)) == 0, code
    return (text.value or b"").decode()


def init() -> str:
    return name(cuda.cuInit(0))


def become(user: int) -> None:
    """Before CUDA starts; Python itself may lie where only root may read."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def number(call, *arguments, kind=ctypes.c_int):
    """What the function writes through its first argument, or the name of its error."""
    value = kind()
    code = call(ctypes.byref(value), *arguments)
    return value.value if code == 0 else name(code)


def multiprocessors(device: int = 0):
    return number(cuda.cuDeviceGetAttribute, 16, device)


def context(device: int = 0) -> str:
    """Makes the device's primary context current."""
    handle = ctypes.c_void_p()
    code = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(handle), device)
    return name(code or cuda.cuCtxSetCurrent(handle))


def start(device: int = 0) -> str:
    """All that a program does before it can allocate; the first error, or success."""
    result = init()
    return result if result != "CUDA_SUCCESS" else context(device)


def info():
    """Free and total bytes, or the name of the error."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    code = cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    return name(code) if code else [free.value, total.value]


def free() -> int:
    found = info()
    assert isinstance(found, list), found
    return found[0]


def allocate(size: int):
    """An address, or the name of the error."""
    return number(cuda.cuMemAlloc_v2, ctypes.c_size_t(size), kind=ctypes.c_uint64)


def release(address: int) -> str:
    return name(cuda.cuMemFree_v2(ctypes.c_uint64(address)))


def synchronize() -> str:
    return name(cuda.cuCtxSynchronize())


def uuid(device: int) -> str:
    data = (ctypes.c_ubyte * 16)()
    assert cuda.cuDeviceGetUuid_v2(data, device) == 0
    return bytes(data).hex()


def in_fork(call):
    """The result of the call in a process of its own, which starts before CUDA does."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, json.dumps(call()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        result = json.loads(pipe.read())
    os.waitpid(child, 0)
    return result


def in_held_forks(count: int) -> list[str]:
    """The result of cuInit in as many processes, each of which stays until the last has its result."""
    gate, hold = os.pipe()
    results = []
    for _ in range(count):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(hold)
            os.write(writer, init().encode())
            os.close(writer)
            os.read(gate, 1)
            os._exit(0)
        os.close(writer)
        with open(reader) as pipe:
            results.append(pipe.read())
    os.close(hold)
    for _ in range(count):
        os.wait()
    return results


def granted(percentage: str) -> list:
    """Multiprocessors of a new client with this CUDA_MPS_ACTIVE_THREAD_PERCENTAGE: before and with a context."""

    def start_and_look() -> list:
        os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = percentage
        return [init(), multiprocessors(), context(), multiprocessors()]

    return in_fork(start_and_look)


def free_under(limit: str) -> int:
    """What a new client with this CUDA_MPS_PINNED_DEVICE_MEM_LIMIT has free."""

    def start_and_look() -> int:
        os.environ["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = limit
        start()
        return free()

    return in_fork(start_and_look)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(eval(line)), flush=True)

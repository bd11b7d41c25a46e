"""Python code that creates and lists MIG instances of the first GPU, for `Root.nvml`."""

import textwrap

CREATE = textwrap.dedent("""
    d = n.nvmlDeviceGetHandleByIndex(0)
    def code(call, *arguments):
        try:
            call(*arguments)
            return 0
        except n.NVMLError as error:
            return error.value
    def placements(profile_id):
        count = n.c_uint()
        n.nvmlDeviceGetGpuInstancePossiblePlacements(d, profile_id, None, n.byref(count))
        found = (n.c_nvmlGpuInstancePlacement_t * count.value)()
        n.nvmlDeviceGetGpuInstancePossiblePlacements(d, profile_id, found, n.byref(count))
        return found
    def create(index, start=None, compute=None):
        profile = n.nvmlDeviceGetGpuInstanceProfileInfo(d, index)
        if start is None:
            gi = n.nvmlDeviceCreateGpuInstance(d, profile.id)
        else:
            placement = n.c_nvmlGpuInstancePlacement_t(start, placements(profile.id)[0].size)
            gi = n.nvmlDeviceCreateGpuInstanceWithPlacement(d, profile.id, n.byref(placement))
        if compute is None:
            return gi, None
        info = n.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, compute, 0)
        return gi, n.nvmlGpuInstanceCreateComputeInstance(gi, info.id)
    def migs():
        found = []
        for i in range(n.nvmlDeviceGetMaxMigDeviceCount(d)):
            if code(n.nvmlDeviceGetMigDeviceHandleByIndex, d, i) == 0:
                m = n.nvmlDeviceGetMigDeviceHandleByIndex(d, i)
                a = n.nvmlDeviceGetAttributes(m)
                found.append([n.nvmlDeviceGetName(m), n.nvmlDeviceGetUUID(m), a.multiprocessorCount, a.memorySizeMB])
        return found
""")

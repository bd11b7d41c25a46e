# Read by the shell that starts NVIDIA's kubelet plugin (BASH_ENV), before the plugin: lays what NVIDIA's kernel module
# would show over the container's own /proc and /sys. The mounts stay in the container's mount namespace.
# The shell reads this for itself only.
unset BASH_ENV

sim=/driver-root/sim
pci="$sim/sys/bus/pci/devices"
# Drivers from 0.5.0 on read PCIe root and NUMA node below this folder instead of /sys. The mounts below are for older
# ones, which find no NUMA node: the links there lead into /sys/devices, which cannot be covered.
export NVIDIA_DRA_SYSFS_ROOT="$sim/sys"
# /proc/driver is there on every kernel; /sys/bus/pci/devices is missing on machines without a PCI bus.
mount --bind "$sim/proc-driver" /proc/driver || echo "gpu-sim: no MIG capabilities: cannot mount over /proc/driver" >&2
if [ -d /sys/bus/pci/devices ]; then
  mount --bind "$pci" /sys/bus/pci/devices || echo "gpu-sim: no pcieRoot: cannot mount over /sys/bus/pci/devices" >&2
else
  mount -t tmpfs -o mode=755 tmpfs /sys/bus && mkdir -p /sys/bus/pci/devices && mount --bind "$pci" /sys/bus/pci/devices ||
    echo "gpu-sim: no pcieRoot: this machine has no PCI bus and /sys/bus cannot be covered" >&2
fi
export ALT_PROC_DEVICES_PATH="$sim/proc-devices"

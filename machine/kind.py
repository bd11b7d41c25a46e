"""Creates and deletes a Kind cluster, and nothing that it did not create.

A cluster's containers hang on a Docker network of its own, which bears this checkout's mark. That
tells, even after an interrupted run, whose cluster it is: what has the mark may be made anew, and
anything else with the name is refused.

Environment: CLUSTER_NAME; CLUSTER_FOLDER, where its configuration, kubeconfig and diagnostics go;
CLUSTER_INCARNATION, a number that grows each time the cluster is made anew; CLUSTER_TIMEOUT in seconds;
CLUSTER_HIDDEN_DEVICES, a JSON list of the host's device files that no node may have, if there are any.
`create` reads kind's configuration from standard input and writes the kubeconfig to standard output.
"""

import hashlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OWNER_LABEL = "dra-workshop.owner"
MTU_OPTION = "com.docker.network.driver.mtu"
IPV6_ATTEMPTS = 5
# In a node. Before each start of containerd, so also after a restart of the node, for which Docker makes all device
# files anew. The second command keeps NVIDIA's programs from making them anew: they do unless the kernel module's
# parameters say otherwise. NVIDIA's chart has the same for its plugin (maskNvidiaDriverParams).
HIDING_SCRIPT = "/usr/local/bin/hide-devices"
HIDING_UNIT = "/etc/systemd/system/containerd.service.d/50-hide-devices.conf"
HIDING = """#!/bin/sh
set -eu
# A privileged container may be given the host's own /dev, and what is there is the host's.
grep -q '^tmpfs /dev ' /proc/self/mounts || {{ echo "/dev is not of this node's own" >&2; exit 1; }}
rm -f {devices}
if grep -q '^ModifyDeviceFiles: 1$' /proc/driver/nvidia/params; then
  sed 's/^ModifyDeviceFiles: 1$/ModifyDeviceFiles: 0/' /proc/driver/nvidia/params >/run/nvidia-params
  mount --bind /run/nvidia-params /proc/driver/nvidia/params
fi
"""
# In a node. /run is a fresh tmpfs after a restart of its container, while the boot id stays the same: the kubelet does
# not prepare a claim again, so the CDI files that its containers name have to be there still. The drop-in is a file of
# the node's own disk, and runs before containerd starts any of them. Node images that set-up made do it by themselves.
KEEPING_SCRIPT = "/usr/local/bin/keep-cdi"
KEEPING_UNIT = "/etc/systemd/system/containerd.service.d/40-keep-cdi.conf"
KEEPING = """#!/bin/sh
set -eu
grep -q ' /run/cdi ' /proc/self/mountinfo && exit 0
mkdir -p /var/lib/cdi /run/cdi
mount --bind /var/lib/cdi /run/cdi
"""
INSTALL_KEEPING = f"""set -eu
mkdir -p {Path(KEEPING_UNIT).parent}
cat >{KEEPING_SCRIPT}
chmod 0755 {KEEPING_SCRIPT}
printf '[Service]\\nExecStartPre={KEEPING_SCRIPT}\\n' >{KEEPING_UNIT}
systemctl daemon-reload
{KEEPING_SCRIPT}
"""
INSTALL_HIDING = f"""set -eu
mkdir -p {Path(HIDING_UNIT).parent}
cat >{HIDING_SCRIPT}
chmod 0755 {HIDING_SCRIPT}
printf '[Service]\\nExecStartPre={HIDING_SCRIPT}\\n' >{HIDING_UNIT}
systemctl daemon-reload
{HIDING_SCRIPT}
"""


class Refused(Exception):
    """The cluster is not this checkout's, so it is left alone."""


def incarnation(folder: Path, cluster_name: str) -> str:
    """The number of the cluster that the stack is to have; one more than the last if that one is gone."""
    try:
        last = int((folder / "incarnation").read_text())
    except FileNotFoundError:
        return "1"
    return str(last if node_containers(cluster_name) else last + 1)


def node_containers(cluster_name: str) -> list[str]:
    """The cluster's containers, running or not."""
    label = f"label=io.x-k8s.kind.cluster={cluster_name}"
    return _output("docker", "ps", "--all", "--filter", label, "--format", "{{.Names}}").split()


def stopped_containers(cluster_name: str) -> list[str]:
    """Those of the cluster's containers that do not run."""
    filters = (f"label=io.x-k8s.kind.cluster={cluster_name}", "status=exited")
    options = [word for value in filters for word in ("--filter", value)]
    return _output("docker", "ps", "--all", *options, "--format", "{{.Names}}").split()


def ipv6_subnet(network: str, attempt: int) -> str:
    """Subnet of 64 bits from fc00::/8, the range for local networks, that a network's name and a number choose."""
    digest = hashlib.sha256(f"{network} {attempt}".encode()).digest()
    return str(ipaddress.IPv6Network((b"\xfc\x00" + digest[:6] + bytes(8), 64)))


def _output(*argv: str) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


@dataclass(frozen=True)
class KindCluster:
    """One cluster, its network and its files."""

    name: str
    folder: Path

    @property
    def network(self) -> str:
        return f"kind-{self.name}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def owner(self) -> str:
        """This checkout's mark: made once, kept beside the stacks' state."""
        mark = self.folder.parent / "owner"
        if not mark.exists():
            mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.write_text(f"{uuid.uuid4()}\n")
        return mark.read_text().strip()

    def found_owner(self) -> str | None:
        """The mark of the network with this cluster's name: None without a network, empty without a mark."""
        networks = _output("docker", "network", "ls", "--format", f'{{{{.Name}}}} {{{{.Label "{OWNER_LABEL}"}}}}')
        marks = dict(line.split(" ", 1) for line in networks.splitlines())
        return marks.get(self.network)

    def strangers(self) -> list[str]:
        """Containers of a cluster with this name that do not hang on its network, so somebody else made them."""
        ours = _output("docker", "ps", "--all", "--filter", f"network={self.network}", "--format", "{{.Names}}").split()
        return [node for node in node_containers(self.name) if node not in ours]

    def create(self, config: str, incarnation: str, timeout: int, hidden: Sequence[str] = ()) -> str:
        """Make it and return its kubeconfig. Whatever was made is taken down again if that fails.

        `hidden` are device files of the host that its nodes are not to have.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clear_the_way()
        file = self.folder / "kind.yaml"
        file.write_text(config)
        try:
            self._create_network()
            subprocess.run(
                [
                    *("kind", "create", "cluster", "--name", self.name, "--config", file),
                    *("--kubeconfig", self.kubeconfig, "--wait", f"{timeout}s", "--retain"),
                ],
                env={**os.environ, "KIND_EXPERIMENTAL_DOCKER_NETWORK": self.network},
                stdout=sys.stderr,
                check=True,
            )
            self._keep_cdi()
            if hidden:
                self._hide(hidden)
        except BaseException as error:
            # Ctrl-C goes to the whole group of processes, and may end the program before it arrives here.
            interrupted = isinstance(error, subprocess.CalledProcessError) and error.returncode == -signal.SIGINT
            try:
                if isinstance(error, subprocess.CalledProcessError) and not interrupted:
                    self._save_diagnostics()
            finally:
                self._take_down()
            if interrupted:
                raise KeyboardInterrupt from error
            raise
        self.kubeconfig.chmod(0o600)
        (self.folder / "incarnation").write_text(incarnation)
        return self.kubeconfig.read_text()

    def _create_network(self) -> None:
        """Make the network as kind makes its own: with the engine's MTU, and with IPv6 where the engine has it.

        Kind itself sets nothing on a network that it finds. Source: kind's pkg/cluster/internal/providers/docker.
        """
        create = ["docker", "network", "create", "--driver=bridge", "--label", f"{OWNER_LABEL}={self.owner}"]
        create += ["--opt", "com.docker.network.bridge.enable_ip_masquerade=true"]
        mtu = _output("docker", "network", "inspect", "bridge", "--format", f'{{{{index .Options "{MTU_OPTION}"}}}}')
        if mtu.strip().isdecimal():
            create += ["--opt", f"{MTU_OPTION}={mtu.strip()}"]
        for attempt in range(IPV6_ATTEMPTS):
            with_ipv6 = [*create, "--ipv6", "--subnet", ipv6_subnet(self.network, attempt), self.network]
            done = subprocess.run(with_ipv6, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            # Another network may have that subnet. Any other error means that the engine has no IPv6, or no network at
            # all, which the next command tells.
            if "overlap" not in done.stderr:
                break
        _output(*create, self.network)

    def _keep_cdi(self) -> None:
        """Let every node keep the CDI files of its claims when its container starts again."""
        for node in node_containers(self.name):
            command = ["docker", "exec", "--interactive", node, "sh", "-c", INSTALL_KEEPING]
            subprocess.run(command, input=KEEPING, text=True, stdout=sys.stderr, check=True)

    def _hide(self, devices: Sequence[str]) -> None:
        """Take device files from every node, now and at each start of it."""
        script = HIDING.format(devices=" ".join(devices))
        for node in node_containers(self.name):
            command = ["docker", "exec", "--interactive", node, "sh", "-c", INSTALL_HIDING]
            subprocess.run(command, input=script, text=True, stdout=sys.stderr, check=True)
            _say(f"cluster {self.name}: {node} has no {', '.join(devices)}")

    def delete(self) -> None:
        """Remove what `create` made; a part that is gone already is no error."""
        owner = self.found_owner()
        if owner not in (None, self.owner):
            raise Refused(f"cluster {self.name}: network {self.network} is not this checkout's; both are left alone")
        if self.strangers():
            _say(f"cluster {self.name}: was deleted, and somebody else made one of that name; that one is left alone")
            self._remove_network()
        else:
            self._take_down()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _clear_the_way(self) -> None:
        owner, nodes, strangers = self.found_owner(), node_containers(self.name), self.strangers()
        if owner == self.owner and not strangers:
            _say(f"cluster {self.name}: an interrupted run left {len(nodes)} nodes and a network; making it anew")
            self._take_down()
        elif strangers or owner is not None:
            what = f"containers {', '.join(strangers)}" if strangers else f"network {self.network}"
            raise Refused(
                f'cluster.name: "{self.name}" is taken by a cluster that this checkout did not create ({what}); '
                f"choose another cluster.name or delete it with `kind delete cluster --name {self.name}`"
            )

    def _take_down(self) -> None:
        if node_containers(self.name):
            command = ["kind", "delete", "cluster", "--name", self.name, "--kubeconfig", str(self.kubeconfig)]
            subprocess.run(command, stdout=sys.stderr, check=True)
        self._remove_network()
        self.kubeconfig.unlink(missing_ok=True)
        (self.folder / "incarnation").unlink(missing_ok=True)

    def _remove_network(self) -> None:
        if self.found_owner() == self.owner:
            subprocess.run(["docker", "network", "rm", self.network], stdout=subprocess.DEVNULL, check=True)

    def _save_diagnostics(self) -> None:
        logs = self.folder / "diagnostics"
        shutil.rmtree(logs, ignore_errors=True)
        done = subprocess.run(["kind", "export", "logs", "--name", self.name, logs], stdout=sys.stderr, check=False)
        if done.returncode == 0:
            _say(f"cluster {self.name}: the nodes' logs are in {logs}")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> int:
    cluster = KindCluster(os.environ["CLUSTER_NAME"], Path(os.environ["CLUSTER_FOLDER"]))
    try:
        match sys.argv[1:]:
            case ["create"]:
                timeout = int(os.environ["CLUSTER_TIMEOUT"])
                hidden = json.loads(os.environ.get("CLUSTER_HIDDEN_DEVICES", "[]"))
                print(cluster.create(sys.stdin.read(), os.environ["CLUSTER_INCARNATION"], timeout, hidden), end="")
            case ["kubeconfig"]:
                print(cluster.kubeconfig.read_text(), end="")
            case ["delete"]:
                cluster.delete()
            case words:
                _say(f"usage: kind_cluster create|kubeconfig|delete, not {' '.join(words)}\n\n{__doc__}")
                return 2
    except Refused as error:
        _say(str(error))
        return 1
    except FileNotFoundError as error:
        _say(f"{error.filename}: is not there; run `make setup`, then `source ./activate`")
        return 1
    except subprocess.CalledProcessError as error:
        _say(f"`{' '.join(str(word) for word in error.cmd[:3])}` ended with {error.returncode}; see above")
        return 1
    except KeyboardInterrupt:
        _say(f"cluster {cluster.name}: interrupted; what was made is taken down, the next run makes it anew")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Command that creates and deletes a Kind cluster, and facts about that cluster for the program and module 00.

A cluster's containers are on a Docker network of the cluster's own, which has the mark of this checkout as a label.
The mark tells whose cluster it is, also after an interrupted run: a cluster with the mark may be created anew, any
other one of that name is left alone.

Pulumi's command provider runs the command, with an action and environment variables; `python -m machine.kind --help`
describes them.
"""

import argparse
import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from machine import children, docker_engine
from machine.docker_engine import image_label
from toolchain.versions import FILLED_WITH

ACTIONS = {
    "create": "create the cluster; reads kind's configuration from standard input, and writes the kubeconfig",
    "kubeconfig": "write the kubeconfig of the cluster that was created",
    "delete": "delete the cluster, its network and its folder; what does not exist is no error",
}
# Each action needs the first two, `create` the next two as well.
VARIABLES = {
    "CLUSTER_NAME": "name of the cluster",
    "CLUSTER_FOLDER": "folder for its configuration, kubeconfig and diagnostics",
    "CLUSTER_INCARNATION": "for create: number that grows each time the cluster is created anew",
    "CLUSTER_TIMEOUT": "for create: seconds that kind waits for the nodes",
    "CLUSTER_HIDDEN_DEVICES": "for create, optional: JSON list of the host's device files that no node may have",
    "CLUSTER_IMAGES": 'for create, optional: JSON {"nodes": [...], "images": [...]}, to be loaded while kind works; '
    'with "filled": {"A": "B"} nodes of image A take B, if it is there, which has some of the images',
}
OWNER_LABEL = "dra-workshop.owner"
PARENT_SECONDS = 0.5
ENDING_SECONDS = 30  # for processes that an ended kind left, such as a `docker run`
BUSY_SECONDS = 120  # for another run that is still at work on the cluster
MTU_OPTION = "com.docker.network.driver.mtu"
IPV6_ATTEMPTS = 5
# Runs in a node before each start of containerd, so also after a restart of the node, for which Docker makes all device
# files anew. The mount keeps NVIDIA's programs from making them anew, as they do unless the kernel module's parameters
# say otherwise. NVIDIA's chart does the same for its plugin (maskNvidiaDriverParams).
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


class ForeignClusterError(Exception):
    """Error of a cluster that this checkout did not create, so that it is left alone; the text has the remedy."""


class BusyClusterError(Exception):
    """Error of a cluster on which another run is still at work; the text has the remedy."""


def incarnation(folder: Path, cluster_name: str) -> str:
    """Number of times that the stack's cluster was created, counting the next time if it has no containers now.

    `folder` is the stack's folder, in which the command keeps the number.
    """
    try:
        latest = int((folder / "incarnation").read_text())
    except FileNotFoundError:
        return "1"
    return str(latest if node_containers(cluster_name) else latest + 1)


def node_containers(cluster_name: str) -> list[str]:
    """Names of a cluster's containers, running or not. Raises `CalledProcessError` where no Docker Engine answers."""
    label = f"label=io.x-k8s.kind.cluster={cluster_name}"
    return _output("docker", "ps", "--all", "--filter", label, "--format", "{{.Names}}").split()


def stopped_containers(cluster_name: str) -> list[str]:
    """Names of a cluster's containers that do not run. Raises `CalledProcessError` where no Docker Engine answers."""
    filters = (f"label=io.x-k8s.kind.cluster={cluster_name}", "status=exited")
    options = [argument for value in filters for argument in ("--filter", value)]
    return _output("docker", "ps", "--all", *options, "--format", "{{.Names}}").split()


def ipv6_subnet(network: str, attempt: int) -> str:
    """Subnet of 64 bits from fc00::/8, the range for local networks, that a network's name and a number choose."""
    digest = hashlib.sha256(f"{network} {attempt}".encode()).digest()
    return str(ipaddress.IPv6Network((b"\xfc\x00" + digest[:6] + bytes(8), 64)))


def _output(*argv: str) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


@dataclass(frozen=True)
class Creation:
    """Options of a cluster's creation."""

    timeout: int
    """Seconds that kind waits for the nodes."""
    hidden_devices: Sequence[str] = ()
    """Device files of the host that no node may have."""
    images: Sequence[str] = ()
    """References of images of this machine's engine that are loaded while kind works."""
    image_nodes: Sequence[str] = ()
    """Names of the nodes that get them."""
    filled: Mapping[str, str] = field(default_factory=dict)
    """Node image -> the same filled with images, which need not be loaded then."""

    def take_filled(self, config: str) -> tuple[str, "Creation"]:
        """Kind's configuration with filled node images where the engine has them, and what is left to do."""
        options = self
        for plain, filled in self.filled.items():
            held = image_label(filled, FILLED_WITH) if f"image: {plain}\n" in config else None
            if held is not None:
                config = config.replace(f"image: {plain}\n", f"image: {filled}\n")
                options = replace(options, images=[image for image in options.images if image not in held.split()])
        return config, options


@dataclass(frozen=True)
class KindCluster:
    """Kind cluster with its Docker network and its files in a folder; nothing of them has to exist."""

    name: str
    folder: Path

    @property
    def network(self) -> str:
        """Name of the cluster's Docker network."""
        return f"kind-{self.name}"

    @property
    def kubeconfig(self) -> Path:
        """File with the cluster's kubeconfig, which only its owner may read."""
        return self.folder / "kubeconfig"

    @property
    def owner(self) -> str:
        """Mark of this checkout: a UUID, written once beside the folders of the stacks."""
        mark = self.folder.parent / "owner"
        if not mark.exists():
            mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.write_text(f"{uuid.uuid4()}\n")
        return mark.read_text().strip()

    def network_owner(self) -> str | None:
        """Mark of the network with this cluster's name: None without a network, empty without a mark."""
        networks = _output("docker", "network", "ls", "--format", f'{{{{.Name}}}} {{{{.Label "{OWNER_LABEL}"}}}}')
        marks = dict(line.split(" ", 1) for line in networks.splitlines())
        return marks.get(self.network)

    def foreign_containers(self) -> list[str]:
        """Containers of a cluster with this name that are not on its network, so that somebody else created them."""
        options = ("--all", "--filter", f"network={self.network}", "--format", "{{.Names}}")
        on_network = _output("docker", "ps", *options).split()
        return [container for container in node_containers(self.name) if container not in on_network]

    def freed_by(self) -> str:
        """Commands that free a name which somebody else has; kind leaves the network that another checkout made."""
        commands = [f"kind delete cluster --name {self.name}"] if node_containers(self.name) else []
        if self.network_owner() is not None:
            commands.append(f"docker network rm {self.network}")
        return " and ".join(f"`{command}`" for command in commands)

    def create(self, config: str, incarnation: str, options: Creation) -> str:
        """Create the cluster from kind's configuration, and return its kubeconfig. One that fails is taken down.

        Raises `ForeignClusterError`, `BusyClusterError`, and `CalledProcessError` of the command that failed.
        """
        with self._alone() as lock:
            return self._create(config, incarnation, options, lock)

    def _create(self, config: str, incarnation: str, options: Creation, lock: int) -> str:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._free_name()
        config, options = options.take_filled(config)
        file = self.folder / "kind.yaml"
        file.write_text(config)
        try:
            self._create_network()
            with self._images_ahead(options, lock):
                _run_to_the_end(
                    [
                        *("kind", "create", "cluster", "--name", self.name, "--config", str(file)),
                        *("--kubeconfig", str(self.kubeconfig), "--wait", f"{options.timeout}s", "--retain"),
                    ],
                    {**os.environ, "KIND_EXPERIMENTAL_DOCKER_NETWORK": self.network},
                    lock,
                )
                self._keep_cdi()
            if options.hidden_devices:
                self._hide(options.hidden_devices)
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
        (self.folder / docker_engine.ENGINE_FILE).write_text(f"{docker_engine.engine_id()}\n")
        return self.kubeconfig.read_text()

    @contextlib.contextmanager
    def _images_ahead(self, options: Creation, lock: int) -> Iterator[None]:
        """Context in which images are loaded into nodes that are being made, since kubeadm mostly waits.

        Whether it worked is the next step's to see, which loads what a node lacks, and says what is wrong.
        """
        if not (options.images and options.image_nodes):
            yield
            return
        command = [sys.executable, "-m", "machine.node_images", self.name, "--ahead", str(options.timeout)]
        command += ["--nodes", *options.image_nodes, "--images", *options.images]
        quiet = subprocess.DEVNULL
        loading = children.start(command, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=(lock,))
        try:
            yield
        except BaseException:
            loading.terminate()
            raise
        finally:
            loading.wait()

    def _create_network(self) -> None:
        """Make the network as kind makes its own: with the engine's MTU, and with IPv6 where the engine has it.

        Kind itself sets nothing on a network that it finds. Source: kind's pkg/cluster/internal/providers/docker.
        """
        create = ["docker", "network", "create", "--driver=bridge", "--label", f"{OWNER_LABEL}={self.owner}"]
        create += ["--opt", "com.docker.network.bridge.enable_ip_masquerade=true"]
        # An engine may have no default network (`--bridge none`): then there is nothing to take over.
        ask = ["docker", "network", "inspect", "bridge", "--format", f'{{{{index .Options "{MTU_OPTION}"}}}}']
        mtu = subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout.strip()
        if mtu.isdecimal():
            create += ["--opt", f"{MTU_OPTION}={mtu}"]
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
        """Remove device files from every node, now and at each start of the node."""
        script = HIDING.format(devices=" ".join(devices))
        for node in node_containers(self.name):
            command = ["docker", "exec", "--interactive", node, "sh", "-c", INSTALL_HIDING]
            subprocess.run(command, input=script, text=True, stdout=sys.stderr, check=True)
            _report(f"cluster {self.name}: {node} has no {', '.join(devices)}")

    def delete(self) -> None:
        """Remove the cluster, its network and its folder; a part that does not exist is no error.

        Raises `ForeignClusterError`, also where this shell's Docker Engine is not the cluster's, `BusyClusterError`,
        and `CalledProcessError` of the command that failed.
        """
        if problem := docker_engine.engine_problem(self.folder):
            raise ForeignClusterError(f"cluster {self.name}: {problem.observed}; {problem.remedy}")
        with self._alone():
            self._delete()
            self._lock_file.unlink()

    def _delete(self) -> None:
        owner = self.network_owner()
        if owner not in (None, self.owner):
            raise ForeignClusterError(
                f"cluster {self.name}: network {self.network} is not this checkout's; both are left alone"
            )
        if self.foreign_containers():
            _report(
                f"cluster {self.name}: was deleted, and somebody else made one of that name; that one is left alone"
            )
            self._remove_network()
        else:
            self._take_down()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Context in which no other run is at work on this cluster: a locked file's descriptor.

        kind and what it starts inherit the descriptor, so that the lock lasts until the last of them has ended, even
        where this program was killed. Raises `BusyClusterError`.
        """
        self._lock_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline, reported = time.monotonic() + BUSY_SECONDS, False
        while (descriptor := self._try_lock()) is None:
            if not reported:
                _report(f"cluster {self.name}: an earlier run is still at work on it; waiting for its end")
            reported = True
            if time.monotonic() > deadline:
                raise BusyClusterError(
                    f"cluster {self.name}: another run is still at work on it after {BUSY_SECONDS} s; wait for its "
                    f"end, or end the processes that `fuser {self._lock_file}` lists, and run this again"
                )
            time.sleep(0.1)  # between two looks at a condition that is bounded above
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @property
    def _lock_file(self) -> Path:
        return self.folder.parent / f".{self.name}.lock"

    def _try_lock(self) -> int | None:
        """Descriptor of the locked file, or None while another run has it, or has just removed it."""
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), self._lock_file.stat()):
                return descriptor
        os.close(descriptor)
        return None

    def _free_name(self) -> None:
        """Remove what an interrupted creation left. Raises `ForeignClusterError` where somebody else has the name."""
        owner, nodes, foreign = self.network_owner(), node_containers(self.name), self.foreign_containers()
        if owner == self.owner and not foreign:
            _report(f"cluster {self.name}: an interrupted run left {len(nodes)} nodes and a network; making it anew")
            self._take_down()
        elif foreign or owner is not None:
            obstacle = f"containers {', '.join(foreign)}" if foreign else f"network {self.network}"
            raise ForeignClusterError(
                f'cluster.name: "{self.name}" is taken by a cluster that this checkout did not create ({obstacle}); '
                f"choose another cluster.name or delete it with {self.freed_by()}"
            )

    def _take_down(self) -> None:
        if node_containers(self.name):
            command = ["kind", "delete", "cluster", "--name", self.name, "--kubeconfig", str(self.kubeconfig)]
            subprocess.run(command, stdout=sys.stderr, check=True)
        self._remove_network()
        self.kubeconfig.unlink(missing_ok=True)
        (self.folder / "incarnation").unlink(missing_ok=True)
        (self.folder / docker_engine.ENGINE_FILE).unlink(missing_ok=True)

    def _remove_network(self) -> None:
        if self.network_owner() == self.owner:
            subprocess.run(["docker", "network", "rm", self.network], stdout=subprocess.DEVNULL, check=True)

    def _save_diagnostics(self) -> None:
        logs = self.folder / "diagnostics"
        shutil.rmtree(logs, ignore_errors=True)
        done = subprocess.run(["kind", "export", "logs", "--name", self.name, logs], stdout=sys.stderr, check=False)
        if done.returncode == 0:
            _report(f"cluster {self.name}: the nodes' logs are in {logs}")


def _run_to_the_end(argv: Sequence[str], environment: dict[str, str], lock: int) -> None:
    """Run kind, and come back once it and all that it started have ended. Raises `CalledProcessError`.

    kind does not wait for a `docker run` when it is ended, and that one would make a container after the take-down.
    All of them have the writing end of a pipe, whose end is seen when the last has closed it.
    """
    watched, inherited = os.pipe()
    try:
        try:
            process = children.start(argv, env=environment, stdout=sys.stderr, pass_fds=(inherited, lock))
        finally:
            os.close(inherited)
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    finally:
        select.select([watched], [], [], ENDING_SECONDS)
        os.close(watched)
    if status:
        raise subprocess.CalledProcessError(status, argv)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _interrupt_with(parent: int) -> None:
    """Interrupt the program once its parent is another: Pulumi's command provider ends the shell around it and no more.

    The kernel's signal would come with the end of the parent's thread, and that is no end of the parent.
    """
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)  # between two looks, for as long as the run lasts: the thread is a daemon
    if main_thread := threading.main_thread().ident:
        signal.pthread_kill(main_thread, signal.SIGTERM)


def _report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> int:
    """Run the command. Returns its exit code: 0, 1 for a failure, 2 for wrong usage, 130 for an interrupt."""
    parser = _parser()
    action = parser.parse_args().action
    needed = list(VARIABLES)[: 4 if action == "create" else 2]
    if unset := [name for name in needed if not os.environ.get(name)]:
        parser.error(f"environment: {', '.join(unset)} must be set for {action}; --help says to what")
    cluster = KindCluster(os.environ["CLUSTER_NAME"], Path(os.environ["CLUSTER_FOLDER"]))
    try:
        # Whoever ends it wants what Ctrl-C does: what was made is taken down.
        signal.signal(signal.SIGTERM, _interrupt)
        threading.Thread(target=_interrupt_with, args=(os.getppid(),), daemon=True).start()
        match action:
            case "create":
                hidden_devices = _json(parser, "CLUSTER_HIDDEN_DEVICES", '["/dev/nvidia1"]')
                options = Creation(_seconds(parser), hidden_devices or [], **_images(parser))
                incarnation = os.environ["CLUSTER_INCARNATION"]
                print(cluster.create(sys.stdin.read(), incarnation, options), end="")
            case "kubeconfig":
                print(cluster.kubeconfig.read_text(), end="")
            case "delete":
                cluster.delete()
    except (ForeignClusterError, BusyClusterError) as error:
        _report(str(error))
        return 1
    except FileNotFoundError as error:
        remedy = "run `make setup`, then `source ./activate`"
        if error.filename == str(cluster.kubeconfig):
            remedy = f"write it with `kind export kubeconfig --name {cluster.name} --kubeconfig {cluster.kubeconfig}`"
        _report(f"cluster {cluster.name}: {error.filename} is missing; {remedy}")
        return 1
    except subprocess.CalledProcessError as error:
        _report(f"`{' '.join(str(argument) for argument in error.cmd[:3])}` ended with {error.returncode}; see above")
        return 1
    except KeyboardInterrupt:
        _report(f"cluster {cluster.name}: interrupted; what was made is taken down, the next run makes it anew")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    rows = {"actions": ACTIONS, "environment variables": VARIABLES}
    tables = (
        "\n".join([f"{title}:", *(f"  {name:<22}  {text}" for name, text in table.items())])
        for title, table in rows.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m machine.kind",
        description="Create or delete a Kind cluster; one that this checkout did not create is left alone.",
        epilog="\n\n".join(tables),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=ACTIONS, help="see below")
    return parser


def _seconds(parser: argparse.ArgumentParser) -> int:
    text = os.environ["CLUSTER_TIMEOUT"]
    if not text.isdecimal():
        parser.error(f'CLUSTER_TIMEOUT: "{text}" is no whole number of seconds; give one, such as 240')
    return int(text)


def _images(parser: argparse.ArgumentParser) -> dict[str, Any]:
    content = _json(parser, "CLUSTER_IMAGES", '{"nodes": ["a-worker"], "images": ["localhost/a"]}')
    keys = {"images": "images", "image_nodes": "nodes", "filled": "filled"}
    return {option: content[key] for option, key in keys.items() if key in (content or {})}


def _json(parser: argparse.ArgumentParser, name: str, example: str) -> Any:
    """Value of a variable that has JSON of the kind of an example; None where it is not set."""
    text = os.environ.get(name, "")
    try:
        content = json.loads(text or "null")
    except json.JSONDecodeError:
        content = text
    if content is not None and not isinstance(content, type(json.loads(example))):
        parser.error(f'{name}: "{text}" is not the JSON that is needed; write it like {example}')
    return content


if __name__ == "__main__":
    sys.exit(main())

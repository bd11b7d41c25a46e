"""Steps of a node image whose containerd has the workshop's images unpacked, beside the control plane's.

Of a plain node image every node copies its images, unpacks those that it runs, and is given the workshop's: seconds of
a processor that kubeadm waits for. A cluster's creation takes the filled one where set-up made it (machine/kind.py);
the stack knows the plain one only, so a changed image of the workshop makes no cluster anew.
"""

import json
import shutil
import subprocess

from toolchain import versions
from toolchain.images import PREFIX, is_there
from toolchain.paths import IMAGES
from toolchain.steps import Step, Work

NAME = versions.FILLED_NODE
FILL = IMAGES / NAME / "fill"


def step(node: Step, images: tuple[Step, ...]) -> Step:
    """Step of the node image `node`, filled with `images`."""
    return _filled(NAME, _filled("unpacked-node", node, ()), images)


def _filled(name: str, node: Step, images: tuple[Step, ...]) -> Step:
    """Step of a node image with more images. What is in `node` is unpacked as well.

    A changed image of the workshop takes a new layer of these alone, where the control plane's are in one of their own.
    """

    def build(work: Work) -> None:
        refs = [(work.need(image.name) / "ref").read_text() for image in images]
        made = f"{PREFIX}/{name}:v{versions.KUBERNETES}-{work.step.key}"
        _fill(work, (work.need(node.name) / "ref").read_text(), refs, made)
        (work.out / "ref").write_text(made)

    return Step(name, build, files=(FILL,), needs=(node, *images), expected_seconds=15, present=is_there)


def _fill(work: Work, node: str, refs: list[str], made: str) -> None:
    """Run `fill` in a container of the image `node` and commit that as `made`."""
    container = f"dra-workshop-{work.step.name}-{work.step.key}"
    _remove(container)  # of a run that was killed
    config = json.loads(work.run("docker", "image", "inspect", "--format", "{{json .Config}}", node))
    try:
        # A volume as a mount is none of the image that comes of it.
        mount, shell = ("--mount", "type=volume,dst=/store"), ("--entrypoint", "/bin/sh")
        work.run("docker", "create", "--name", container, "--privileged", *mount, *shell, node, "/store/fill")
        shutil.copy(FILL, work.scratch / "fill")
        if refs:
            work.run("docker", "save", "-o", work.scratch / "images.tar", *refs)
            tags = "".join(f"{ref} {ref.rpartition(':')[0]}:v1\n" for ref in refs)
            (work.scratch / "tags").write_text(tags)
        for file in ("fill", *(("images.tar", "tags") if refs else ())):
            work.run("docker", "cp", work.scratch / file, f"{container}:/store/{file}")
        work.run("docker", "start", "--attach", container)
        changes = [f"ENTRYPOINT {json.dumps(config['Entrypoint'])}", f"CMD {json.dumps(config.get('Cmd') or [])}"]
        changes += [f'LABEL {versions.FILLED_WITH}="{" ".join(refs)}"'] if refs else []
        words = [word for change in changes for word in ("--change", change)]
        work.run("docker", "commit", *words, container, made)
    finally:
        _remove(container)


def _remove(container: str) -> None:
    """Remove a container and its volume; also while a run is being interrupted, which ends what a step runs."""
    subprocess.run(["docker", "rm", "--force", "--volumes", container], capture_output=True, check=False)

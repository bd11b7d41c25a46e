"""Check that an unpacked bundle is whole and meant for this machine.

Runs before anything is installed, so it imports the standard library only.

    python3 toolchain/bundle/check.py DONE

Compares every file with the manifest and names all that are corrupt or missing. DONE is a file that says when this was
done for which manifest, so that it is done once.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
BUNDLE = "bundle"
MANIFEST = f"{BUNDLE}/manifest.json"
REMEDY = "unpack the bundle again; if its pieces are corrupt, `unpack` names them"


def findings(root: Path) -> list[str]:
    """Messages on everything that is wrong with the bundle that was unpacked in `root`."""
    try:
        manifest = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return [f"{MANIFEST}: cannot be read ({error}); {REMEDY}"]
    machine = platform.machine()
    if manifest["architecture"] != machine:
        return [
            f"architecture: the bundle is for {manifest['architecture']} and this machine is {machine}; "
            f"make one on a machine that is {machine}"
        ]
    return [text for name, wanted in manifest["files"].items() if (text := _finding(root, name, wanted))]


def _finding(root: Path, name: str, wanted: dict) -> str:
    file = root / name
    if not file.is_file():
        return f"{name}: missing; {REMEDY}"
    if (size := file.stat().st_size) != wanted["size"]:
        return f"{name}: corrupt, {size} bytes instead of {wanted['size']}; {REMEDY}"
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != wanted["sha256"]:
        return f"{name}: corrupt, its SHA-256 is {digest} instead of {wanted['sha256']}; {REMEDY}"
    return ""


def main(root: Path, done: Path) -> int:
    """Compare once for each manifest; returns the exit code."""
    manifest = root / MANIFEST
    mark = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else ""
    if mark and done.is_file() and done.read_text() == mark:
        return 0
    print("bundle: comparing its files with the manifest", flush=True)
    if lines := findings(root):
        print("\n".join(f"bundle: {line}" for line in lines), file=sys.stderr)
        return 1
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(mark)
    return 0


if __name__ == "__main__":
    sys.exit(main(CHECKOUT, Path(sys.argv[1])))

#!/usr/bin/env python3
"""Write C stubs for every function of nvml.h that the given object files do not implement.

A stub answers NVML_ERROR_NOT_SUPPORTED, or NVML_ERROR_UNINITIALIZED before nvmlInit, so that a program linked against
any of NVML's functions loads and is told the truth.

usage: generate_stubs.py NVML_H OBJECT...
"""

import re
import subprocess
import sys
from pathlib import Path

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_PROTOTYPE = re.compile(r"\bnvmlReturn_t\s+DECLDIR\s+(nvml\w+)\s*\(([^)]*)\)\s*;")
_ANY_FUNCTION = re.compile(r"\bDECLDIR\s+(?:char\s*\*\s*)?(nvml\w+)\s*\(")


def declared(header: str) -> dict[str, str]:
    """Parameter lists by function name; fails if a declaration is not understood."""
    text = _COMMENT.sub(" ", header)
    prototypes = {name: " ".join(parameters.split()) for name, parameters in _PROTOTYPE.findall(text)}
    missed = set(_ANY_FUNCTION.findall(text)) - set(prototypes) - {"nvmlErrorString"}
    if missed:
        raise SystemExit(f"generate_stubs.py: declarations not understood: {', '.join(sorted(missed))}")
    return prototypes


def implemented(objects: list[str]) -> set[str]:
    symbols = subprocess.run(["nm", "--defined-only", *objects], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r" T (nvml\w+)", symbols))


def main(header: str, *objects: str) -> None:
    prototypes = declared(Path(header).read_text(encoding="utf-8", errors="replace"))
    done = implemented(list(objects))
    print('/* Written by generate_stubs.py. */\n#include "nvml_session.h"\n')
    for name, parameters in sorted(prototypes.items()):
        if name not in done:
            print(f"nvmlReturn_t {name}({parameters})\n{{\n    return session_not_supported();\n}}\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])

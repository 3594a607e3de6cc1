"""Fill an environment with the newest versions that pyproject.toml allows, and say where they differ from the lock's.

.cache/newest/bin/python requirements/newest.py      # by the environment's own Python
"""

import importlib.metadata
import subprocess
import sys

import locks


def main() -> None:
    """Install into the environment whose Python this is, then compare."""
    print("installing the newest versions that pyproject.toml allows …", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--upgrade", "--upgrade-strategy", "eager"]
    extras = ",".join(locks.DEV.extras)
    # The wheel's tests build it without an environment of its own, so what builds it is here, too.
    subprocess.run([*pip, *locks.DEV.asked, "--editable", f"{locks.REPOSITORY}[{extras}]"], check=True)
    locked = locks.versions(locks.TORCH, locks.DEV.file)
    found = {
        distribution.metadata["Name"].lower().replace("_", "-"): distribution.version.partition("+")[0]
        for distribution in importlib.metadata.distributions()
    }
    names = sorted({*locked, *found} - {"fieldtune", "pip"})
    changed = [name for name in names if locked.get(name) != found.get(name)]
    for name in changed:
        print(f"  {name}: {locked.get(name, 'none')} in the lock, {found.get(name, 'none')} here")
    print(f"{len(changed)} of {len(names)} packages differ from the lock", flush=True)


if __name__ == "__main__":
    main()

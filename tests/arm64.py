"""Train a tiny bundle on 64-bit ARM, emulated, and compare with this machine: a Debian root, stock aarch64 wheels.

    python tests/arm64.py --bundles .cache/bundles --cache .cache

``tests/arm64_steps.py BUNDLE EXPECTED.json`` runs a few training steps: where EXPECTED.json does not exist it writes
its losses there, where it does it compares and fails when they differ. It runs here first, then on the emulated board.

Needs debootstrap and qemu-user-static (Debian packages) and a network, but no binfmt and, once the root is made, no
privileges; making the root needs root or fakeroot. FIELDTUNE_APT=1 lets it install the packages when run by root.
Exit codes: 0, 1 the steps failed or differ, 3 it cannot run here (the message says what is missing).
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "demo"))

import environments  # noqa: E402  (a script's folder, put on the path above)
import locks  # noqa: E402  (of the folder that environments puts on the path)

PACKAGES = {"debootstrap": "debootstrap", "qemu-aarch64-static": "qemu-user-static", "dpkg-deb": "dpkg"}
"""Commands needed, and the Debian package of each."""

CANNOT_RUN = 3

# The Kria and Zynq UltraScale+ boards' core: no dot product, no half-precision arithmetic.
CPU = "cortex-a53"
CPUINFO = """processor\t: {index}
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4

"""

WHEEL_PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux2014_aarch64",
)


def missing_commands() -> list[str]:
    """Return what has to be installed first, after trying to when FIELDTUNE_APT=1 allows it."""
    # Debian keeps debootstrap in /usr/sbin, which people's PATH leaves out.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [command for command in PACKAGES if shutil.which(command) is None]
    if missing and os.environ.get("FIELDTUNE_APT") == "1" and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        names = [PACKAGES[command] for command in missing]
        subprocess.run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", *names], check=True)
        missing = [command for command in PACKAGES if shutil.which(command) is None]
    return missing


def make_root(folder: Path) -> Path:
    """Return a Debian 12 arm64 root with Python 3.11, unpacked into ``folder`` unless it is there.

    The packages are unpacked and not configured: neither a chroot nor emulated installation scripts are needed to run
    one Python.
    """
    if folder.is_dir():
        return folder
    print(f"making a Debian arm64 root in {folder} …", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".root-", dir=folder.parent) as temporary:
        downloads, fresh = Path(temporary) / "downloads", Path(temporary) / "root"
        command = ["debootstrap", "--arch=arm64", "--variant=minbase", "--include=python3", "--download-only"]
        fake = [] if os.geteuid() == 0 else ["fakeroot"]
        subprocess.run([*fake, *command, "bookworm", downloads], check=True, stdout=subprocess.DEVNULL)
        for name in ("bin", "sbin", "lib"):  # Debian's merged /usr, which its packages expect to find
            (fresh / "usr" / name).mkdir(parents=True)
            (fresh / name).symlink_to(f"usr/{name}")
        for package in sorted((downloads / "var/cache/apt/archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", package, fresh], check=True)
        describe_cpu(fresh)
        fresh.rename(folder)
    return folder


def describe_cpu(root: Path) -> None:
    """Write the files that tell programs which processor they are on.

    qemu passes this machine's own files through, and ONNX Runtime's processor detection crashes on a /proc/cpuinfo
    of another architecture.
    """
    cores = min(os.cpu_count() or 1, 4)
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text("".join(CPUINFO.format(index=index) for index in range(cores)))
    system = root / "sys/devices/system/cpu"
    system.mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present"):
        (system / name).write_text(f"0-{cores - 1}\n")


def install_wheels(wheel: Path, folder: Path) -> Path:
    """Return a folder with fieldtune, ONNX Runtime and what they need as aarch64 wheels, made again for a new wheel."""
    lock = locks.FOLDER / "device.txt"
    stamp = folder / ".installed"
    identity = "\n".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in (wheel, lock))
    if not (stamp.is_file() and stamp.read_text() == identity):
        print(f"installing {wheel.name} and aarch64 wheels into {folder} …", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        platforms = [f"--platform={name}" for name in WHEEL_PLATFORMS]
        target = [
            "--target",
            str(folder),
            "--python-version=3.11",
            "--implementation=cp",
            "--only-binary=:all:",
            "--no-deps",
            *platforms,
        ]
        pip = [sys.executable, "-m", "pip", "install", "-qq", *target]
        # The lock's hashes are of all files of a version, the aarch64 wheels among them, and Python is the same 3.11.
        subprocess.run([*pip, "--require-hashes", "-r", str(lock)], check=True)
        subprocess.run([*pip, str(wheel)], check=True)
        stamp.write_text(identity)
    return folder


def board(root: Path, packages: Path) -> list[str]:
    """Return the start of a command line that runs Python on the emulated board."""
    environment = ["-E", f"PYTHONPATH={packages}", "-E", "PYTHONDONTWRITEBYTECODE=1"]
    return ["qemu-aarch64-static", "-cpu", CPU, "-L", str(root), *environment, str(root / "usr/bin/python3.11"), "-s"]


def main() -> int:
    """Run the steps here and on the board for every tiny bundle; see the module's text for the exit codes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundles", type=Path, required=True, help="folder of the tiny bundles")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps the root and the wheels")
    arguments = parser.parse_args()
    missing = missing_commands()
    if os.geteuid() != 0 and shutil.which("fakeroot") is None:
        missing.append("fakeroot")
    if platform.system() != "Linux" or missing:
        names = " ".join(PACKAGES.get(command, command) for command in missing)
        print(f"cannot emulate arm64 here, missing: {', '.join(missing) or 'Linux'}; try: apt-get install {names}")
        return CANNOT_RUN
    cache = arguments.cache.resolve() / "arm64"
    packages = install_wheels(environments.build_wheel(arguments.cache), cache / "packages")
    emulated = board(make_root(cache / "root"), packages)
    report = "import onnxruntime, numpy, platform as p; print(p.machine(), onnxruntime.__version__, numpy.__version__)"
    subprocess.run([*emulated, "-c", report], check=True)
    bundles = sorted(arguments.bundles.resolve().glob("tiny-*"))
    if not bundles:
        print(f"no tiny-* bundle in {arguments.bundles}; build them with tests/tiny_bundles.py")
        return 1
    for bundle in bundles:
        expected = cache / f"{bundle.name}.json"
        expected.unlink(missing_ok=True)
        steps = [str(REPOSITORY / "tests/arm64_steps.py"), str(bundle), str(expected)]
        for where, python in (("here", [sys.executable]), (f"on {CPU}", emulated)):
            print(f"{bundle.name}: training {where}", flush=True)
            if subprocess.run([*python, *steps], check=False).returncode != 0:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a machine shows of itself, from folders laid out like real ones."""

import dataclasses
import os

import pytest

from builders import CORTEX_A53, CPU, VITIS, machine, runtime_features
from fieldtune.hardware.machine import MachineFacts, instruction_sets, machine_facts, processor_name, usable_cores


def test_facts_are_read_from_below_the_root(tmp_path):
    root = machine(
        tmp_path, model="ZynqMP ZCU104 RevC", cpu=CORTEX_A53, cores=4, memory_mib=1981, pci=("1022:17F0", "1022:17f0")
    )
    assert machine_facts(
        root, architecture="aarch64", runtime=runtime_features("1.16.0", (VITIS, CPU))
    ) == MachineFacts(
        device_tree="ZynqMP ZCU104 RevC",
        pci_ids=("1022:17f0",),
        architecture="aarch64",
        cpu_model="Cortex-A53",
        cores=4,
        memory_bytes=1981 * 2**20,
        runtime_version="1.16.0",
        providers=(VITIS, CPU),
    )


def test_a_machine_that_shows_nothing_has_empty_facts(tmp_path):
    facts = machine_facts(tmp_path, architecture="AMD64")
    assert dataclasses.replace(facts, cores=None) == MachineFacts(architecture="x86_64")


def test_the_device_tree_is_also_found_in_sys(tmp_path):
    root = machine(tmp_path, model="Raspberry Pi 5 Model B Rev 1.1", at="sys/firmware/devicetree/base/model")
    assert machine_facts(root, architecture="arm64").device_tree == "Raspberry Pi 5 Model B Rev 1.1"


@pytest.mark.parametrize("line", ["flags\t\t: sse2 avx2", "Features\t: sse2 avx2"])
def test_the_processors_instructions_are_sorted(tmp_path, line):
    assert instruction_sets(tmp_path) == ()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\n{line}\nprocessor\t: 1\n{line} avx512f\n")
    assert instruction_sets(tmp_path) == ("avx2", "sse2")


def test_this_machine_has_facts():
    facts = machine_facts()
    assert facts.architecture
    assert facts.cores >= 1


@pytest.mark.parametrize(
    ("cpu", "architecture", "name"),
    [
        (
            "vendor_id\t: AuthenticAMD\nmodel name\t: AMD Ryzen AI 9 HX 370 w/ Radeon 890M\n",
            "x86_64",
            "AMD Ryzen AI 9 HX 370 w/ Radeon 890M (AuthenticAMD, x86_64)",
        ),
        (
            "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)\n",
            "AMD64",
            "Intel(R) Xeon(R) (GenuineIntel, x86_64)",
        ),
        (CORTEX_A53.replace("0xd03", "0xd0b"), "aarch64", "Cortex-A76 (aarch64)"),
        ("", "riscv64", "riscv64"),
    ],
)
def test_a_processor_is_named_as_far_as_the_kernel_names_it(tmp_path, cpu, architecture, name):
    assert processor_name(machine(tmp_path, cpu=cpu), architecture=architecture) == name


def test_a_core_that_arm_did_not_make_has_no_name(tmp_path):
    other = CORTEX_A53.replace("0x41", "0x61")
    assert machine_facts(machine(tmp_path, cpu=other), architecture="aarch64").cpu_model == ""
    unknown = CORTEX_A53.replace("0xd03", "0xfff")
    assert machine_facts(machine(tmp_path, cpu=unknown), architecture="aarch64").cpu_model == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores")
def test_usable_cores_are_those_that_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert usable_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)

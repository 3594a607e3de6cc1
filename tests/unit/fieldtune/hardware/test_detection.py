"""Proposals from folders laid out like real machines.

The texts are what was seen on such machines: models from the device trees in Linux and from boot logs, MIDR 0x410fd034
(Cortex-A53) and 0x410fd083 (Cortex-A72) from boot logs of a ZCU104 and a VCK190, 7954 MB from XRT on a VCK190, 8062 MB
and 7620 MB from a Raspberry Pi 5 and a Jetson Orin Nano, PCI ids from the driver amdxdna and from lspci.
"""

import dataclasses

import pytest

from builders import CORTEX_A53, CPU, VITIS, machine, runtime_features
from fieldtune.hardware import DetectSpec, load_profile, load_profiles
from fieldtune.hardware.detection import propose
from fieldtune.hardware.machine import MachineFacts, machine_facts

PROFILES = load_profiles()
A53 = CORTEX_A53
A72 = A53.replace("0xd03", "0xd08")
A76 = A53.replace("0xd03", "0xd0b")
A78AE = A53.replace("0xd03", "0xd42")
STRIX = "vendor_id\t: AuthenticAMD\nmodel name\t: AMD Ryzen AI 9 HX 370 w/ Radeon 890M\n"


def _proposal(root, architecture="aarch64", runtime=None):
    return propose(machine_facts(root, architecture=architecture, runtime=runtime or runtime_features()), PROFILES)


@pytest.mark.parametrize(
    ("name", "model", "cpu", "cores", "memory_mib"),
    [
        ("kv260", "ZynqMP KV260 revB", A53, 4, 3929),
        ("kr260", "ZynqMP KR260 revB", A53, 4, 3929),
        ("zcu104", "ZynqMP ZCU104 RevC", A53, 4, 1981),
        ("vck190", "Xilinx Versal vck190 Eval board revA (QSPI)", A72, 2, 7954),
        ("vek280", "Xilinx Versal vek280 Eval board revB", A72, 2, 0),
        ("raspberry-pi-5", "Raspberry Pi 5 Model B Rev 1.0", A76, 4, 8062),
        ("jetson-orin-nano", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", A78AE, 6, 7620),
        ("jetson-orin-nano", "NVIDIA Jetson Orin Nano Developer Kit", A78AE, 6, 7620),
    ],
)
def test_a_board_is_known_by_its_device_tree(tmp_path, name, model, cpu, cores, memory_mib):
    root = machine(tmp_path, model=model, cpu=cpu, cores=cores, memory_mib=memory_mib)
    proposal = _proposal(root, runtime=runtime_features(providers=(VITIS, CPU)))
    assert proposal.name == name
    assert repr(model) in proposal.reasons[0]
    assert proposal.warnings == ()
    assert proposal.to_copy == ""


@pytest.mark.parametrize(("name", "pci_id"), [("ryzen-ai-phoenix", "1022:1502"), ("ryzen-ai-strix", "1022:17f0")])
def test_an_npu_is_known_by_its_pci_device(tmp_path, name, pci_id):
    root = machine(tmp_path, cpu=STRIX, cores=24, memory_mib=31000, pci=("1002:150e", "1022:1122", pci_id))
    proposal = _proposal(root, "x86_64", runtime_features(providers=(VITIS, CPU)))
    assert proposal.name == name
    assert proposal.reasons == (f"there is a PCI device {pci_id}, by which {name} is known",)
    assert proposal.warnings == ()


@pytest.mark.parametrize(
    ("providers", "name", "why"),
    [
        ((CPU,), "kr260", "kv260 would fit as well; kr260 was taken because the installed ONNX Runtime has " + CPU),
        ((VITIS,), "kv260", "kr260 would fit as well; kv260 was taken because the installed ONNX Runtime has " + VITIS),
        ((), "kr260", "kv260 would fit as well; kr260 was taken because it needs no accelerator"),
    ],
)
def test_a_module_that_sits_in_two_kits_is_decided_by_what_is_installed(tmp_path, providers, name, why):
    root = machine(tmp_path, model="ZynqMP SMK-K26 Rev1/B/A", memory_mib=3929)
    proposal = _proposal(root, runtime=runtime_features(providers=providers))
    assert proposal.name == name
    assert proposal.reasons[1] == why
    assert [other.name for other in proposal.others] == [{"kr260": "kv260", "kv260": "kr260"}[name]]


def test_an_unknown_board_gets_the_generic_profile_and_one_to_copy(tmp_path):
    root = machine(tmp_path, model="Xilinx Zynq UltraScale+ Ultra96", cpu=A53, memory_mib=1981)
    proposal = _proposal(root)
    assert proposal.name == "cpu-generic"
    assert proposal.reasons == ("no profile is known by the device tree's model, 'Xilinx Zynq UltraScale+ Ultra96'",)
    assert proposal.to_copy == "kr260"
    assert proposal.others == ()


def test_a_machine_that_shows_no_hardware_gets_the_generic_profile(tmp_path):
    proposal = _proposal(tmp_path, "x86_64")
    assert (proposal.name, proposal.to_copy) == ("cpu-generic", "cpu-generic")
    assert "neither a device tree nor PCI devices" in proposal.reasons[0]


def test_an_installed_provider_points_to_profiles_where_the_hardware_cannot_be_seen(tmp_path):
    proposal = _proposal(tmp_path, "AMD64", runtime_features(providers=(VITIS, CPU)))
    assert proposal.name == "cpu-generic"
    assert {other.name for other in proposal.others} == {"ryzen-ai-phoenix", "ryzen-ai-strix"}
    assert all(VITIS in other.reason for other in proposal.others)


def test_a_pci_device_behind_another_processor_is_no_match(tmp_path):
    root = machine(tmp_path, model="Xilinx Versal vek280 Eval board revB", cpu=A72, cores=2, pci=("1022:17f0",))
    proposal = _proposal(root)
    assert proposal.name == "vek280"
    assert proposal.others == ()


def test_warnings_name_what_differs(tmp_path):
    root = machine(tmp_path, model="Raspberry Pi 5 Model B Rev 1.0", cpu=A76, cores=2, memory_mib=4045)
    old, memory, cores = _proposal(root, runtime=runtime_features("1.14.1")).warnings
    assert old == "ONNX Runtime 1.14.1 is installed; raspberry-pi-5 is known to run from 1.16.3 on"
    assert memory.startswith("raspberry-pi-5 states 8.0 GiB of memory, and here are 4.0 GiB: copy the profile")
    assert cores == "raspberry-pi-5 states 4 cores, and here are 2"


def test_a_stock_runtime_on_an_fpga_board_is_warned_about(tmp_path):
    root = machine(tmp_path, model="Xilinx Versal vek280 Eval board revB", cpu=A72, cores=2)
    assert _proposal(root).warnings == (
        f'vek280 runs on {VITIS}, and the installed ONNX Runtime has only {CPU}; on_missing is "error"',
    )


@pytest.mark.parametrize(
    ("version", "warned"), [("1.16.0", False), ("1.16.0.dev1", False), ("1.16", False), ("1.9.0", True), ("2.0", False)]
)
def test_versions_are_compared_as_numbers(tmp_path, version, warned):
    root = machine(tmp_path, model="Xilinx Versal vek280 Eval board revB", cpu=A72, cores=2)
    warnings = _proposal(root, runtime=runtime_features(version, (VITIS, CPU))).warnings
    assert bool(warnings) == warned


def test_a_profile_of_ones_own_with_a_longer_name_of_the_board_wins(tmp_path):
    own = dataclasses.replace(
        load_profile("raspberry-pi-5"), name="my-pi", detect=DetectSpec(device_tree=("raspberry pi 5 model b rev 1.1",))
    )
    facts = machine_facts(machine(tmp_path, model="Raspberry Pi 5 Model B Rev 1.1"), architecture="aarch64")
    proposal = propose(facts, (*PROFILES, own))
    assert proposal.name == "my-pi"
    assert [other.name for other in proposal.others] == ["raspberry-pi-5"]


def test_of_equal_matches_the_first_counts(tmp_path):
    own = dataclasses.replace(load_profile("raspberry-pi-5"), name="my-pi")
    facts = machine_facts(machine(tmp_path, model="Raspberry Pi 5 Model B Rev 1.1"), architecture="aarch64")
    assert propose(facts, (own, *PROFILES)).name == "my-pi"
    assert propose(facts, (*PROFILES, own)).name == "raspberry-pi-5"


def test_the_generic_profile_has_to_be_there():
    with pytest.raises(ValueError, match="cpu-generic is not among the profiles"):
        propose(MachineFacts(), [load_profile("kv260")])

from fieldtune.placement.report import PlacementReport, ProviderShare


def report(**changes):
    values = {
        "profile": "vek280",
        "target": "DPUCV2DX8G_ISA1_C20B14",
        "graph": "prefix_vek280",
        "requested": "VitisAIExecutionProvider",
        "actual": "CPUExecutionProvider",
        "emulated": True,
        "reason": "",
        "batch": 14,
        "shares": (
            ProviderShare(provider="VitisAIExecutionProvider", nodes=90, macs=990),
            ProviderShare(provider="CPUExecutionProvider", nodes=10, macs=10),
        ),
        "partitions": 1,
        "boundary_bytes": 1000,
        "cpu_operators": {"Softmax": 10},
        "cache_identity": "i",
        "estimated_run_s": None,
    }
    return PlacementReport(**{**values, **changes})


def test_an_accelerators_line_says_how_much_it_runs_and_whether_it_is_there():
    line = "prefix_vek280 on DPUCV2DX8G_ISA1_C20B14{}: 99.0% of its multiply-accumulates in {}, 14 samples a run"
    assert str(report()) == line.format(", emulated by CPUExecutionProvider", "1 partition")
    real = report(emulated=False, actual="VitisAIExecutionProvider", partitions=3)
    assert str(real) == line.format("", "3 partitions")


def test_without_an_accelerator_the_provider_is_named():
    alone = (ProviderShare(provider="CPUExecutionProvider", nodes=100, macs=1000),)
    plain = report(target="", graph="prefix", emulated=False, batch=4, shares=alone)
    assert str(plain) == "prefix on CPUExecutionProvider, 4 samples a run"


def test_another_provider_is_named_with_what_it_runs():
    shares = (
        ProviderShare(provider="CUDAExecutionProvider", nodes=90, macs=750),
        ProviderShare(provider="CPUExecutionProvider", nodes=10, macs=250),
    )
    whole = report(
        target="",
        graph="infer",
        emulated=False,
        batch=None,
        shares=shares,
        actual="CUDAExecutionProvider",
        partitions=2,
    )
    assert str(whole) == (
        "infer on CUDAExecutionProvider: 75.0% of its multiply-accumulates in 2 partitions, any number of samples a run"
    )

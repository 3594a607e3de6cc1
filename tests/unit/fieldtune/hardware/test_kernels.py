import pytest

from fieldtune.hardware import CpuSpec, integer_kernels, kernel_advice, load_profiles


@pytest.mark.parametrize(
    ("architecture", "features", "fast", "exact"),
    [
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), True, True),
        ("x86_64", ("avx2", "avx_vnni"), True, True),
        ("x86_64", ("avx2", "fma"), False, False),
        ("x86_64", ("avx2", "avx512f"), False, False),
        ("any", ("avx2",), False, False),
        ("aarch64", ("asimd", "asimddp"), True, True),
        ("aarch64", ("asimd", "i8mm"), True, True),
        ("aarch64", ("asimd",), False, True),
        ("aarch64", (), None, None),
        ("any", (), None, None),
    ],
)
def test_what_a_cpu_does_with_products_of_integers(architecture, features, fast, exact):
    found = integer_kernels(CpuSpec(architecture=architecture, features=features))
    assert (found.fast, found.exact) == (fast, exact)
    assert bool(kernel_advice(found)) == (fast is not True)


def test_only_what_was_measured_has_a_rate():
    rates = {
        features: integer_kernels(CpuSpec(architecture=architecture, features=features)).rate
        for architecture, features in (
            ("x86_64", ("avx512_vnni",)),
            ("x86_64", ("avx2",)),
            ("aarch64", ("asimddp",)),
            ("aarch64", ("asimd",)),
        )
    }
    assert list(rates.values())[2:] == [None, None]
    assert rates["avx512_vnni",] > rates["avx2",] > 1


def test_advice_tells_the_missing_instructions_and_what_that_does():
    assert "neither avx512_vnni nor avx_vnni" in kernel_advice(integer_kernels(CpuSpec(features=("avx2",))))
    assert "saturate" in kernel_advice(integer_kernels(CpuSpec(features=("avx2",))))
    old_arm = kernel_advice(integer_kernels(CpuSpec(architecture="aarch64", features=("asimd",))))
    assert "neither asimddp nor i8mm" in old_arm
    assert "not measured" in old_arm


def test_the_shipped_profiles_say_which_of_them_have_fast_kernels():
    fast = {profile.name: integer_kernels(profile.cpu).fast for profile in load_profiles()}
    assert fast == {
        "cpu-generic": None,
        "jetson-orin-nano": True,
        "kr260": False,
        "kv260": False,
        "raspberry-pi-5": True,
        "ryzen-ai-phoenix": True,
        "ryzen-ai-strix": True,
        "vck190": False,
        "vek280": False,
        "zcu104": False,
    }

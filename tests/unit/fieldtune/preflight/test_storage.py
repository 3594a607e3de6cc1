from fieldtune.hardware import load_profile
from fieldtune.preflight.storage import storage_need
from fieldtune.preflight.workload import workload_of

PI, KV260 = load_profile("raspberry-pi-5"), load_profile("kv260")


def need(bundle, profile, samples=None):
    return storage_need(bundle, workload_of(bundle, profile, "training", batch=1, sequence=0).prefix, samples)


def test_a_bundle_without_a_split_keeps_no_activations(whole):
    bundle = whole(theta=1000)
    found = need(bundle, PI, samples=50)
    on_disk = sum(spec.size_bytes for spec in bundle.manifest.files.values())
    assert found.bundle_bytes == on_disk + (bundle.root / "manifest.json").stat().st_size
    assert found.adapter_bytes - 4000 == found.optimizer_bytes - 12000 == 8000
    assert (found.sample_bytes, found.activation_bytes, found.compiled_bytes) == (0, 0, 0)


def test_activations_are_float32_or_the_codes_of_a_quantized_boundary(split):
    bundle = split(KV260)
    assert need(bundle, PI).sample_bytes == 16 * 64 * 4 + 52
    assert need(bundle, PI).activation_bytes is None
    assert need(bundle, KV260, samples=10).activation_bytes == 10 * need(bundle, KV260).sample_bytes


def test_a_compiled_prefix_is_taken_to_be_as_large_as_the_prefix(split):
    bundle = split(KV260)
    assert need(bundle, PI).compiled_bytes == 0
    assert need(bundle, KV260).compiled_bytes == 5000  # of the .onnx, which is larger than its 2,736 bytes of weights
